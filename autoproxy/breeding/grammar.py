"""A search space as a DEAP primitive set, and expressions as DEAP trees."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from deap import gp

from autoproxy.breeding.constants import FIXED_POWERS
from autoproxy.errors import ConfigError
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import kind_of, of_numbers, operand_kinds
from autoproxy.language.primitive import Primitive
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import FLOWING_KINDS, Kind
from autoproxy.spaces import SearchSpace

Node: TypeAlias = Any
"""A node of a DEAP tree, `gp.Primitive` or `gp.Terminal`; DEAP has no types."""

_LOTS = 72
"""Lottery tickets a primitive of weight 1 has among the primitives of one result kind."""


class _KindType(type):
    """A class for each kind, as DEAP wants types, whose hash is the same in every process.

    DEAP's crossover chooses from a set of types: with the usual hash, an address, its order and
    so the whole search would differ from process to process.
    """

    rank: int

    def __hash__(cls) -> int:
        return cls.rank


def _kind_type(rank: int, kind: Kind) -> _KindType:
    made = _KindType(kind.value, (), {})
    made.rank = rank
    return made


_TYPES = {kind: _kind_type(rank, kind) for rank, kind in enumerate(Kind)}


_BARE = "="
"""In a tree, what a terminal begins with that stands for itself and not for its leaf."""


class Grammar:
    """The words of one space, with one DEAP primitive for each signature of kinds.

    Raises:
        ConfigError: No formula over these words has the space's root kind.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.set = gp.PrimitiveSetTyped(space.name, [], _TYPES[space.root])
        self._overloads: dict[tuple[str, tuple[Kind, ...]], gp.Primitive] = {}
        self._heads: dict[str, str] = {}
        self._leaf_forms = {name: space.leaf(name) for name in space.leaves}
        self._leaf_names = {form: name for name, form in self._leaf_forms.items()}
        for primitive in CATALOG.values():
            self._add(primitive)
        self._weigh_primitives()
        self._add_terminals()
        self._leaves = {number: self._leaves_of(number=number) for number in (False, True)}
        self._steps = self._steps_to_finish()
        self._drop_endless()
        self._terminal_share = {
            number: self._share_of_terminals(leaves) for number, leaves in self._leaves.items()
        }
        self._finishing: dict[tuple[_KindType, int], list[gp.Primitive]] = {}
        self._around: dict[_KindType, list[gp.Primitive]] = {}

    def to_tree(self, expression: Expression) -> gp.PrimitiveTree:
        """Return the DEAP tree of `expression`, which may use any primitive."""
        kind = kind_of(expression)
        if self._predicts and of_numbers(expression):
            kind = Kind.MODEL
        return gp.PrimitiveTree(list(self._nodes(expression, kind)))

    def to_expression(self, tree: gp.PrimitiveTree) -> Expression:
        """Return the expression that a DEAP tree spells."""
        return self._read(iter(tree))

    def generate(
        self, low: int, high: int, kind_type: _KindType, *, full: bool, number: bool | None = None
    ) -> list[Node]:
        """Return the nodes of a random expression, drawn from the global `random`.

        It cannot fail on the types: where a kind has no terminal, the growth goes on by the
        shortest way to one, so the depth may exceed `high` by that much.

        Args:
            low: Least depth, in steps below the root.
            high: Greatest depth, in steps below the root.
            kind_type: Type of the whole, one of this grammar's.
            full: Whether every branch goes down to `high`.
            number: Whether a number alone will do; by default not where networks are compared,
                since a number aggregated over layers only counts them.
        """
        steps = random.randint(low, high)  # noqa: S311 - lent by a named stream
        number = not self._predicts if number is None else number
        return list(self._grow(kind_type, steps, low, full=full, number=number))

    def can_grow(self, kind_type: _KindType) -> bool:
        """Return whether the words of the space make any value of a type.

        A parent may have parts of other types: hand-made metrics use any primitive.
        """
        return kind_type in self._steps

    def around(self, kind_type: _KindType) -> list[gp.Primitive]:
        """Return the tickets of what can stand around a value of a type and gives that type.

        Every other operand has a terminal.
        """
        if kind_type not in self._around:
            self._around[kind_type] = [
                overload
                for overload in self.set.primitives.get(kind_type, ())
                if kind_type in overload.args
                and all(arg is kind_type or self.set.terminals[arg] for arg in overload.args)
            ]
        return self._around[kind_type]

    @property
    def _predicts(self) -> bool:
        return self.space.root is Kind.MODEL

    def type_of(self, kind: Kind) -> _KindType:
        """Return DEAP's type for `kind`."""
        return _TYPES[kind]

    def constant_node(self, value: float, kind_type: _KindType) -> gp.Terminal:
        """Return the DEAP terminal of a number, as a scalar or an exponent."""
        return gp.Terminal(str(constant(value)), True, kind_type)

    def is_power(self, node: Node) -> bool:
        """Return whether a node is a fixed power that `as_power` can write with its exponent."""
        known = isinstance(node, gp.Primitive) and self._heads[node.name] in FIXED_POWERS
        return known and "pow" in self.space.primitives

    def as_power(self, node: gp.Primitive) -> tuple[gp.Primitive, gp.Terminal]:
        """Return `pow` for the operand of a root or square, and the exponent it had."""
        (kind,) = (kind for kind, known in _TYPES.items() if known is node.args[0])
        exponent = FIXED_POWERS[self._heads[node.name]]
        overload = self._overloads["pow", (kind, Kind.EXPONENT)]
        return overload, self.constant_node(exponent, _TYPES[Kind.EXPONENT])

    def _add(self, primitive: Primitive) -> None:
        for operands, result in primitive.signatures:
            name = "_".join([primitive.name, *(kind.value for kind in operands)])
            self._heads[name] = primitive.name
            self.set.addPrimitive(
                primitive.tensor, [_TYPES[k] for k in operands], _TYPES[result], name=name
            )
            self._overloads[primitive.name, operands] = self.set.mapping[name]

    def _weigh_primitives(self) -> None:
        """Repeat each overload so that DEAP's even choice is weighted per primitive.

        All overloads of a primitive that give one kind share its weight; primitives outside
        the space have none, nor have overloads on what flows where no terminal does.
        """
        flowing = {VOCABULARY[name].kind for name in self.space.terminals}
        dry = {_TYPES[kind] for kind in FLOWING_KINDS if kind not in flowing}
        for kind_type, known in self.set.primitives.items():
            overloads = [overload for overload in known if not dry.intersection(overload.args)]
            count: dict[str, int] = defaultdict(int)
            for overload in overloads:
                count[self._heads[overload.name]] += 1
            tickets = []
            for overload in overloads:
                head = self._heads[overload.name]
                weight = self.space.primitives.get(head, 0)
                tickets += [overload] * round(weight * _LOTS / count[head])
            self.set.primitives[kind_type] = tickets

    def _add_terminals(self) -> None:
        for name, weight in self.space.terminals.items():
            terminal_type = _TYPES[VOCABULARY[name].kind]
            self.set.addTerminal(None, terminal_type, name=name)
            tickets = self.set.terminals[terminal_type]
            tickets += [tickets[-1]] * (weight - 1)
        numbers = [(Kind.SCALAR, self.space.constants), (Kind.EXPONENT, self.space.exponents)]
        if self._predicts:
            numbers.append((Kind.MODEL, self.space.constants))
        for kind, values in numbers:
            tickets = self.set.terminals[_TYPES[kind]]
            tickets += [self.constant_node(value, _TYPES[kind]) for value in values]

    def _leaves_of(self, *, number: bool) -> dict[_KindType, list[gp.Terminal]]:
        """Return the tickets of the leaves of each type, numbers among them or not."""
        needed = _TYPES[Kind.EXPONENT]
        return {
            kind_type: [t for t in terminals if number or t.ret is needed or t.value in VOCABULARY]
            for kind_type, terminals in self.set.terminals.items()
        }

    def _steps_to_finish(self) -> dict[_KindType, int]:
        """Return the fewest steps below a node of each type until only terminals are left."""
        leaves = self._leaves[not self._predicts]
        steps = {t: 0 for t, terminals in leaves.items() if terminals}
        for _ in Kind:
            for kind_type, overloads in self.set.primitives.items():
                if kind_type in steps:
                    continue  # found in an earlier round; there are tens of thousands of overloads
                ways = [
                    1 + max(steps[arg] for arg in overload.args)
                    for overload in overloads
                    if all(arg in steps for arg in overload.args)
                ]
                if ways:
                    steps[kind_type] = min(ways)
        return steps

    def _drop_endless(self) -> None:
        """Forget overloads that need a type which no words of this space make."""
        for kind_type, overloads in self.set.primitives.items():
            self.set.primitives[kind_type] = [
                overload for overload in overloads if all(map(self.can_grow, overload.args))
            ]
        if not self.can_grow(_TYPES[self.space.root]):
            raise ConfigError(
                f"space {self.space.name!r}: no formula over its terminals and primitives is of "
                f"its root kind {self.space.root.value}; add a terminal of that kind, or "
                "primitives that lead to it"
            )

    def _grow(
        self, kind_type: _KindType, steps: int, low: int, *, full: bool, number: bool
    ) -> Iterator[Node]:
        leaves = self._leaves[number][kind_type]
        if leaves and self._may_stop(kind_type, steps, low, full=full, number=number):
            yield random.choice(leaves)  # noqa: S311 - lent by a named stream
            return
        overload = random.choice(self._that_finish(kind_type, steps))  # noqa: S311
        yield overload
        for operand_type, may_be in zip(overload.args, self._numbers(overload), strict=True):
            yield from self._grow(operand_type, steps - 1, low - 1, full=full, number=may_be)

    def _numbers(self, overload: gp.Primitive) -> list[bool]:
        """Return which operands may be a number: where networks are compared, one of two."""
        if not self._predicts:
            return [True] * len(overload.args)
        pair = overload.arity == 2 and _TYPES[Kind.EXPONENT] not in overload.args
        chosen = random.randrange(2) if pair else None  # noqa: S311 - lent by a named stream
        return [place == chosen for place in range(overload.arity)]

    def _may_stop(
        self, kind_type: _KindType, steps: int, low: int, *, full: bool, number: bool
    ) -> bool:
        overloads = self.set.primitives.get(kind_type)
        if steps <= 0 or not overloads:
            return True
        if full or low > 0:
            return False
        return random.random() < self._terminal_share[number][kind_type]  # noqa: S311

    def _that_finish(self, kind_type: _KindType, steps: int) -> list[gp.Primitive]:
        """Return the overloads that can end within `steps`, or else the quickest to end."""
        if (kind_type, steps) not in self._finishing:
            ways = [
                (1 + max(self._steps[arg] for arg in overload.args), overload)
                for overload in self.set.primitives[kind_type]
            ]
            limit = max(steps, min(way for way, _ in ways))
            fitting = [overload for way, overload in ways if way <= limit]
            self._finishing[kind_type, steps] = fitting
        return self._finishing[kind_type, steps]

    def _share_of_terminals(
        self, leaves: Mapping[_KindType, Sequence[gp.Terminal]]
    ) -> dict[_KindType, float]:
        """Return the chance that a branch of each type stops where it may (as DEAP's grow)."""
        shares = {}
        for kind_type, terminals in leaves.items():
            overloads = self.set.primitives.get(kind_type, ())
            heads = {self._heads[overload.name] for overload in overloads}
            shares[kind_type] = len(terminals) / max(1, len(terminals) + len(heads))
        return shares

    def _nodes(self, expression: Expression, kind: Kind) -> Iterator[Node]:
        """Yield the nodes of an expression that is of `kind` where it stands."""
        if expression in self._leaf_names:
            yield gp.Terminal(self._leaf_names[expression], True, _TYPES[kind])
            return
        if not expression.operands:
            yield self._leaf(expression, kind)
            return
        kinds = operand_kinds(expression)
        if kind is Kind.MODEL and of_numbers(expression):
            kinds = tuple(Kind.MODEL if k is not Kind.EXPONENT else k for k in kinds)
        yield self._overloads[expression.head, kinds]
        for operand, operand_kind in zip(expression.operands, kinds, strict=True):
            yield from self._nodes(operand, operand_kind)

    def _leaf(self, expression: Expression, kind: Kind) -> Node:
        if expression.value is not None:
            return self.constant_node(expression.value, _TYPES[kind])
        name = expression.head
        if name in self._leaf_forms and self._leaf_forms[name].head != "abs":
            name = _BARE + name
        # A magnitude that stands bare lost its abs where no sign is seen, and may have it back.
        return gp.Terminal(name, True, _TYPES[VOCABULARY[expression.head].kind])

    def _read(self, nodes: Iterator[Node]) -> Expression:
        node = next(nodes)
        if isinstance(node, gp.Primitive):
            operands = tuple(self._read(nodes) for _ in node.args)
            return Expression(self._heads[node.name], operands)
        if node.value in VOCABULARY:
            return self._leaf_forms.get(node.value, Expression(node.value))
        if node.value.startswith(_BARE):
            return Expression(node.value.removeprefix(_BARE))
        return constant(float(node.value))
