"""The text form: it reads back, and whatever else is read is refused with words, never run."""

import builtins
import os
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.errors import ExpressionError
from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import canonical, order_key
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import MAX_CHARACTERS, MAX_DEPTH, kind_of, parse
from autoproxy.language.simplify import simplest
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind
from tests.autoproxy.language.formulas import expressions

SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**"}
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def infix(expression: Expression) -> str:
    """Write sums, products, powers and signs with symbols, fully in parentheses."""
    if not expression.operands:
        return f"({expression})" if expression.value is not None else str(expression)
    parts = [infix(operand) for operand in expression.operands]
    if expression.head in SYMBOLS:
        return f"({parts[0]} {SYMBOLS[expression.head]} {parts[1]})"
    if expression.head == "neg" and not expression.operands[0].is_constant:
        return f"(-{parts[0]})"
    return f"{expression.head}({', '.join(parts)})"


@given(expressions())
def test_both_spellings_read_back(expression: Expression) -> None:
    assert parse(str(expression)) == expression
    assert parse(infix(expression)) == expression


@given(expressions(), st.sampled_from([" ", "\n", "\t ", "\r\n", "   "]))
def test_blanks_and_lines_say_nothing(expression: Expression, blank: str) -> None:
    words = str(expression).replace("(", " ( ").replace(",", " , ").replace(")", " ) ").split()
    assert parse(blank + blank.join(words) + blank) == expression


@given(expressions())
def test_size_and_depth_are_those_of_the_text(expression: Expression) -> None:
    text = str(expression)
    assert expression.size == sum(1 for _ in expression.walk())
    commas, calls = text.count(","), text.count("(")
    assert expression.size == commas + calls + 1  # n operands are n - 1 commas and one call
    deepest = level = 0
    for letter in text:
        level += (letter == "(") - (letter == ")")
        deepest = max(deepest, level)
    assert expression.depth == deepest + 1


@given(finite)
def test_a_number_is_written_as_short_as_reads_back_to_the_bit(value: float) -> None:
    made = constant(value)
    read = parse(str(made))
    assert read == made
    assert struct.pack("f", read.value) == struct.pack("f", value + 0.0)
    if not value.is_integer():
        digits = len(str(made).split("e")[0].lstrip("-0.").replace(".", "").strip("0"))
        assert digits <= 9
        shorter = f"{value:.{max(digits - 1, 1)}g}"
        assert digits == 1 or struct.pack("f", float(shorter)) != struct.pack("f", value)


def test_there_is_one_zero() -> None:
    assert constant(-0.0) == constant(0.0)
    assert str(parse("-0.0")) == "0"
    assert hash(constant(-0.0)) == hash(constant(0.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3.5e38, -1e300])
def test_constants_are_finite_in_float32(value: float) -> None:
    with pytest.raises(ValueError, match="finite in float32"):
        constant(value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("-W", "neg(W)"),
        ("-2", "-2"),
        ("-2 * W", "mul(-2, W)"),
        ("-W ** 2", "neg(pow(W, 2))"),
        ("W ** -0.5", "pow(W, -0.5)"),
        ("W - g - g_norm", "sub(sub(W, g), g_norm)"),
        ("W / x_norm * 3", "mul(div(W, x_norm), 3)"),
        ("W + g * 2", "add(W, mul(g, 2))"),
        ("neg(2)", "neg(2)"),
        ("0x10 + 1_000", "add(16, 1000)"),
        ("abs(W,)", "abs(W)"),
    ],
)
def test_infix_binds_as_in_python(text: str, wanted: str) -> None:
    assert str(parse(text)) == wanted


HOSTILE = [
    "__import__('os').system('true')",
    "__import__('os')",
    "(lambda: 0)()",
    "lambda: W",
    "[W for W in (1,)]",
    "{W}",
    "{**W}",
    "W.real",
    "W.__class__.__mro__",
    "W[0]",
    "().__class__",
    "abs(W).__class__",
    "abs.__call__(W)",
    "(abs)(W)(W)",
    "abs(*W)",
    "abs(**W)",
    "abs(W, out=W)",
    "f'{W}'",
    "'W'",
    "b'W'",
    "...",
    "True",
    "-True",
    "None",
    "1j",
    "-1j",
    "W if W else W",
    "W and W",
    "not W",
    "~W",
    "+W",
    "W // 2",
    "W % 2",
    "W @ W",
    "W << 2",
    "W < 2",
    "(W := 2)",
    "W, W",
    "W; W",
    "W = 2",
    "import os",
    "await W",
    "yield W",
    "print(W)",
    "eval('W')",
    "nan",
    "-nan",
    "inf",
    "1e39",
    "-1e39",
    "1e999",
    "1" + "0" * 400,
    "-1" + "0" * 400,
    "9" * 5000,
    "W ** 9 ** 99999999",
    "W ** nan",
    "\0",
    "W\0",
    "\ud800",
    "W(",
    "W)",
    "abs()",
    "abs(W, W)",
    "abs",
    "W(W)",
    "mul(W)",
    "# W",
    "\u202eW",
    "w",
    "Abs(W)",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:30]))
def test_what_is_no_expression_is_refused_and_never_run(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def caught(*_: object, **__: object) -> None:
        pytest.fail("the text was run")

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "eval", caught)
        patch.setattr(builtins, "exec", caught)
        patch.setattr(os, "system", caught)
        with pytest.raises(ExpressionError) as error:
            parse(text)
    message = str(error.value)
    assert "character" in message or "number from -4 to 4" in message or "cannot be read" in message


DEEP: dict[str, Callable[[int], str]] = {
    "signs": lambda n: "-" * n + "W",
    "sum": lambda n: "W" + "+W" * n,
    "product": lambda n: "W" + "*W" * n,
    "powers": lambda n: "W**" * n + "2",
    "parentheses": lambda n: "(" * n + "W" + ")" * n,
    "calls": lambda n: "abs(" * n + "W" + ")" * n,
    "attributes": lambda n: "W" + ".a" * n,
    "items": lambda n: "W" + "[0]" * n,
}


@pytest.mark.parametrize("how", DEEP)
@pytest.mark.parametrize("count", [65, 199, 201, 400, 700, 1500, 2900])
def test_nesting_is_refused_at_every_depth(how: str, count: int) -> None:
    text = DEEP[how](count)
    if how == "parentheses" and count < 200:
        assert parse(text) == Expression("W")
        return
    with pytest.raises(ExpressionError):
        parse(text[:MAX_CHARACTERS])


@pytest.mark.parametrize("how", ["signs", "sum", "product", "calls"])
def test_what_is_read_can_be_walked_by_everything_that_follows(how: str) -> None:
    expression = parse(DEEP[how](MAX_DEPTH - 1))

    def below(frames: int) -> None:  # a caller may be deep itself
        if frames:
            below(frames - 1)
            return
        assert parse(str(expression)) == expression
        canonical(expression)
        for blindness in Blindness:
            order_key(expression, blindness)
            simplest(expression, blindness, Kind.WEIGHT)

    below(150)


def test_long_texts_are_refused_unread() -> None:
    with pytest.raises(ExpressionError, match="10001 characters; at most 10000"):
        parse("W" * (MAX_CHARACTERS + 1))
    with pytest.raises(ExpressionError, match="empty"):
        parse(" \n ")


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("mul(abs(W), xnorm)", 13, "did you mean 'x_norm'"),
        ("mull(W, W)", 1, "did you mean 'mul'"),
        ("W * sqr(W)", 5, "did you mean 'sqrt'"),
        ("mul(W, abs(W, W))", 8, "'abs' takes 1 operand(s), got 2"),
        ("mul(W, abs)", 8, "'abs' needs 1 operand(s)"),
        ("W + x_norm(W)", 5, "'x_norm' takes no operands"),
        ("W + g.T", 5, "neither a number, a name nor a call"),
        ("W * 'g'", 5, "only numbers"),
        ("W * 1e40", 5, "finite in float32"),
        ("W + * g", 5, "invalid syntax"),
        ("(W +\n   foo)", 6, "unknown terminal 'foo'"),
        ("  W *  nope", 5, "unknown terminal 'nope'"),
    ],
)
def test_errors_point_at_the_place(text: str, position: int, says: str) -> None:
    with pytest.raises(ExpressionError) as error:
        parse(text)
    message = str(error.value)
    assert f"at character {position}:" in message
    assert says in message
    _, line, pointer, *_ = message.splitlines()
    assert pointer.index("^") - 2 == position - 1
    assert line[pointer.index("^")].strip()


@given(st.sampled_from(sorted({*CATALOG, *VOCABULARY})), st.data())
def test_a_slip_of_the_pen_names_what_was_meant(word: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(word) - 1))
    slip = word[:place] + word[place] * 2 + word[place + 1 :]
    if slip in CATALOG or slip in VOCABULARY:
        return
    text = slip if word in VOCABULARY else f"{slip}({', '.join(['W'] * CATALOG[word].arity)})"
    with pytest.raises(ExpressionError, match=f"unknown (terminal|primitive) '{slip}'") as error:
        parse(text)
    if len(word) > 2:
        assert "did you mean" in str(error.value)
    assert f" {word}" in str(error.value)  # at least among those that are known


@given(st.text(st.sampled_from("Wgx_normabs ()+-*/.,0123e'[]:\n#"), max_size=40) | st.text())
def test_any_text_is_an_expression_or_that_error(text: str) -> None:
    try:
        expression = parse(text)
    except ExpressionError:
        return
    assert parse(str(expression)) == expression
    assert isinstance(kind_of(expression), Kind)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("row_sum(x_norm)", "'row_sum' does not take (PerInput); it takes (Weight)"),
        ("minmax(3)", "'minmax' does not take (Scalar)"),
        ("row_minmax(row_sum(W))", "'row_minmax' does not take (PerOutput)"),
        ("pow(W, x_norm)", "from -4 to 4 that is written out, got x_norm"),
        ("W ** 4.5", "from -4 to 4 that is written out, got 4.5"),
        ("W ** add(1, 1)", "from -4 to 4 that is written out, got add(1, 1)"),
        ("abs(all_sum(all_sum(W)))", "'all_sum' does not take (Scalar)"),
    ],
)
def test_kinds_that_do_not_fit_are_named(text: str, says: str) -> None:
    with pytest.raises(ExpressionError) as error:
        parse(text)
    assert says in str(error.value)
