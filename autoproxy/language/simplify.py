"""The simpler formula that is measured in place of a proposal.

Unlike the canonical form this may change values by rounding and where a protection bites: it
claims no equality. What comes out is what the search measures, stores and exports.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, reduce

from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import canonical, nonnegative, peel
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import kind_of
from autoproxy.language.primitive import EXPONENT_RANGE
from autoproxy.language.types import Kind

_CACHE = 200_000
_NARROW = frozenset({Kind.SCALAR, Kind.PER_OUTPUT})
"""Kinds whose factors and terms go to the root, where a comparison may not see them."""

_INVERSES = frozenset({("exp", "log"), ("log", "exp"), ("square", "sqrt"), ("sqrt", "square")})
_OPPOSED = frozenset({("pz_exp", "pz_log"), ("pz_log", "pz_exp")})
"""Pruner-Zero's words that undo one another, but for what they add and bound."""

_POWERS = {"sqrt": 0.5, "square": 2.0, "pow": None}

SATURATING = frozenset({"tanh", "sigmoid", "exp", "pz_exp"})
"""Primitives that rise, in floats up to a bound."""

_EVEN_RISING = frozenset({"sqrt", "square", "log", "pow", "pz_log"})
"""Primitives that rise with the magnitude of what they are applied to."""


@lru_cache(maxsize=_CACHE)
def simplify(expression: Expression) -> Expression:
    """Return a formula without operations that undo one another, in a regular spelling.

    Pruner-Zero's opposing-operation simplification, and besides: sums and products are put in
    one order with numbers and row-wise parts last, equal terms cancel, a power of a power is
    one power, magnitudes and powers of products are taken factor by factor. The kind stays.

    >>> from autoproxy.language.parse import parse
    >>> str(simplify(parse("mul(square(sqrt(W)), div(mul(x_norm, y_norm), y_norm))")))
    'mul(abs(W), x_norm)'
    """
    node = expression
    if node.operands:
        node = Expression(node.head, tuple(map(simplify, node.operands)))
    node = canonical(node)
    if node.head == "neg":  # a sign that came out of a product: what is left was never looked at
        inner = simplify(node.operands[0])
        if inner is not node.operands[0]:
            return simplify(Expression("neg", (inner,)))
    for rule in (_cancel, _gather, _spread):
        other = rule(node)
        if other is not None and canonical(other) != node and kind_of(other) is kind_of(node):
            return simplify(other)
    return node


@lru_cache(maxsize=_CACHE)
def simplest(expression: Expression, blindness: Blindness, root: Kind) -> Expression:
    """Return the simplification without a root that the comparison cannot see.

    Args:
        expression: A whole formula, never a part of one.
        blindness: What the comparison cannot see.
        root: Kind that a whole formula has; a root that gives the formula its kind stays.

    >>> from autoproxy.language.parse import parse
    >>> text = "log(mul(W, sub(mul(10, x_norm), 0))) + 3"
    >>> str(simplest(parse(text), Blindness.ROW, Kind.WEIGHT))
    'mul(abs(W), x_norm)'
    """
    node = simplify(expression)
    rest = _without_root(node, blindness)
    if rest is None or kind_of(rest) is not root:
        return node
    return simplest(rest, blindness, root)


def _without_root(node: Expression, blindness: Blindness) -> Expression | None:
    if blindness is Blindness.NOTHING or not node.operands:
        return None
    first = node.operands[0]
    if node.head in SATURATING:
        return first
    if node.head in _EVEN_RISING and (node.head != "pow" or _exponent(node) > 0):
        return Expression("abs", (first,))
    return _with_unit_power(node) or peel(node, blindness)


def _with_unit_power(node: Expression) -> Expression | None:
    """Raise a product of magnitudes to the power that leaves its weight-shaped factor as it is.

    Exponents are kept to three digits after the point. None where that costs a node.
    """
    if node.head not in {"mul", "div"} or not node.operands:
        return None
    factors: list[tuple[Expression, float]] = []
    for parts, sign in zip(_PRODUCT.flatten(node), (1.0, -1.0), strict=True):
        if not all(nonnegative(part) for part in parts):
            return None
        factors += [(base, sign * exponent) for base, exponent in map(_as_power, parts)]
    weighty = [(str(b), e) for b, e in factors if kind_of(b) is Kind.WEIGHT and e > 0]
    unit = min(weighty)[1] if weighty else 1.0
    if unit == 1.0 or any(base.is_constant for base, _ in factors):
        return None
    powers = [(base, round(exponent / unit, 3)) for base, exponent in factors]
    if not all(0 < abs(exponent) <= EXPONENT_RANGE[1] for _, exponent in powers):
        return None
    raised = [Expression("pow", (base, constant(exponent))) for base, exponent in powers]
    product = simplify(reduce(lambda a, b: Expression("mul", (a, b)), raised))
    return product if product.size <= node.size and product != node else None


def _as_power(part: Expression) -> tuple[Expression, float]:
    if part.head == "abs":
        return part.operands[0], 1.0
    if part.head in _POWERS:
        return part.operands[0], _exponent(part)
    return part, 1.0


def _cancel(node: Expression) -> Expression | None:
    """Undo an operation by its inverse, and unite powers."""
    if not node.operands:
        return None
    first = node.operands[0]
    if (node.head, first.head) in _INVERSES:
        inner = first.operands[0]
        return inner if node.head == "log" else Expression("abs", (inner,))
    if (node.head, first.head) in _OPPOSED:
        inner = first.operands[0]
        return inner if node.head == "pz_log" else Expression("abs", (inner,))
    if node.head in _POWERS and first.head in _POWERS:
        return _one_power(node)
    return None


def _one_power(node: Expression) -> Expression | None:
    """Write a power of a power as one, where their exponents multiply to a lawful one."""
    exponent = _exponent(node) * _exponent(node.operands[0])
    if not 0 < abs(exponent) <= EXPONENT_RANGE[1]:
        return None
    return Expression("pow", (node.operands[0].operands[0], constant(exponent)))


def _exponent(node: Expression) -> float:
    known = _POWERS[node.head]
    return known if known is not None else node.operands[1].value or 0.0


def _gather(node: Expression) -> Expression | None:
    """Put a whole sum or product in order: wide parts, narrow parts, then one number."""
    if node.head in {"add", "sub"}:
        return _SUM.gather(node)
    if node.head in {"mul", "div"}:
        return _PRODUCT.gather(node)
    return None


class _Chain:
    """A sum or a product of any length: parts that are put in, and parts that are taken out.

    Args:
        put: `add` or `mul`.
        take: What undoes it.
        neutral: The number that changes nothing.
        unite: What `put` does to two numbers.
        invert: What turns a number taken out into one put in.
    """

    def __init__(
        self,
        put: str,
        take: str,
        neutral: float,
        unite: Callable[[float, float], float],
        invert: Callable[[float], float],
    ) -> None:
        self._put, self._take, self._neutral = put, take, neutral
        self._unite, self._invert = unite, invert

    def gather(self, node: Expression) -> Expression | None:
        """Return the chain in order, or None where its numbers cannot be united."""
        inside, outside = self.flatten(node)
        for part in list(inside):
            if part in outside:
                inside.remove(part)
                outside.remove(part)
        number = self._number(inside, outside)
        if number is None:
            return None
        sorted_out: dict[tuple[str, bool], list[Expression]] = {}
        for head, chosen in ((self._put, inside), (self._take, outside)):
            for part in chosen:
                if not part.is_constant:
                    sorted_out.setdefault((head, _is_narrow(part)), []).append(part)
        parts = {place: self._united(found) for place, found in sorted_out.items()}
        return self._written(parts, number)

    def _united(self, parts: list[Expression]) -> Expression:
        return reduce(lambda a, b: Expression(self._put, (a, b)), sorted(parts, key=str))

    def _written(self, parts: Mapping[tuple[str, bool], Expression], number: float) -> Expression:
        """Return the chain that begins with something put in, wide before narrow."""
        order = [(self._put, False), (self._take, False), (self._put, True), (self._take, True)]
        if (self._put, False) not in parts:
            order = [order[2], order[1], order[3]]
        ordered: Expression | None = None
        for head, narrow in order:
            part = parts.get((head, narrow))
            if part is None:
                continue
            if ordered is None and head == self._take:
                ordered, number = constant(number), self._neutral
            ordered = part if ordered is None else Expression(head, (ordered, part))
        if ordered is None:
            return constant(number)
        return ordered if number == self._neutral else self._with_number(ordered, number)

    def _with_number(self, ordered: Expression, number: float) -> Expression:
        if self._put == "add" and number < 0:
            return Expression("sub", (ordered, constant(-number)))
        return Expression(self._put, (ordered, constant(number)))

    def flatten(self, node: Expression) -> tuple[list[Expression], list[Expression]]:
        """Return what is put in and what is taken out, in no special order."""
        if node.head not in {self._put, self._take}:
            return [node], []
        (inside, outside), (more, less) = map(self.flatten, node.operands)
        if node.head == self._take:
            more, less = less, more
        return inside + more, outside + less

    def _number(self, inside: list[Expression], outside: list[Expression]) -> float | None:
        """Return the one number that all numbers of the chain come to, to six digits."""
        number = self._neutral
        try:
            for part in inside:
                if part.value is not None:
                    number = self._unite(number, part.value)
            for part in outside:
                if part.value is not None:
                    number = self._unite(number, self._invert(part.value))
            number = float(f"{number:.6g}")
            _ = constant(number)
        except (ValueError, ZeroDivisionError):
            return None
        if self._put == "mul" and abs(number) < 1e-30:
            return None
        return number


_SUM = _Chain("add", "sub", 0.0, lambda a, b: a + b, lambda a: -a)
_PRODUCT = _Chain("mul", "div", 1.0, lambda a, b: a * b, lambda a: 1 / a)


def _is_narrow(part: Expression) -> bool:
    return kind_of(part) in _NARROW


def _spread(node: Expression) -> Expression | None:
    """Take magnitudes and powers of products factor by factor, where that costs no node."""
    if node.head not in {"abs", "sqrt", "square", "pow"}:
        return None
    product = node.operands[0]
    if product.head not in {"mul", "div"}:
        return None
    left, right = product.operands
    if node.head == "abs":
        useful = nonnegative(left) or nonnegative(right)
    else:
        useful = left.is_constant or right.is_constant
    if not useful:
        return None
    spread = [Expression(node.head, (part, *node.operands[1:])) for part in (left, right)]
    if not all(_finite(part) for part in spread):
        return None
    return Expression(product.head, tuple(spread))


def _finite(node: Expression) -> bool:
    """Return whether a power of a number can be written as a number."""
    base = node.operands[0].value
    if base is None or node.head == "abs":
        return True
    try:
        return math.isfinite(math.pow(abs(base), _exponent(node))) and base != 0
    except (OverflowError, ValueError):
        return False
