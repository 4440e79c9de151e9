"""Formulas: the infix text, the LaTeX and the sympy of a metric say what its tree says."""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from numpy.typing import NDArray
from sympy.printing.numpy import NumPyPrinter

from autoproxy.export.formula import to_infix, to_latex, to_sympy
from autoproxy.language.canonical import canonical
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.program import Program
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import FLOWING_KINDS, TENSOR_KINDS, Kind, shape_of
from tests.autoproxy.export.drawn import baselines, drawn

ELEMENTWISE = tuple(
    name for name, p in CATALOG.items() if Kind.MODEL in {kinds[0] for kinds, _ in p.signatures}
)
DRAWN = [*drawn(150), *drawn(30, root=Kind.PER_INPUT), *drawn(20, root=Kind.SCALAR)]
DRAWN += [e for kind in (*FLOWING_KINDS, Kind.MODEL) for e in drawn(60, root=kind)]
ALL = [*baselines().values(), *DRAWN]


# --- infix -------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", ALL, ids=str)
def test_infix_reads_back(expression: Expression) -> None:
    """Powers are written of absolute values, which is what they are of; the rest is the tree."""
    read = parse(to_infix(expression))
    assert canonical(read) == canonical(expression)
    if "pow(" not in str(expression):
        assert read == expression


def test_a_power_of_what_may_be_negative_says_that_it_is_of_its_absolute_value() -> None:
    assert to_infix(parse("mul(pow(W, 2.5), pow(x_norm, 0.5))")) == "abs(W) ** 2.5 * x_norm ** 0.5"


@pytest.mark.parametrize(
    ("text", "infix"),
    [
        ("sub(W, sub(g, W))", "W - (g - W)"),
        ("sub(sub(W, g), W)", "W - g - W"),
        ("add(W, add(g, W))", "W + (g + W)"),
        ("mul(add(W, g), W)", "(W + g) * W"),
        ("div(W, mul(g, W))", "W / (g * W)"),
        ("pow(pow(W, 2), -1)", "(abs(W) ** 2) ** -1"),
        ("pow(neg(W), 2)", "abs(neg(W)) ** 2"),
        ("mul(-2, W)", "(-2) * W"),
        ("sub(W, -2)", "W - (-2)"),
        ("pow(add(W, 1), 0.5)", "abs(W + 1) ** 0.5"),
    ],
)
def test_infix_by_hand(text: str, infix: str) -> None:
    assert to_infix(parse(text)) == infix


# --- LaTeX -------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", ALL, ids=str)
def test_latex_reads_back(expression: Expression) -> None:
    """A reader who knows mathematics alone gets the tree back, but for how products nest."""
    latex = to_latex(expression)
    assert flat(Latex(latex).read()) == flat(expression), latex


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mul(row_sum(W), g)", "row_sum(mul(W, g))"),
        ("mul(row_max(W), x_norm)", "row_max(mul(W, x_norm))"),
        ("sub(all_min(W), g)", "all_min(sub(W, g))"),
        ("sub(W, -2)", "sub(-2, W)"),
        ("mul(W, neg(g))", "sub(W, g)"),
    ],
)
def test_what_differs_is_typeset_differently(one: str, other: str) -> None:
    assert to_latex(parse(one)) != to_latex(parse(other))


@pytest.mark.parametrize(
    ("number", "latex"),
    [
        (1e-5, "10^{-5}"),
        (-1e-5, "-10^{-5}"),
        (2.5e-7, r"2.5 \cdot 10^{-7}"),
        (0.5, "0.5"),
        (-3.0, "-3"),
        (1e20, "10^{20}"),
    ],
)
def test_latex_numbers_are_typeset(number: float, latex: str) -> None:
    assert to_latex(constant(number)) == latex


def flat(expression: Expression) -> Any:
    """Return a tree as nested tuples in which a chain of products is one sorted group."""
    if expression.value is not None:
        return ("number", str(expression))
    if expression.head != "mul":
        return (expression.head, *map(flat, expression.operands))
    return ("mul", *sorted(map(flat, factors(expression)), key=str))


def factors(expression: Expression) -> Iterator[Expression]:
    if expression.head != "mul":
        yield expression
        return
    for operand in expression.operands:
        yield from factors(operand)


class Latex:
    """Reads the LaTeX of expressions the way that it is read aloud."""

    WRAPPED: tuple[tuple[str, str], ...] = (
        (r"\tanh\left(", "tanh"),
        (r"\mathrm{sigmoid}\left(", "sigmoid"),
        (r"\mathrm{sign}\left(", "sign"),
        (r"\mathrm{minmax}\left(", "minmax"),
        (r"\mathrm{minmax}_j\left(", "row_minmax"),
        (r"\mathrm{z}\left(", "zscore"),
        (r"\mathrm{z}_j\left(", "row_zscore"),
        (r"\mathrm{zsn}\left(", "pz_zsn"),
        (r"\mathrm{skp}\left(", "pz_skp"),
        (r"\exp\left(", "pz_exp"),
        (r"\sigma_1\left(", "spectral"),
        (r"\log\det\left(", "logdet"),
        (r"\max_t\left(", "token_max"),
        (r"\max_h\left(", "head_max"),
        (r"\max_k\left(", "key_max"),
        (r"\mathrm{mean}_t\left(", "token_mean"),
        (r"\mathrm{mean}_h\left(", "head_mean"),
        (r"\mathrm{entropy}_k\left(", "key_entropy"),
        (r"\mathrm{entropy}\left(", "entropy"),
        (r"\mathrm{erank}\left(", "erank"),
        (r"\sum_{\ell}\left(", "layers_sum"),
        (r"\mathrm{mean}_{\ell}\left(", "layers_mean"),
        (r"\max_{\ell}\left(", "layers_max"),
        (r"\min_{\ell}\left(", "layers_min"),
        (r"\mathrm{std}_{\ell}\left(", "layers_std"),
        (r"\mathrm{first}_{\ell}\left(", "layers_first"),
        (r"\mathrm{last}_{\ell}\left(", "layers_last"),
        (r"\mathrm{mean}_{nt}\left(", "tokens_mean"),
        (r"\mathrm{std}_{nt}\left(", "tokens_std"),
        (r"\mathrm{mean}_{nt}^T\left(", "outputs_mean"),
        (r"\mathrm{std}_{nt}^T\left(", "outputs_std"),
        *(
            (rf"{start}_{{{axis}}}\left(", f"{prefix}_{word}")
            for axis, prefix in (("j", "row"), ("i", "col"), ("ij", "all"))
            for start, word in (
                (r"\sum", "sum"),
                (r"\max", "max"),
                (r"\min", "min"),
                (r"\mathrm{mean}", "mean"),
                (r"\mathrm{std}", "std"),
            )
        ),
    )

    def __init__(self, text: str) -> None:
        self.rest = text

    def read(self) -> Expression:
        expression = self.sum()
        assert self.rest == "", f"loose end: {self.rest}"
        return expression

    def eat(self, text: str) -> bool:
        if not self.rest.startswith(text):
            return False
        self.rest = self.rest[len(text) :]
        return True

    def expect(self, text: str) -> None:
        assert self.eat(text), f"{text} was expected before {self.rest}"

    def sum(self) -> Expression:
        left = self.product()
        while True:
            if self.eat(" + "):
                left = Expression("add", (left, self.product()))
            elif self.eat(" - "):
                left = Expression("sub", (left, self.product()))
            else:
                return left

    def product(self) -> Expression:
        left = self.factor()
        while self.eat(r" \cdot "):
            left = Expression("mul", (left, self.factor()))
        return left

    def number(self) -> Expression | None:
        found = re.match(r"-?\d+(\.\d+)?( \\cdot 10\^\{-?\d+\})?", self.rest)
        power = re.match(r"(-?)10\^\{(-?\d+)\}", self.rest)
        if power:
            self.rest = self.rest[power.end() :]
            return constant(float(f"{power[1]}1e{power[2]}"))
        if not found:
            return None
        self.rest = self.rest[found.end() :]
        return constant(float(re.sub(r" \\cdot 10\^\{(.*)\}", r"e\1", found[0])))

    def factor(self) -> Expression:
        number = self.number()
        if number is not None:
            return number
        if self.eat(r"-\left("):
            return Expression("neg", (self.until(r"\right)"),))
        return self.function() or self.bracket() or self.terminal()

    def until(self, end: str) -> Expression:
        inner = self.sum()
        self.expect(end)
        return inner

    def function(self) -> Expression | None:
        for start, name in self.WRAPPED:
            if self.eat(start):
                return Expression(name, (self.until(r"\right)"),))
        if self.eat(r"\sum_{\ell}\log\left|"):
            return Expression("layers_logsum", (self.until(r"\right|"),))
        if self.eat(r"\log\left(\left|"):
            return Expression("pz_log", (self.until(r"\right| + 10^{-3}\right)"),))
        return self.pair() or self.spelled()

    def pair(self) -> Expression | None:
        pairs = (("maximum", r"\max"), ("minimum", r"\min"), ("correlation", r"\mathrm{corr}"))
        for name, word in (*pairs, ("pz_div", r"\mathrm{div}_F")):
            if self.eat(rf"{word}\left("):
                return Expression(name, (self.until(", "), self.until(r"\right)")))
        return None

    def spelled(self) -> Expression | None:
        if self.eat(r"\frac{"):
            return Expression("div", (self.until("}{"), self.until("}")))
        if self.eat(r"\sqrt{\left|"):
            return Expression("sqrt", (self.until(r"\right|}"),))
        if self.eat(r"\log\left|"):
            return Expression("log", (self.until(r"\right|"),))
        return Expression("exp", (self.until("}"),)) if self.eat("e^{") else None

    def bracket(self) -> Expression | None:
        if self.eat(r"\left|"):
            inner = self.until(r"\right|")
            if not self.eat("^{"):
                return Expression("abs", (inner,))
            exponent = self.number()
            assert exponent is not None
            self.expect("}")
            return Expression("pow", (inner, exponent))
        if self.eat(r"\left("):
            inner = self.until(r"\right)")
            return Expression("square", (inner,)) if self.eat("^2") else inner
        return None

    def terminal(self) -> Expression:
        for terminal in sorted(VOCABULARY.values(), key=lambda t: -len(t.latex)):
            if self.eat(terminal.latex):
                return Expression(terminal.name)
        assert self.eat(r"\lVert "), f"not understood: {self.rest}"
        inner = self.sum()
        if self.eat(r" \rVert_*"):
            return Expression("nuclear", (inner,))
        self.expect(r" \rVert_{")
        axis = self.rest[: self.rest.index("}")]
        self.expect(axis + "}")
        prefixes = {"j": "row", "i": "col", "ij": "all", "nt": "tokens", "nt^T": "outputs"}
        prefix = prefixes[axis]
        return Expression(f"{prefix}_norm", (inner,))


# --- sympy -------------------------------------------------------------------------------------

Array = NDArray[np.float64]
SHAPE = (4, 6)


def values(*, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Return float64 values of every terminal, the signed ones of both signs."""
    generator = torch.Generator().manual_seed(5)
    made = {}
    for terminal in VOCABULARY.values():
        if terminal.kind not in TENSOR_KINDS:
            continue
        value = torch.randn(shape_of(terminal.kind, *SHAPE), generator=generator).double() * scale
        made[terminal.name] = value.abs() if terminal.nonnegative else value
    return made


class Printer(NumPyPrinter):  # type: ignore[misc]  # sympy has no types
    """Prints extrema of operands of different shapes, which numpy's own printing cannot take."""

    def _print_Max(self, form: sympy.Expr) -> str:  # noqa: N802 - sympy's name for it
        return f"larger({', '.join(map(self._print, form.args))})"

    def _print_Min(self, form: sympy.Expr) -> str:  # noqa: N802
        return f"smaller({', '.join(map(self._print, form.args))})"


def numbers(expression: Expression, given: dict[str, torch.Tensor]) -> Array:
    """Return what sympy's form gives in numpy; whole tensors, as reductions need them."""
    form = to_sympy(expression)
    names = sorted(form.free_symbols, key=str)
    opaque = {name: of_torch(name) for name in CATALOG if name not in ELEMENTWISE}
    extrema = {
        "larger": lambda *a: functools.reduce(np.maximum, a),
        "smaller": lambda *a: functools.reduce(np.minimum, a),
    }
    printer = Printer({"user_functions": dict(zip(opaque, opaque, strict=True)), **PRINTING})
    function = sympy.lambdify(names, form, modules=[opaque | extrema, "numpy"], printer=printer)
    arrays = [given[str(name)].expand(SHAPE).numpy() for name in names]
    with np.errstate(all="ignore"):  # of the branches that are not taken
        found = function(*arrays)
    return np.broadcast_to(np.asarray(found, dtype=np.float64), SHAPE)


PRINTING = {"fully_qualified_modules": False, "allow_unknown_functions": True, "inline": True}


def of_torch(name: str) -> Callable[[Any], Array]:
    """Return a reduction, which is opaque to sympy, as a function of whole numpy tensors."""

    def function(*values: Any) -> Array:
        whole = [torch.from_numpy(np.broadcast_to(v, SHAPE).astype(np.float64)) for v in values]
        return CATALOG[name].tensor(*whole).expand(SHAPE).numpy()

    return function


def engine(expression: Expression, given: dict[str, torch.Tensor]) -> Array:
    (value,) = Program([expression]).run({k: v.expand(SHAPE) for k, v in given.items()})
    return value.expand(SHAPE).numpy()


def test_there_are_enough_of_weights() -> None:
    assert len(OF_WEIGHTS) == 60


def test_elementwise_primitives_are_told_from_reductions() -> None:
    assert len(ELEMENTWISE) == 16
    assert not any("_" in name for name in ELEMENTWISE)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("scale", [1e-35, 1e-30, 1e-12, 1.0, 1e3])
def test_each_primitive_in_sympy_is_the_one_in_torch(name: str, scale: float) -> None:
    """Protections included, which is what the small and the large scale are for."""
    terminals = (Expression("W"), Expression("g"))
    exponents = (-1.5, 0.5, 3.0) if name == "pow" else (None,)
    given = values(scale=scale)
    given["W"][0, 0] = given["g"][1, 1] = 0.0
    for exponent in exponents:
        operands = terminals[: CATALOG[name].arity]
        if exponent is not None:
            operands = (terminals[0], constant(exponent))
        expression = Expression(name, operands)
        found = numbers(expression, given)
        np.testing.assert_allclose(found, engine(expression, given), rtol=1e-6, atol=1e-300)


def of_weights(expression: Expression) -> bool:
    kinds = {VOCABULARY[name].kind for name in expression.terminals()}
    return kinds <= set(TENSOR_KINDS)


OF_WEIGHTS = list(filter(of_weights, drawn(150)))[:60]


@pytest.mark.parametrize("expression", [*baselines().values(), *OF_WEIGHTS], ids=str)
def test_sympy_gives_the_numbers_of_the_engine(expression: Expression) -> None:
    """In float64, where cancellation and clipping do not hide what the formula says."""
    given = values()
    expected = engine(expression, given)
    found = numbers(expression, given)
    spread = np.abs(expected[np.isfinite(expected)]).max(initial=1e-30)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * spread)


def test_symbols_know_their_sign() -> None:
    assert to_sympy(parse("abs(x_norm)")) == sympy.Symbol("x_norm", real=True, nonnegative=True)
    assert to_sympy(parse("abs(W)")) == sympy.Abs(sympy.Symbol("W", real=True))


def test_sympy_and_tree_agree_on_what_is_read() -> None:
    for expression in DRAWN:
        symbols = {str(symbol) for symbol in to_sympy(expression).free_symbols}
        assert symbols <= expression.terminals()  # sympy may cancel one, never add one
        assert kind_of(canonical(expression)) is kind_of(expression)
