"""Tuning the numbers of a formula by what is known of formulas of the same shape."""

import math
import random
import re
from collections.abc import Sequence
from functools import lru_cache

from scipy.interpolate import RBFInterpolator
from scipy.linalg import LinAlgError

from autoproxy.evaluation import Individual, Objective
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import parse
from autoproxy.language.primitive import EXPONENT_RANGE

DRAWS = 32
"""Steps away from the best numbers known, of which the one that is hoped for most is taken."""

LARGEST = 1e30
"""No number is stepped beyond it, since a constant is finite in float32."""

_MARK = re.compile(r"\?\^?")

FIXED_POWERS = {"sqrt": 0.5, "square": 2.0}
"""The exponents of the primitives that are powers, too."""


def stepped_exponent(exponent: float, step: float) -> float:
    """Return an exponent after a step up or down, within its range and of two decimals.

    >>> stepped_exponent(0.5, 0.254), stepped_exponent(3.9, 1.0)
    (0.75, 4.0)
    """
    low, high = EXPONENT_RANGE
    return min(high, max(low, round(exponent + step, 2)))


def stepped_factor(factor: float, step: float) -> float:
    """Return a factor after so many doublings, of two digits, and not beyond `LARGEST`.

    >>> stepped_factor(3.0, 1.0), stepped_factor(-100.0, -0.5), stepped_factor(3e38, 1.0)
    (6.0, -71.0, 1e+30)
    """
    stepped = float(f"{factor * 2**step:.2g}")
    return min(LARGEST, max(-LARGEST, stepped))


@lru_cache(maxsize=10_000)
def shape_of(text: str, *, powers: bool = True) -> tuple[str, tuple[float, ...]]:
    """Return the text of a formula with its numbers left out, and the numbers in order.

    Where there are powers, roots and squares are such, so their exponents are numbers, too.

    >>> shape_of("mul(abs(W), mul(2, sqrt(x_norm)))")
    ('mul(abs(W), mul(?, pow(x_norm, ?^)))', (2.0, 0.5))
    """
    numbers: list[float] = []
    return _shape(parse(text), numbers, powers=powers), tuple(numbers)


def tune(
    parent: Individual,
    known: Sequence[Individual],
    objective: Objective,
    rng: random.Random,
    *,
    powers: bool = True,
) -> Expression | None:
    """Return the shape of `parent` with numbers near the best known: those hoped for most.

    What was measured of formulas of that shape says where to step from the best of them. Nothing
    is kept from one call to the next, so a search that is resumed tunes alike.

    Args:
        parent: Whose numbers are tuned.
        known: Measured formulas; those of another shape do not count.
        objective: What their values mean.
        rng: Where chance comes from.
        powers: Whether the space has any power, so that a root may become another.

    Returns:
        None where it has no numbers.
    """
    shape, numbers = shape_of(parent.text, powers=powers)
    sign = objective.sign
    alike = {i.key: (shape_of(i.text, powers=powers), i.value) for i in (parent, *known)}
    seen = [(found[1], sign * value) for found, value in alike.values() if found[0] == shape]
    if not numbers:
        return None
    best, _ = min(seen, key=lambda pair: pair[1])
    draws = [_steps(shape, best, rng) for _ in range(DRAWS)]
    return _with_numbers(shape, _most_hoped(shape, draws, seen))


def _shape(node: Expression, numbers: list[float], *, powers: bool, mark: str = "?") -> str:
    if node.value is not None:
        numbers.append(node.value)
        return mark
    if not node.operands:
        return node.head
    first = _shape(node.operands[0], numbers, powers=powers)
    if powers and node.head in FIXED_POWERS:
        numbers.append(FIXED_POWERS[node.head])
        return f"pow({first}, ?^)"
    mark = "?^" if node.head == "pow" else "?"
    rest = [_shape(o, numbers, powers=powers, mark=mark) for o in node.operands[1:]]
    return f"{node.head}({', '.join([first, *rest])})"


def _steps(shape: str, numbers: Sequence[float], rng: random.Random) -> list[float]:
    """Return numbers a step away: exponents by about a quarter, factors by about a half."""
    moved = []
    for mark, number in zip(_MARK.findall(shape), numbers, strict=True):
        if mark == "?^":
            moved.append(stepped_exponent(number, rng.gauss(0.0, 0.25)))
        else:
            moved.append(stepped_factor(number, rng.gauss(0.0, 0.5)))
    return moved


def _most_hoped(
    shape: str, draws: Sequence[Sequence[float]], seen: Sequence[tuple[Sequence[float], float]]
) -> Sequence[float]:
    """Return the draw that a cubic spline through what is known predicts to be best.

    The first draw where too little is known for a spline.
    """
    distinct = {tuple(_scaled(shape, numbers)): value for numbers, value in seen}
    if len(distinct) < len(draws[0]) + 2:
        return draws[0]
    try:
        spline = RBFInterpolator(
            list(distinct),
            list(distinct.values()),
            kernel="cubic",
            smoothing=1e-9,
        )
    except (LinAlgError, ValueError):  # all on one line
        return draws[0]
    hoped = spline([_scaled(shape, numbers) for numbers in draws]).tolist()
    return draws[hoped.index(min(hoped))]


def _scaled(shape: str, numbers: Sequence[float]) -> list[float]:
    """Return numbers on a scale where steps are alike: factors by their logarithm."""
    marks = _MARK.findall(shape)
    return [
        n if mark == "?^" else math.copysign(math.log2(1 + abs(n)), n)
        for mark, n in zip(marks, numbers, strict=True)
    ]


def _with_numbers(shape: str, numbers: Sequence[float]) -> Expression:
    """Return the formula of a shape with its numbers."""
    left = iter(numbers)

    def written(mark: re.Match[str]) -> str:
        del mark
        return str(constant(next(left)))

    return parse(_MARK.sub(written, shape))
