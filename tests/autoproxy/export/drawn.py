"""Random expressions over every word of the language, and inputs to run them on."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.variation import sprout
from autoproxy.language.canonical import canonical
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind, shape_of
from autoproxy.seeding import stream
from autoproxy.spaces import SearchSpace
from search_spaces import importance, structured

VECTORS = {Kind.PER_INPUT, Kind.PER_OUTPUT, Kind.SCALAR}
"""Kinds that exported functions take flat."""

CONSTANTS = (-2.0, -0.5, 1e-5, 0.1, 1.0, 3.0, 1e6)
EXPONENTS = (-1.5, -1.0, -0.3, 0.217, 0.5, 2.0, 3.0)
"""Some have no exact float32, and so another last bit where their short text is taken for them."""


def space_of(root: Kind, primitives: Sequence[str] = tuple(CATALOG)) -> SearchSpace:
    """Return a space of all terminals and the given primitives."""
    return SearchSpace(
        name="everything",
        root=root,
        terminals=dict.fromkeys(VOCABULARY, 1),
        primitives=dict.fromkeys(primitives, 1),
        constants=CONSTANTS,
        exponents=EXPONENTS,
        max_size=60,
        max_depth=12,
    )


def drawn(
    count: int, *, root: Kind = Kind.WEIGHT, primitives: Sequence[str] = tuple(CATALOG)
) -> list[Expression]:
    """Return random canonical expressions that read something, each once, always the same."""
    grammar = Grammar(space_of(root, primitives))
    found: dict[Expression, None] = {}
    number = 0
    while len(found) < count:
        rng = stream(0, "export", root.value, len(primitives), number)
        low, high = sorted((rng.randint(1, 5), rng.randint(1, 5)))
        expression = canonical(sprout(grammar, rng, low=low, high=high, full=rng.random() < 0.5))
        number += 1
        if expression.terminals():
            found[expression] = None
    return list(found)


def baselines() -> dict[str, Expression]:
    """Return every hand-made metric that ships, by name."""
    found = {baseline.name: baseline.expression for baseline in importance.BASELINES}
    for space in (structured.CHANNELS, structured.HEADS, structured.BLOCKS):
        found |= {f"{space.name}-{b.name}": b.expression for b in space.baselines}
    return found


def inputs(rows: int = 5, columns: int = 7, *, seed: int = 0) -> Mapping[str, Tensor]:
    """Return values for every terminal, as the engine takes them: 2-D, by kind.

    Among them are zeros, ones that are equal, tiny and large ones.
    """
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for terminal in VOCABULARY.values():
        shape = shape_of(terminal.kind, rows, columns)
        value = torch.randn(shape, generator=generator)
        value *= 10 ** torch.randint(-3, 3, shape, generator=generator).float()
        value.view(-1)[::6] = 0.0
        value.view(-1)[-1] = value.view(-1)[0]
        made[terminal.name] = value.abs() if terminal.nonnegative else value
    return made


def arguments(expression: Expression, values: Mapping[str, Tensor]) -> list[Tensor]:
    """Return what an exported function takes: in the order of the vocabulary, vectors flat."""
    return [
        values[terminal.name].reshape(-1) if terminal.kind in VECTORS else values[terminal.name]
        for terminal in VOCABULARY.values()
        if terminal.name in expression.terminals()
    ]
