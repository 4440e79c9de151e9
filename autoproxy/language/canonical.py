"""The canonical form: one spelling for expressions whose float32 values are the same bits.

Every rewrite here is exact in float32 for finite values, protections included; textbook identities
that rounding or a protection breaks (exp of log, a + b - b, x / x) are left alone. What a *root*
may drop besides depends on the comparison, see `ordering`.
"""

import hashlib
from collections.abc import Callable, Container
from functools import lru_cache

import torch

from autoproxy.language.blindness import Blindness
from autoproxy.language.catalog import AGGREGATIONS, CATALOG
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import kind_of
from autoproxy.language.terminals import PARTIAL, VOCABULARY
from autoproxy.language.types import Kind

_EVEN = frozenset({"abs", "square", "sqrt", "log", "pow", "pz_log"})
"""Primitives that do not see the sign of their (first) operand."""

_SUMS = frozenset({"add", "sub"})
_PRODUCTS = frozenset({"mul", "div"})
_COMMUTATIVE = frozenset(name for name, primitive in CATALOG.items() if primitive.commutative)

_CACHE = 200_000


def canonical(expression: Expression) -> Expression:
    """Return the one spelling that stands for all expressions of the same value.

    It never grows, and it is its own canonical form.

    >>> from autoproxy.language.parse import parse
    >>> str(canonical(parse("mul(x_norm, abs(neg(W)))")))
    'mul(abs(W), x_norm)'
    """
    known = _KNOWN.get(expression)
    if known is not None or not expression.operands:
        return known or expression
    operands = tuple([canonical(operand) for operand in expression.operands])
    if expression.head in _COMMUTATIVE:
        operands = tuple(sorted(operands, key=str))
    found = _shortest(Expression(expression.head, operands))
    if len(_KNOWN) > _CACHE:
        _KNOWN.clear()
    _KNOWN[expression] = _KNOWN[found] = found
    return found


_KNOWN: dict[Expression, Expression] = {}
"""Canonical forms by expression, their own among them; when there are many, all are forgotten."""


def _shortest(node: Expression) -> Expression:
    """Return the canonical form of a node whose operands are canonical and in order."""
    known = _KNOWN.get(node)
    if known is not None:
        return known
    for rule in _RULES_OF[node.head]:
        shorter = rule(node)
        if shorter is not None:
            return canonical(shorter)
    return node


def key(expression: Expression) -> str:
    """Return the content hash (32 hex digits) of the canonical form.

    The same on every machine and in every run.
    """
    return hashlib.sha256(str(canonical(expression)).encode()).hexdigest()[:32]


@lru_cache(maxsize=_CACHE)
def nonnegative(expression: Expression) -> bool:
    """Return whether no value of `expression` can be below zero; False when not known."""
    if expression.value is not None:
        return expression.value >= 0
    if not expression.operands:
        return VOCABULARY[expression.head].nonnegative
    claim = CATALOG[expression.head].nonnegative
    if claim == "operands":
        return all(nonnegative(operand) for operand in expression.operands)
    return claim == "always"


def ordering(expression: Expression, blindness: Blindness) -> Expression:
    """Return what is left of the canonical form when its root drops all that keeps orders.

    Two whole formulas with one ordering give the same masks, but for what floats round to ties (a
    huge number added) or to zero. Never use it on a part of a formula:
    A and A squared order alike, A + s and A squared + s do not.

    >>> from autoproxy.language.parse import parse
    >>> text = "mul(row_mean(abs(W)), square(mul(abs(W), x_norm)))"
    >>> str(ordering(parse(text), Blindness.ROW)), str(ordering(parse(text), Blindness.MATRIX))
    ('mul(abs(W), x_norm)', 'mul(row_mean(abs(W)), square(mul(abs(W), x_norm)))')
    """
    node = canonical(expression)
    while (rest := peel(node, blindness)) is not None:
        node = rest
    return node


def peel(expression: Expression, blindness: Blindness) -> Expression | None:
    """Return a canonical expression without a root that cannot change its order, or None."""
    if blindness is Blindness.NOTHING:
        return None
    rest = _peel(expression, _BLIND_KINDS[blindness])
    return None if rest is None else canonical(rest)


def order_key(expression: Expression, blindness: Blindness) -> str:
    """Return the content hash (32 hex digits) of `ordering`."""
    return hashlib.sha256(str(ordering(expression, blindness)).encode()).hexdigest()[:32]


_BLIND_KINDS: dict[Blindness, frozenset[Kind]] = {
    Blindness.ROW: frozenset({Kind.PER_OUTPUT, Kind.SCALAR}),
    Blindness.MATRIX: frozenset({Kind.SCALAR}),
    Blindness.WHOLE: frozenset(),
}

_ROW_AFFINE = frozenset({"row_minmax", "row_zscore"})
_MATRIX_AFFINE = frozenset({"minmax", "zscore", "pz_zsn"})


def _peel(node: Expression, blind: frozenset[Kind]) -> Expression | None:
    """Return `node` without a root that cannot change the order, or None."""
    if not node.operands:
        return None
    first = node.operands[0]
    rises = CATALOG[node.head].increasing == "nonnegative"
    if rises or (node.head == "pow" and (node.operands[1].value or 0) > 0):
        if nonnegative(first):
            return first
        if node.head != "abs":  # the canonical form dropped the abs that these do not need
            return Expression("abs", (first,))
    if node.head in _MATRIX_AFFINE and Kind.SCALAR in blind and kind_of(first) is Kind.WEIGHT:
        return first
    if node.head in _ROW_AFFINE and Kind.PER_OUTPUT in blind:
        return first
    return _peel_operand(node, blind)


def _peel_operand(node: Expression, blind: frozenset[Kind]) -> Expression | None:
    """Return the operand that decides the order of a sum, product or quotient, or None."""
    if node.head == "pz_div" and Kind.SCALAR in blind:  # by a norm, which is one number
        dividend = node.operands[0]
        return dividend if kind_of(dividend) is kind_of(node) else None
    if node.head not in {"add", "sub", "mul", "div"}:
        return None
    left, right = node.operands
    if kind_of(node) is Kind.MODEL:  # one number a network: only numbers are the same for all
        blind = frozenset({Kind.SCALAR})
    blind_left, blind_right = kind_of(left) in blind, kind_of(right) in blind
    if blind_left == blind_right:
        return None
    if blind_right and (node.head in {"add", "sub"} or _positive(right)):
        return left
    if blind_left and (node.head == "add" or (node.head == "mul" and _positive(left))):
        return right
    return None


_LIVING = frozenset(
    f"{prefix}_{word}"
    for prefix in ("row", "col", "all")
    for word in ("sum", "mean", "max", "norm")
)
_KEEPS_POSITIVE = frozenset({"mul", "div", "minimum", "abs", "square", "sqrt"})


def _positive(expression: Expression) -> bool:
    """Return whether a factor is above zero on every layer that is alive.

    A minimum or a variance may well be zero on a living layer, a sum or norm of what is never
    negative only on one that is zero altogether, where all importances tie anyway.
    """
    if expression.value is not None:
        return expression.value > 0
    if expression.head == "y_norm":
        return True
    if expression.head in {"exp", "sigmoid"}:  # of what is far below zero they are zero in floats
        return nonnegative(expression.operands[0])
    if expression.head in _LIVING:
        first = expression.operands[0]
        return nonnegative(first) or (expression.head.endswith("norm") and not first.operands)
    if expression.head == "pow":
        return _positive(expression.operands[0])
    if expression.head in {"add", "maximum"}:  # such as a deviation plus 1e-5
        return any(map(_positive, expression.operands)) and all(
            map(nonnegative, expression.operands)
        )
    return expression.head in _KEEPS_POSITIVE and all(map(_positive, expression.operands))


def _fold(node: Expression) -> Expression | None:
    """Compute a node of constants alone, in float32 as at run time."""
    if any(operand.value is None for operand in node.operands):
        return None
    primitive = CATALOG[node.head]
    takes = primitive.signatures[0][0]
    operands = [
        operand.value
        if wanted is Kind.EXPONENT
        else torch.tensor([[operand.value]], dtype=torch.float32)
        for operand, wanted in zip(node.operands, takes, strict=True)
    ]
    value = float(primitive.tensor(*operands))
    return constant(value) if value - value == 0 else None


def _drop_neutral(node: Expression) -> Expression | None:
    """Drop + 0, - 0, * 1, / 1."""
    left, right = node.operands
    neutral = 0.0 if node.head in _SUMS else 1.0
    if right.value == neutral:
        return left
    if left.value == neutral and node.head in {"add", "mul"}:
        return right
    return None


def _unite_equals(node: Expression) -> Expression | None:
    """Rewrite a node whose two operands are one: x - x, x * x, max(x, x)."""
    if node.operands[0] is not node.operands[1]:
        return None
    match node.head:
        case "sub" if kind_of(node) is Kind.SCALAR and not PARTIAL & node.terminals():
            return constant(0.0)  # an aggregation would then take more layers, were they partial
        case "mul":
            return Expression("square", node.operands[:1])
        case "maximum" | "minimum":
            return node.operands[0]
    return None


def _drop_sign(node: Expression) -> Expression | None:
    """Drop abs and neg where the sign cannot be seen, and abs of what has none."""
    first = node.operands[0]
    if node.head in _EVEN and first.head in {"abs", "neg"} and first.operands:
        return Expression(node.head, (first.operands[0], *node.operands[1:]))
    if node.head == "abs" and nonnegative(first):
        return first
    return None


def _undo_neg(node: Expression) -> Expression | None:
    """Move signs to the root and cancel them there; exact, since floats are symmetric."""
    first, last = node.operands[0], node.operands[-1]
    match node.head:
        case "neg" if first.head == "neg":
            return first.operands[0]
        case "neg" if first.head == "sub":
            return Expression("sub", first.operands[::-1])
        case "sub" if last.head == "neg":
            return Expression("add", (first, last.operands[0]))
        case "sub" if first.head == "neg":
            return _negated("add", first.operands[0], last)
        case "add" if first.head == "neg":
            return Expression("sub", (last, first.operands[0]))
        case "add" if last.head == "neg":
            return Expression("sub", (first, last.operands[0]))
        case "mul" | "div" if first.head == "neg":
            return _negated(node.head, first.operands[0], last)
        case "mul" if last.head == "neg":
            return _negated("mul", first, last.operands[0])
    return None


def _negated(head: str, *operands: Expression) -> Expression:
    return Expression("neg", (Expression(head, operands),))


def _skip(node: Expression) -> Expression | None:
    """Drop what does nothing at all."""
    return node.operands[0]


def _repeat_once(node: Expression) -> Expression | None:
    """Apply an idempotent primitive once."""
    return node.operands[0] if node.operands[0].head == node.head else None


def _name_power(node: Expression) -> Expression | None:
    """Write |x|**1, **2 and **0.5 as abs, square and sqrt, which torch computes alike."""
    names = {1.0: "abs", 2.0: "square", 0.5: "sqrt"}
    name = names.get(node.operands[1].value or 0.0)
    return Expression(name, node.operands[:1]) if name else None


_RULES: tuple[tuple[Callable[[Expression], Expression | None], Container[str]], ...] = (
    (_fold, CATALOG.keys() - AGGREGATIONS),
    (_skip, {"pz_skp"}),
    (_drop_neutral, _SUMS | _PRODUCTS),
    (_unite_equals, {"sub", "mul", "maximum", "minimum"}),
    (_drop_sign, _EVEN),
    (_undo_neg, {"neg"} | _SUMS | _PRODUCTS),
    (_repeat_once, {name for name, primitive in CATALOG.items() if primitive.idempotent}),
    (_name_power, {"pow"}),
)
"""The rules in order, each with the primitives that it has something to say of."""

_RULES_OF = {head: tuple(rule for rule, heads in _RULES if head in heads) for head in CATALOG}
