"""Rules that need the canonical form: opposing operations, and what is known by its text."""

from functools import lru_cache

from autoproxy.language.canonical import canonical, key, order_key
from autoproxy.language.expression import Expression, constant
from autoproxy.language.primitive import EXPONENT_RANGE
from autoproxy.sieve.rules import Context, Cost, Rule

_INVERSES = frozenset({("exp", "log"), ("log", "exp"), ("square", "sqrt"), ("sqrt", "square")})
_POWERS = {"sqrt": 0.5, "square": 2.0, "pow": None}
_UNDOES = {"add": "sub", "sub": "add", "mul": "div", "div": "mul"}


@lru_cache(maxsize=200_000)
def simplify(expression: Expression) -> Expression:
    """Return the canonical form without operations that undo one another.

    Pruner-Zero's opposing-operation simplification. The value may change by rounding (the root
    of a square is no longer rounded twice) and where a protection bites, so this is no
    equality: the simpler formula *replaces* the proposal, and it is what is measured.

    >>> from autoproxy.language.parse import parse
    >>> str(simplify(parse("mul(square(sqrt(W)), div(mul(x_norm, y_norm), y_norm))")))
    'mul(abs(W), x_norm)'
    """
    node = expression
    if node.operands:
        node = Expression(node.head, tuple(map(simplify, node.operands)))
    node = canonical(node)
    shorter = _cancel(node)
    return node if shorter is None else simplify(shorter)


def _cancel(node: Expression) -> Expression | None:
    if not node.operands:
        return None
    first = node.operands[0]
    if (node.head, first.head) in _INVERSES:
        inner = first.operands[0]
        return inner if "log" in (node.head, first.head) else Expression("abs", (inner,))
    if node.head in _POWERS and first.head in _POWERS and "pow" in (node.head, first.head):
        return _one_power(node)
    undone = _UNDOES.get(node.head)
    if undone is None or first.head != undone:
        return None
    return _other(first, node.operands[1], commutes=undone in {"add", "mul"})


def _one_power(node: Expression) -> Expression | None:
    """Write a power of a power as one, where their exponents multiply to a lawful one."""
    exponent = _exponent(node) * _exponent(node.operands[0])
    if not 0 < abs(exponent) <= EXPONENT_RANGE[1]:
        return None
    return Expression("pow", (node.operands[0].operands[0], constant(exponent)))


def _exponent(node: Expression) -> float:
    known = _POWERS[node.head]
    return known if known is not None else node.operands[1].value or 0.0


def _other(pair: Expression, undoing: Expression, *, commutes: bool) -> Expression | None:
    """Return what is left of `pair` after `undoing` takes one of its operands back."""
    left, right = pair.operands
    if right == undoing:
        return left
    if commutes and left == undoing:
        return right
    return None


def _repeat(expression: Expression, slot: int, context: Context) -> str | None:
    first = context.first_slot("key", key(expression), slot)
    return None if first is None else f"the same value as slot {first}"


def _same_ordering(expression: Expression, slot: int, context: Context) -> str | None:
    digest = order_key(expression, context.blindness)
    first = context.first_slot("order", digest, slot)
    return None if first is None else f"by algebra the same order as slot {first}"


ALGEBRA_RULES = (
    Rule("repeat", Cost.ALGEBRA, _repeat),
    Rule("same-algebra", Cost.ALGEBRA, _same_ordering),
)
