"""Random formulas of every kind, inputs that are hard on them, and their value by recursion."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.variation import sprout
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import TENSOR_KINDS, Kind, shape_of
from autoproxy.seeding import stream
from tests.autoproxy.export.drawn import space_of

HARD = (0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-31, 1e-30, 1e-9, 1.0, -1.0, 3.0, 1e4, -1e6)


@cache
def _grammar(root: Kind) -> Grammar:
    return Grammar(space_of(root))


def drawn(seed: int, root: Kind = Kind.WEIGHT) -> Expression:
    """Return the random expression of `seed`, over all words, not in canonical form."""
    rng = stream(seed, "formulas", root.value)
    low, high = sorted((rng.randint(0, 4), rng.randint(0, 4)))
    return sprout(_grammar(root), rng, low=low, high=high, full=rng.random() < 0.5)


def expressions(*roots: Kind) -> st.SearchStrategy[Expression]:
    """Draw expressions of the given root kinds, or of any."""
    seeds = st.integers(0, 10**9)
    return st.builds(drawn, seeds, st.sampled_from(roots or TENSOR_KINDS))


def hard_inputs(seed: int, rows: int = 3, columns: int = 5) -> dict[str, Tensor]:
    """Return terminals with zeros of both signs, denormals, huge numbers, ties, constant rows."""
    rng = np.random.default_rng(seed)
    made = {}
    for terminal in VOCABULARY.values():
        shape = shape_of(terminal.kind, rows, columns)
        value = np.where(
            rng.random(shape) < 0.4, rng.choice(HARD, shape), rng.standard_normal(shape)
        )
        if rng.random() < 0.3:
            value[-1] = value[-1, 0]
        if terminal.nonnegative:
            value = np.abs(value)
        made[terminal.name] = torch.from_numpy(value.astype(np.float32))
    return made


class Recursion:
    """Values by the plain rule, operands first; every value on the way is kept.

    Args:
        inputs: Terminal name to tensor.
    """

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        self._inputs = inputs
        self._known: dict[Expression, Tensor] = {}
        self._finite: dict[Expression, bool] = {}

    def value(self, expression: Expression) -> Tensor:
        if expression not in self._known:
            self._known[expression] = self._compute(expression)
        return self._known[expression]

    def finite(self, expression: Expression) -> bool:
        """Return whether no value on the way to that of `expression` is infinite or NaN."""
        if expression not in self._finite:
            self._finite[expression] = bool(self.value(expression).isfinite().all()) and all(
                map(self.finite, expression.operands)
            )
        return self._finite[expression]

    def _compute(self, expression: Expression) -> Tensor:
        if expression.value is not None:
            return torch.full((1, 1), expression.value)
        if not expression.operands:
            return self._inputs[expression.head]
        meaning = CATALOG[expression.head].tensor
        if expression.head == "pow":
            return meaning(self.value(expression.operands[0]), expression.operands[1].value)
        return meaning(*map(self.value, expression.operands))
