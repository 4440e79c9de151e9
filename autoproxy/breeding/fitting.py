"""Fitting the numbers of a prediction, where an evaluator says at no cost how well they fit."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from scipy import optimize

from autoproxy.breeding.constants import FIXED_POWERS, LARGEST
from autoproxy.language.catalog import AGGREGATIONS
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import of_numbers
from autoproxy.language.primitive import EXPONENT_RANGE
from autoproxy.spaces import SearchSpace

LOOSE = 0.5
"""Chance that a formula is loosened before it is fitted, and then that a part of it is."""

TRIALS = 60
"""How often the misfit is asked for each number."""

STEP = 0.5
"""First step away from a number: of an exponent, and of a factor by about a half."""

MOST = 12
"""More numbers are not fitted: labels are few."""

_WORST = 1e9
"""Stands for an infinite misfit: the simplex takes differences."""

_FARTHEST = 80.0
"""Of a coordinate from 0; what lies there is beyond `LARGEST` or as good as 0."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a formula, and how it is moved."""

    value: float
    power: bool

    @property
    def coordinate(self) -> float:
        """Where it is: an exponent as it is, a factor by its own size, so that 0 is no wall."""
        return self.value if self.power else math.asinh(math.copysign(1.0, self.value))

    def at(self, coordinate: float) -> float:
        """Return the number at a coordinate."""
        if self.power:
            low, high = EXPONENT_RANGE
            return min(high, max(low, coordinate))
        factor = (abs(self.value) or 1.0) * math.sinh(min(_FARTHEST, max(-_FARTHEST, coordinate)))
        return min(LARGEST, max(-LARGEST, factor))


def fit(
    parent: Expression,
    misfit: Callable[[Expression], float],
    space: SearchSpace,
    rng: random.Random,
) -> Expression | None:
    """Return a prediction whose numbers fit better than those of `parent`.

    Only numbers above the layers are fitted: exponents and factors of what is known of a whole
    network, which stays as it is meanwhile. Half of the parents are loosened first: a terminal or
    an aggregate gets an exponent, a summand a factor, where there was none. Nelder and Mead's
    simplex (1965), which needs no slopes, looks for the least misfit; numbers have two digits.

    Args:
        parent: Of kind Model.
        misfit: How badly a formula fits, less is better; infinite where it has no scores.
        space: Which primitives there are, and how large a formula may be.
        rng: Where chance comes from.

    Returns:
        None where there is no number to fit, too many, or none that fits better.
    """
    start = _start(parent, space, rng)
    numbers = list(_numbers(start))
    if not 0 < len(numbers) <= MOST or math.isinf(before := misfit(parent)):
        return None

    def loss(point: Sequence[float]) -> float:
        values = (number.at(c) for number, c in zip(numbers, point, strict=True))
        return min(_WORST, misfit(_with_numbers(start, values)))

    here = [number.coordinate for number in numbers]
    corners = [here]
    for place, at in enumerate(here):
        aside = at + STEP * rng.choice((-1, 1))
        corners.append([*here[:place], aside, *here[place + 1 :]])
    found = optimize.minimize(
        loss,
        here,
        method="Nelder-Mead",
        options={
            "initial_simplex": corners,
            "maxfev": TRIALS * len(here),
            "xatol": 1e-3,
            "fatol": 1e-6,
            "adaptive": True,
        },
    )
    rounded = (float(f"{n.at(c):.2g}") for n, c in zip(numbers, found.x, strict=True))
    best = _with_numbers(start, rounded)
    return best if misfit(best) < before else None


def _start(parent: Expression, space: SearchSpace, rng: random.Random) -> Expression:
    """Return the formula whose numbers are fitted."""
    if not {"pow", "mul"} <= space.primitives.keys() or rng.random() >= LOOSE:
        return parent
    loosened = _loosened(parent, rng)
    return parent if space.violation(loosened) else loosened


def _loosened(node: Expression, rng: random.Random) -> Expression:
    """Return a formula with exponents and factors of 1 where it had none, each by chance."""
    if of_numbers(node):
        return node
    if _is_given(node):
        return Expression("pow", (node, constant(1.0))) if rng.random() < LOOSE else node
    if node.head == "pow" or node.head in FIXED_POWERS:
        raised, *exponent = node.operands
        inside = raised if _is_given(raised) else _loosened(raised, rng)
        return Expression(node.head, (inside, *exponent))
    operands = [_loosened(operand, rng) for operand in node.operands]
    if node.head in {"add", "sub"} and rng.random() < LOOSE:
        operands[1] = _weighed(operands[1])
    return Expression(node.head, tuple(operands))


def _is_given(node: Expression) -> bool:
    """Return whether this is a number of a network that fitting leaves as it is."""
    return not node.operands or node.head in AGGREGATIONS


def _weighed(node: Expression) -> Expression:
    """Return a summand times 1, or the summand where it is a number or has one as a factor."""
    has_factor = of_numbers(node) or (node.head == "mul" and any(map(of_numbers, node.operands)))
    return node if has_factor else Expression("mul", (constant(1.0), node))


def _numbers(node: Expression, *, power: bool = False) -> Iterator[Number]:
    """Yield the numbers above the layers, from left to right."""
    if node.value is not None:
        yield Number(node.value, power)
    elif not _is_given(node):
        for place, operand in enumerate(node.operands):
            yield from _numbers(operand, power=node.head == "pow" and place == 1)


def _with_numbers(node: Expression, numbers: Iterator[float]) -> Expression:
    """Return a formula with other numbers, in the order of `_numbers`."""
    if node.value is not None:
        return constant(next(numbers))
    if _is_given(node):
        return node
    return Expression(node.head, tuple([_with_numbers(o, numbers) for o in node.operands]))
