"""All trees over the words of a space: how many there are of each size, and one drawn evenly."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Self

from autoproxy.language.catalog import AGGREGATIONS, CATALOG
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import of_numbers
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from autoproxy.spaces import SearchSpace


@dataclass(frozen=True, slots=True)
class Formation:
    """One way to make a value: a primitive on operands of some kinds."""

    head: str
    operands: tuple[Kind, ...]
    result: Kind


@dataclass(frozen=True)
class Words:
    """Leaves and formations of a space. Sizes are nodes; numbers and exponents are nodes, too.

    The trees are counted by dynamic programming over kinds and sizes, none is made.

    Attributes:
        root: Kind of a whole formula.
        leaves: What is written for terminals, and numbers, by kind; of one node or more.
        formations: Ways to make a value out of others.
    """

    root: Kind
    leaves: Mapping[Kind, tuple[Expression, ...]]
    formations: tuple[Formation, ...]

    @classmethod
    def of(cls, space: SearchSpace) -> Self:
        """Return the words of a space, with its grid of constants and exponents."""
        leaves: dict[Kind, list[Expression]] = {}
        for name in space.terminals:
            leaves.setdefault(VOCABULARY[name].kind, []).append(space.leaf(name))
        numbers = list(dict.fromkeys(map(constant, space.constants)))
        for kind in (Kind.SCALAR, *([Kind.MODEL] if space.root is Kind.MODEL else [])):
            leaves.setdefault(kind, []).extend(numbers)
        leaves[Kind.EXPONENT] = list(dict.fromkeys(map(constant, space.exponents)))
        formations = [
            Formation(name, operands, result)
            for name in space.primitives
            for operands, result in CATALOG[name].signatures
        ]
        return cls(
            space.root, {kind: tuple(made) for kind, made in leaves.items()}, tuple(formations)
        )

    @cached_property
    def _known(self) -> dict[tuple[Kind, int], int]:
        return {}

    @cached_property
    def _making(self) -> dict[Kind, list[Formation]]:
        """The formations of each kind."""
        making: dict[Kind, list[Formation]] = {}
        for formation in self.formations:
            making.setdefault(formation.result, []).append(formation)
        return making

    def count(self, kind: Kind, size: int) -> int:
        """Return how many trees of a kind have so many nodes.

        Where networks are compared, what is made of numbers alone counts as a Model, too.
        """
        if (kind, size) not in self._known:
            made = sum(count for _, _, count in self._ways(kind, size))
            self._known[kind, size] = len(self.leaves_of(kind, size)) + made
        return self._known[kind, size]

    def leaves_of(self, kind: Kind, size: int) -> tuple[Expression, ...]:
        """Return the leaves of a kind that have so many nodes."""
        return tuple(leaf for leaf in self.leaves.get(kind, ()) if leaf.size == size)

    def formulas(self, size: int) -> int:
        """Return how many trees of so many nodes are whole formulas of the space."""
        if self.root is not Kind.MODEL:
            return self.count(self.root, size)
        return self.count(self.root, size) - self._numbers.count(self.root, size)

    @cached_property
    def _numbers(self) -> "Words":
        """The words of numbers alone, which are of kind Scalar and so no predictions."""
        leaves = {
            kind: made
            if kind is Kind.EXPONENT
            else tuple(leaf for leaf in made if leaf.is_constant)
            for kind, made in self.leaves.items()
        }
        formations = tuple(f for f in self.formations if f.head not in AGGREGATIONS)
        return replace(self, leaves=leaves, formations=formations)

    def _ways(self, kind: Kind, size: int) -> Iterator[tuple[Formation, tuple[int, ...], int]]:
        """Yield each formation of a kind with the sizes of its operands, and how many trees."""
        for formation in self._making.get(kind, ()):
            for sizes in splits(size - 1, len(formation.operands)):
                pairs = zip(formation.operands, sizes, strict=True)
                count = prod(self.count(operand, part) for operand, part in pairs)
                if count:
                    yield formation, sizes, count

    def every(self, most: int) -> Iterator[Expression]:
        """Yield every whole formula of at most so many nodes, as trees, the small ones first."""
        for size in range(1, most + 1):
            for tree in self._every(self.root, size):
                if self.root is not Kind.MODEL or not of_numbers(tree):
                    yield tree

    def _every(self, kind: Kind, size: int) -> Iterator[Expression]:
        yield from self.leaves_of(kind, size)
        for formation, sizes, _ in self._ways(kind, size):
            pairs = zip(formation.operands, sizes, strict=True)
            for operands in product(*(tuple(self._every(*pair)) for pair in pairs)):
                yield Expression(formation.head, operands)

    def draw(self, rng: random.Random, most: int) -> Expression:
        """Return a whole formula of at most so many nodes, each of them equally likely.

        Raises:
            ValueError: There is none.
        """
        sizes = range(1, most + 1)
        counts = [self.formulas(size) for size in sizes]
        if not any(counts):
            raise ValueError(f"no formula has at most {most} nodes")
        while True:
            (size,) = rng.choices(sizes, counts)
            tree = self._drawn(rng, self.root, size)
            if self.root is not Kind.MODEL or not of_numbers(tree):
                return tree

    def _drawn(self, rng: random.Random, kind: Kind, size: int) -> Expression:
        leaves, ways = self.leaves_of(kind, size), list(self._ways(kind, size))
        if not ways:
            return rng.choice(leaves)
        counts = [count for _, _, count in ways]
        (way,) = rng.choices([*ways, None], [*counts, len(leaves)])
        if way is None:
            return rng.choice(leaves)
        formation, sizes, _ = way
        pairs = zip(formation.operands, sizes, strict=True)
        return Expression(formation.head, tuple(self._drawn(rng, *pair) for pair in pairs))


def splits(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to give out nodes to operands, at least one to each.

    >>> list(splits(4, 2)), list(splits(1, 2))
    ([(1, 3), (2, 2), (3, 1)], [])
    """
    if parts == 1:
        if total >= 1:
            yield (total,)
        return
    for first in range(1, total - parts + 2):
        yield from ((first, *rest) for rest in splits(total - first, parts - 1))
