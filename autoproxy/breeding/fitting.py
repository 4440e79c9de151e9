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
from autoproxy.language.prediction import aggregates
from autoproxy.language.primitive import EXPONENT_RANGE
from autoproxy.language.terminals import MODEL_TERMINALS
from autoproxy.spaces import SearchSpace

Residuals = Callable[[Expression], Sequence[float] | None]
"""What a formula leaves unexplained; see `autoproxy.evaluation.Fitting`."""

EXTEND = 0.3
"""Chance that a formula is extended before it is fitted."""

LOOSE = 0.5
"""Chance that any other is loosened, and then that a part of it is."""

STARTS = 4
"""How often least squares begin."""

ROUNDS = 20
"""Steps that they take at most, each with a slope along every number."""

DIGITS = 3
"""Of a fitted number."""

MOST = 12
"""More numbers are not fitted: labels are few."""

_WORST = 10.0
"""Stands for what a formula without scores leaves of each label; with scores, all leave 1."""

_MARGIN = 1e-3
"""Least squares begin inside of the ends."""

_FARTHEST = 40.0
"""Of a factor's coordinate from 0: e ** 40 times what it was."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a formula, and how it is moved."""

    value: float
    power: bool

    @property
    def coordinate(self) -> float:
        """Where it is: an exponent as it is, a factor by its own size, so that 0 is no wall."""
        return self.value if self.power else math.asinh(math.copysign(1.0, self.value))

    @property
    def ends(self) -> tuple[float, float]:
        """Between what its coordinate stays."""
        return EXPONENT_RANGE if self.power else (-_FARTHEST, _FARTHEST)

    def at(self, coordinate: float) -> float:
        """Return the number at a coordinate."""
        if self.power:
            return coordinate
        factor = (abs(self.value) or 1.0) * math.sinh(coordinate)
        return min(LARGEST, max(-LARGEST, factor))


def fit(
    parent: Expression, residuals: Residuals, space: SearchSpace, rng: random.Random
) -> Expression | None:
    """Return a prediction whose numbers fit better than those of `parent`.

    Only numbers above the layers are fitted: exponents and factors of what is known of a whole
    network, which stays as it is meanwhile. Some parents are extended first: they get one more
    power of a terminal of whole networks, as a factor or summand, the best of many; where a space
    has no such terminal, of an aggregate that its hand-made metrics have. Others are loosened: a
    terminal or an aggregate gets an exponent, a summand a factor, where there was none. Least
    squares (trust-region reflective, Branch, Coleman and Li 1999, doi:
    10.1137/S1064827595289108) start from the numbers as they are and from some around them; the
    best are kept, with three digits.

    Args:
        parent: Of kind Model.
        residuals: What a formula leaves of the labels; None where it has no scores.
        space: Which primitives there are, and how large a formula may be.
        rng: Where chance comes from.

    Returns:
        None where there is no number to fit, too many, or none that fits better.
    """
    start = _start(parent, residuals, space, rng)
    numbers = list(_numbers(start))
    if not 0 < len(numbers) <= MOST or (left := residuals(parent)) is None:
        return None
    nowhere = [_WORST] * len(left)

    def leaves(point: Sequence[float]) -> Sequence[float]:
        values = (number.at(float(c)) for number, c in zip(numbers, point, strict=True))
        found = residuals(_with_numbers(start, values))
        return nowhere if found is None else found

    solved = [_solve(leaves, numbers, point) for point in _starts(numbers, rng)]
    best = min(solved, key=lambda found: found[0])[1]
    rounded = (float(f"{n.at(c):.{DIGITS}g}") for n, c in zip(numbers, best, strict=True))
    fitted = _with_numbers(start, rounded)
    remains = residuals(fitted)
    return fitted if remains is not None and _squares(remains) < _squares(left) else None


def _squares(left: Sequence[float]) -> float:
    return math.fsum(x * x for x in left)


def _starts(numbers: Sequence[Number], rng: random.Random) -> Iterator[list[float]]:
    """Yield where least squares begin: at the numbers as they are, then around them."""
    here = [number.coordinate for number in numbers]
    yield here
    for _ in range(STARTS - 1):
        yield [at + rng.gauss(0, 1) for at in here]


def _solve(
    leaves: Callable[[Sequence[float]], Sequence[float]],
    numbers: Sequence[Number],
    point: Sequence[float],
) -> tuple[float, Sequence[float]]:
    """Return half of the least sum of squares near a point, and where it is."""
    low, high = zip(*(number.ends for number in numbers), strict=True)
    inside = [
        min(top - _MARGIN, max(end + _MARGIN, at))
        for end, at, top in zip(low, point, high, strict=True)
    ]
    found = optimize.least_squares(
        leaves, inside, bounds=(low, high), diff_step=1e-4, max_nfev=ROUNDS
    )
    return float(found.cost), [float(at) for at in found.x]


def _start(
    parent: Expression, residuals: Residuals, space: SearchSpace, rng: random.Random
) -> Expression:
    """Return the formula whose numbers are fitted."""
    if not {"pow", "mul"} <= space.primitives.keys():
        return parent
    chance = rng.random()
    if chance < EXTEND:
        other = _extended(parent, residuals, space, rng)
    elif chance < EXTEND + (1 - EXTEND) * LOOSE:
        other = _loosened(parent, rng)
    else:
        return parent
    return parent if space.violation(other) else other


def _extended(
    parent: Expression, residuals: Residuals, space: SearchSpace, rng: random.Random
) -> Expression:
    """Return a formula with one more power of what is known of whole networks.

    As in stepwise regression it is what leaves the least, here of half of what is known, so that
    relatives differ. A power that comes by chance hardly ever has a worth before it is fitted.
    """
    known = _known(space)
    if not known:
        return _loosened(parent, rng)
    tried = [
        longer
        for term in rng.sample(known, math.ceil(len(known) / 2))
        for longer in _longer(parent, term, space)
    ]
    left = [residuals(one) for one in tried]
    costs = [math.inf if r is None else _squares(r) for r in left]
    return tried[costs.index(min(costs))]


def _known(space: SearchSpace) -> list[Expression]:
    """Return what is known of whole networks whatever a search has read of their layers.

    Terminals of whole networks; in a space without any the aggregates of hand-made metrics, which
    are read once: those that a search happens to have read would differ when it is resumed.
    """
    terminals = sorted(space.terminals.keys() & MODEL_TERMINALS)
    if terminals:
        return [Expression(name) for name in terminals]
    return list(dict.fromkeys(part for seed in space.seeds for part in aggregates(seed)))


def _longer(parent: Expression, term: Expression, space: SearchSpace) -> Iterator[Expression]:
    """Yield a formula times and plus a power of a term, over all sizes that matter."""
    for exponent in (-1.0, -0.3, -0.1, 0.1, 0.3, 1.0):
        yield Expression("mul", (parent, Expression("pow", (term, constant(exponent)))))
    if "add" in space.primitives:
        for exponent in (-1.0, 1.0):
            power = Expression("pow", (term, constant(exponent)))
            for factor in (sign * 10.0**k for k in range(-9, 10) for sign in (-1, 1)):
                yield Expression("add", (parent, Expression("mul", (constant(factor), power))))


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
