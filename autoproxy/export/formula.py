"""A metric as a formula: infix text, LaTeX, sympy."""

import sympy
from sympy.core.function import AppliedUndef

from autoproxy.language.canonical import nonnegative
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression, format_number
from autoproxy.language.parse import parse
from autoproxy.language.terminals import VOCABULARY

_INFIX = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2)}
_POWER = 4
_ATOM = 5


def to_infix(expression: Expression) -> str:
    """Return readable text that `parse` reads back to an expression of the same bits.

    It is the same tree but for powers, which are of absolute values: `abs(W) ** 2.5` says so.

    >>> from autoproxy.language.parse import parse
    >>> to_infix(parse("mul(abs(W), div(pow(x_norm, 0.5), add(y_norm, 1)))"))
    'abs(W) * (x_norm ** 0.5 / (y_norm + 1))'
    """
    return _infix(expression)[0]


def infix_of(text: str) -> str:
    """Return the text form of an expression as people write it.

    >>> infix_of("mul(abs(W), x_norm)")
    'abs(W) * x_norm'
    """
    return to_infix(parse(text))


def _infix(node: Expression) -> tuple[str, int]:
    """Return text and how tightly its outermost operator binds."""
    if node.value is not None:
        return format_number(node.value), _ATOM if node.value >= 0 else 0
    if not node.operands:
        return node.head, _ATOM
    if node.head == "pow":
        base, exponent = node.operands
        shown = _wrapped(base, _ATOM) if nonnegative(base) else f"abs({to_infix(base)})"
        return f"{shown} ** {exponent}", _POWER
    if node.head not in _INFIX:
        return f"{node.head}({', '.join(map(to_infix, node.operands))})", _ATOM
    sign, tightness = _INFIX[node.head]
    left, right = node.operands
    # The right operand of one tightness is wrapped too: float sums are not associative.
    return f"{_wrapped(left, tightness)} {sign} {_wrapped(right, tightness + 1)}", tightness


def _wrapped(node: Expression, tightness: int) -> str:
    text, own = _infix(node)
    return text if own >= tightness else f"({text})"


def to_latex(expression: Expression) -> str:
    r"""Return LaTeX, for mathematics mode.

    >>> from autoproxy.language.parse import parse
    >>> to_latex(parse("mul(abs(W), x_norm)"))
    '\\left|W\\right| \\cdot \\lVert X_j\\rVert'
    """
    if expression.value is not None:
        return _latex_number(expression.value)
    if not expression.operands:
        return VOCABULARY[expression.head].latex
    first, *rest = map(to_latex, expression.operands)
    if expression.head in _INFIX:
        rest = [rf"\left({text}\right)" if text.startswith("-") else text for text in rest]
    return CATALOG[expression.head].latex.format(first, *rest)


def _latex_number(value: float) -> str:
    """Return a number as it is typeset: 1e-05 would be read as a product with e."""
    mantissa, _, exponent = format_number(value).partition("e")
    if not exponent:
        return mantissa
    power = f"10^{{{int(exponent)}}}"
    return {"1": power, "-1": f"-{power}"}.get(mantissa, rf"{mantissa} \cdot {power}")


def to_sympy(expression: Expression) -> sympy.Expr:
    """Return the expression in sympy, protections included; reductions are opaque functions.

    Terminals are real symbols; terminals and reductions are known not to be negative where that
    is so.

    >>> from autoproxy.language.parse import parse
    >>> to_sympy(parse("abs(W) / row_sum(abs(W))"))
    Abs(W)/Max(1.0e-30, row_sum(Abs(W)))
    """
    if expression.value is not None:
        return sympy.Float(format_number(expression.value))
    if not expression.operands:
        return sympy.Symbol(expression.head, real=True, nonnegative=nonnegative(expression) or None)
    operands = tuple(map(to_sympy, expression.operands))
    form = CATALOG[expression.head].symbol(*operands)
    if isinstance(form, AppliedUndef) and nonnegative(expression):
        return sympy.Function(expression.head, nonnegative=True)(*operands)
    return form
