"""Reading the text form of expressions, and checking their kinds; nothing is evaluated."""

import ast
import warnings
from functools import lru_cache

from autoproxy.errors import ExpressionError, unknown_name
from autoproxy.language.catalog import AGGREGATIONS, CATALOG
from autoproxy.language.expression import Expression, constant
from autoproxy.language.primitive import EXPONENT_RANGE
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind

MAX_CHARACTERS = 10_000
MAX_DEPTH = 64
"""Deeper trees would run into Python's own limit, here or in whatever walks them later."""

_TOO_DEEP = f"the expression is nested too deeply; at most {MAX_DEPTH} levels are read"

_INFIX: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.Pow: "pow",
}


def parse(text: str) -> Expression:
    """Read an expression; both `mul(abs(W), x_norm)` and `abs(W) * x_norm` will do.

    Python's own grammar reads the text (`ast.parse`, which builds a tree and runs nothing), then
    each node is looked up in the catalogue and the vocabulary, and kinds are checked.

    Raises:
        ExpressionError: The text is malformed (with the position), has an unknown name (with
            the nearest), a wrong number of operands, or kinds that do not fit.

    >>> str(parse("abs(W) * x_norm ** 0.5"))
    'mul(abs(W), pow(x_norm, 0.5))'
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(
            f"the expression has {len(text)} characters; at most {MAX_CHARACTERS} are read"
        )
    stripped = " ".join(text.split())  # one line, so that positions are positions in it
    if not stripped:
        raise ExpressionError("the expression is empty; write for example 'mul(abs(W), x_norm)'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(stripped, mode="eval")
        expression = _read(tree.body, stripped)
    except SyntaxError as error:
        raise _malformed(stripped, (error.offset or 1) - 1, error.msg) from None
    except (RecursionError, MemoryError):  # whose own words are empty or of Python's insides
        raise ExpressionError(_TOO_DEEP) from None
    except ValueError as error:
        raise ExpressionError(f"the expression cannot be read: {error}") from None
    if expression.depth > MAX_DEPTH:
        raise ExpressionError(_TOO_DEEP)
    kind_of(expression)
    return expression


@lru_cache(maxsize=100_000)
def kind_of(expression: Expression) -> Kind:
    """Return the kind of the value of `expression`.

    Raises:
        ExpressionError: Operands do not fit their primitive.

    >>> kind_of(parse("row_sum(abs(W))"))
    <Kind.PER_OUTPUT: 'PerOutput'>
    """
    if expression.is_constant:
        return Kind.SCALAR
    if not expression.operands:
        return VOCABULARY[expression.head].kind
    primitive = CATALOG[expression.head]
    kinds = operand_kinds(expression)
    result = primitive.result(kinds)
    if result is None:
        fitting = sorted({", ".join(k.value for k in s) for s, _ in primitive.signatures})
        raise ExpressionError(
            f"{expression}: {expression.head!r} does not take "
            f"({', '.join(k.value for k in kinds)}); it takes ({') or ('.join(fitting)})"
        )
    return result


def operand_kinds(expression: Expression) -> tuple[Kind, ...]:
    """Return the kinds that the operands of `expression` have there.

    What is made of numbers alone is a Scalar, but among Model operands it is a Model, too.

    Raises:
        ExpressionError: Something below does not fit, or an exponent is no lawful one.

    >>> [kind.value for kind in operand_kinds(parse("mul(2, n_layers)"))]
    ['Model', 'Model']
    """
    kinds = tuple(map(kind_of, expression.operands))
    if Kind.EXPONENT in CATALOG[expression.head].signatures[0][0]:
        return (*kinds[:-1], _exponent(expression))
    if Kind.MODEL in kinds:
        pairs = zip(expression.operands, kinds, strict=True)
        return tuple(Kind.MODEL if of_numbers(operand) else kind for operand, kind in pairs)
    return kinds


@lru_cache(maxsize=100_000)
def of_numbers(expression: Expression) -> bool:
    """Return whether an expression is made of numbers alone, so that layers do not matter.

    >>> of_numbers(parse("mul(2, log(3))")), of_numbers(parse("layers_sum(2)"))
    (True, False)
    """
    if not expression.operands:
        return expression.is_constant
    return expression.head not in AGGREGATIONS and all(map(of_numbers, expression.operands))


def _exponent(expression: Expression) -> Kind:
    low, high = EXPONENT_RANGE
    value = expression.operands[-1].value
    if value is None or not low <= value <= high:
        raise ExpressionError(
            f"{expression}: the exponent of 'pow' is a number from {low:g} to {high:g} that is "
            f"written out, got {expression.operands[-1]}"
        )
    return Kind.EXPONENT


def _malformed(text: str, position: int, what: str) -> ExpressionError:
    pointer = " " * position + "^"
    return ExpressionError(
        f"malformed expression at character {position + 1}: {what}\n  {text}\n  {pointer}\n"
        "write for example 'mul(abs(W), x_norm)'; `autoproxy list` shows the words"
    )


def _read(node: ast.expr, text: str) -> Expression:
    match node:
        case ast.Constant(value=bool() | complex() | str() | bytes() | None):
            raise _malformed(text, node.col_offset, "only numbers can be constants")
        case ast.Constant(value=int() | float() as value):
            return _constant(value, node, text)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if (
            not isinstance(value, bool)  # which are ints, too
        ):
            return _constant(-value, node, text)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return Expression("neg", (_read(operand, text),))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _INFIX:
            return Expression(_INFIX[type(op)], (_read(left, text), _read(right, text)))
        case ast.Name(id=name):
            return _terminal(name, node, text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _application(name, args, node, text)
    raise _malformed(text, node.col_offset, "this is neither a number, a name nor a call")


def _constant(value: float, node: ast.expr, text: str) -> Expression:
    try:
        return constant(float(value))
    except (ValueError, OverflowError) as error:  # the latter for integers beyond float64
        raise _malformed(text, node.col_offset, str(error)) from None


def _terminal(name: str, node: ast.expr, text: str) -> Expression:
    if name in VOCABULARY:
        return Expression(name)
    if name in CATALOG:
        what = f"primitive {name!r} needs {CATALOG[name].arity} operand(s) in parentheses"
        raise _malformed(text, node.col_offset, what)
    raise _malformed(text, node.col_offset, unknown_name("terminal", name, VOCABULARY))


def _application(name: str, args: list[ast.expr], node: ast.expr, text: str) -> Expression:
    primitive = CATALOG.get(name)
    if primitive is None:
        what = (
            f"terminal {name!r} takes no operands"
            if name in VOCABULARY
            else unknown_name("primitive", name, CATALOG)
        )
        raise _malformed(text, node.col_offset, what)
    if len(args) != primitive.arity:
        what = f"primitive {name!r} takes {primitive.arity} operand(s), got {len(args)}"
        raise _malformed(text, node.col_offset, what)
    return Expression(name, tuple(_read(arg, text) for arg in args))
