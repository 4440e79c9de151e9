"""The table of all primitives: the table is the specification."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import sympy

from autoproxy.language import fast
from autoproxy.language import meanings as m
from autoproxy.language import network_meanings as n
from autoproxy.language import published_meanings as published
from autoproxy.language.primitive import Primitive
from autoproxy.language.types import FLOWING_KINDS, TENSOR_KINDS, Kind, Signature, elementwise

_TINY = sympy.Float("1e-30")
_UNARY = elementwise(1)
_BINARY = elementwise(2)
_POWER: tuple[Signature, ...] = tuple(
    ((k, Kind.EXPONENT), k) for k in (*TENSOR_KINDS, *FLOWING_KINDS, Kind.MODEL)
)
_VARYING = (Kind.WEIGHT, Kind.PER_INPUT, Kind.PER_OUTPUT, *FLOWING_KINDS)
_SAME: tuple[Signature, ...] = tuple(((k,), k) for k in _VARYING)
_TO_SCALAR: tuple[Signature, ...] = tuple(((k,), Kind.SCALAR) for k in _VARYING)
_ROWS: tuple[Signature, ...] = (((Kind.WEIGHT,), Kind.PER_OUTPUT),)
_COLUMNS: tuple[Signature, ...] = (((Kind.WEIGHT,), Kind.PER_INPUT),)
_IN_ROW: tuple[Signature, ...] = (((Kind.WEIGHT,), Kind.WEIGHT),)
_MATRIX: tuple[Signature, ...] = tuple(
    ((k,), Kind.SCALAR) for k in (Kind.WEIGHT, Kind.INPUT, Kind.OUTPUT)
)
_PAIR: tuple[Signature, ...] = tuple(((k, k), Kind.SCALAR) for k in _VARYING)
_TOKENS: tuple[Signature, ...] = tuple(((k,), k) for k in (Kind.INPUT, Kind.OUTPUT))
_HEADS: tuple[Signature, ...] = (((Kind.ATTENTION,), Kind.ATTENTION),)
_PER_INPUT: tuple[Signature, ...] = (((Kind.INPUT,), Kind.PER_INPUT),)
_PER_OUTPUT: tuple[Signature, ...] = (((Kind.OUTPUT,), Kind.PER_OUTPUT),)
_LAYERS: tuple[Signature, ...] = (((Kind.SCALAR,), Kind.MODEL),)
_OF_WEIGHTS: tuple[Signature, ...] = tuple(((k,), k) for k in TENSOR_KINDS)
_OF_TWO_WEIGHTS = tuple(s for s in _BINARY if set(s[0]) <= set(TENSOR_KINDS))


def _named(name: str) -> Callable[..., Any]:
    """Return a sympy function without a meaning of its own, for reductions."""
    function: Callable[..., Any] = sympy.Function(name)
    return function


def _divide(a: Any, b: Any) -> Any:
    """Return a / b without case distinctions, which sympy multiplies with every division."""
    if b.is_nonnegative:
        return a / sympy.Max(b, _TINY)
    sign = 2 * sympy.Heaviside(b, 1) - 1
    return a * sign / sympy.Max(sympy.Abs(b), _TINY)


def _power(a: Any, exponent: Any) -> Any:
    base = sympy.Abs(a)
    return (sympy.Max(base, sympy.Float("1e-9")) if exponent < 0 else base) ** exponent


def _reductions() -> list[Primitive]:
    """Return sum, mean, max, min, std and norm, each over rows, columns and everything."""
    prefixes = (("row", _ROWS, "j"), ("col", _COLUMNS, "i"), ("all", _TO_SCALAR, "ij"))
    latex = {
        "sum": r"\sum_{{{axis}}}\left({{}}\right)",
        "mean": r"\mathrm{{mean}}_{{{axis}}}\left({{}}\right)",
        "max": r"\max_{{{axis}}}\left({{}}\right)",
        "min": r"\min_{{{axis}}}\left({{}}\right)",
        "std": r"\mathrm{{std}}_{{{axis}}}\left({{}}\right)",
        "norm": r"\lVert {{}} \rVert_{{{axis}}}",
    }
    sign = {"sum": "operands", "mean": "operands", "max": "operands", "min": "operands"}
    return [
        Primitive(
            name=f"{prefix}_{word}",
            signatures=signatures,
            tensor=getattr(m, f"{prefix}_{word}"),
            symbol=_named(f"{prefix}_{word}"),
            latex=template.replace("{{{axis}}}", "{{" + axis + "}}").replace("{{}}", "{}"),
            cost=2,
            nonnegative=sign.get(word, "always"),
            fast=getattr(fast, f"{prefix}_{word}", None),
        )
        for prefix, signatures, axis in prefixes
        for word, template in latex.items()
    ]


def _opaque(
    name: str, signatures: tuple[Signature, ...], latex: str, nonnegative: str, cost: int = 2
) -> Primitive:
    """Return a primitive that sympy knows by its name alone."""
    return Primitive(
        name,
        signatures,
        getattr(n, name),
        _named(name),
        latex,
        cost=cost,
        commutative=len(signatures[0][0]) == 2,
        nonnegative=nonnegative,
    )


def _spectra() -> list[Primitive]:
    """Return what is read off all entries as one distribution, or off singular values."""
    return [
        _opaque("entropy", _TO_SCALAR, r"\mathrm{{entropy}}\left({}\right)", "always"),
        _opaque("nuclear", _MATRIX, r"\lVert {} \rVert_*", "always", cost=3),
        _opaque("spectral", _MATRIX, r"\sigma_1\left({}\right)", "always", cost=3),
        _opaque("erank", _MATRIX, r"\mathrm{{erank}}\left({}\right)", "always", cost=3),
        _opaque("logdet", _MATRIX, r"\log\det\left({}\right)", "never", cost=3),
        _opaque("correlation", _PAIR, r"\mathrm{{corr}}\left({}, {}\right)", "never"),
    ]


def _over_tokens() -> list[Primitive]:
    """Return what reduces activations and attention along some of their axes."""
    return [
        _opaque("token_max", _TOKENS, r"\max_t\left({}\right)", "operands"),
        _opaque("token_mean", _TOKENS, r"\mathrm{{mean}}_t\left({}\right)", "operands"),
        _opaque("head_max", _HEADS, r"\max_h\left({}\right)", "operands"),
        _opaque("head_mean", _HEADS, r"\mathrm{{mean}}_h\left({}\right)", "operands"),
        _opaque("key_max", _HEADS, r"\max_k\left({}\right)", "operands"),
        _opaque("key_entropy", _HEADS, r"\mathrm{{entropy}}_k\left({}\right)", "never"),
        _opaque("tokens_norm", _PER_INPUT, r"\lVert {} \rVert_{{nt}}", "always"),
        _opaque("tokens_mean", _PER_INPUT, r"\mathrm{{mean}}_{{nt}}\left({}\right)", "operands"),
        _opaque("tokens_std", _PER_INPUT, r"\mathrm{{std}}_{{nt}}\left({}\right)", "always"),
        _opaque("outputs_norm", _PER_OUTPUT, r"\lVert {} \rVert_{{nt^T}}", "always"),
        _opaque(
            "outputs_mean", _PER_OUTPUT, r"\mathrm{{mean}}_{{nt}}^T\left({}\right)", "operands"
        ),
        _opaque("outputs_std", _PER_OUTPUT, r"\mathrm{{std}}_{{nt}}^T\left({}\right)", "always"),
    ]


def _aggregations() -> list[Primitive]:
    """Return what makes one number for a network out of one number for each of its layers."""
    return [
        _opaque("layers_sum", _LAYERS, r"\sum_{{\ell}}\left({}\right)", "operands"),
        _opaque("layers_mean", _LAYERS, r"\mathrm{{mean}}_{{\ell}}\left({}\right)", "operands"),
        _opaque("layers_max", _LAYERS, r"\max_{{\ell}}\left({}\right)", "operands"),
        _opaque("layers_min", _LAYERS, r"\min_{{\ell}}\left({}\right)", "operands"),
        _opaque("layers_std", _LAYERS, r"\mathrm{{std}}_{{\ell}}\left({}\right)", "always"),
        _opaque("layers_logsum", _LAYERS, r"\sum_{{\ell}}\log\left|{}\right|", "never"),
        _opaque("layers_first", _LAYERS, r"\mathrm{{first}}_{{\ell}}\left({}\right)", "operands"),
        _opaque("layers_last", _LAYERS, r"\mathrm{{last}}_{{\ell}}\left({}\right)", "operands"),
    ]


def _pruner_zero() -> list[Primitive]:
    """Return those words of Pruner-Zero that mean something else than ours; see its space."""
    milli = sympy.Rational(1, 1000)
    return [
        Primitive(
            "pz_div",
            _OF_TWO_WEIGHTS,
            published.pz_div,
            _named("pz_div"),
            r"\mathrm{{div}}_F\left({}, {}\right)",
            cost=2,
            nonnegative="operands",
        ),
        Primitive(
            "pz_log",
            _OF_WEIGHTS,
            published.pz_log,
            lambda a: sympy.log(sympy.Abs(a) + milli),
            r"\log\left(\left|{}\right| + 10^{{-3}}\right)",
            cost=2,
        ),
        Primitive(
            "pz_exp",
            _OF_WEIGHTS,
            published.pz_exp,
            lambda a: sympy.exp(sympy.Min(a, sympy.Float("88.72"))),
            r"\exp\left({}\right)",
            cost=2,
            nonnegative="always",
        ),
        Primitive(
            "pz_zsn",
            _OF_WEIGHTS,
            published.pz_zsn,
            _named("pz_zsn"),
            r"\mathrm{{zsn}}\left({}\right)",
            cost=2,
        ),
        Primitive(
            "pz_skp",
            _OF_WEIGHTS,
            published.pz_skp,
            lambda a: a,
            r"\mathrm{{skp}}\left({}\right)",
            nonnegative="operands",
        ),
    ]


_PRIMITIVES = (
    Primitive(
        "add",
        _BINARY,
        m.add,
        lambda a, b: a + b,
        r"\left({} + {}\right)",
        commutative=True,
        nonnegative="operands",
        fast=fast.add,
    ),
    Primitive("sub", _BINARY, m.sub, lambda a, b: a - b, r"\left({} - {}\right)", fast=fast.sub),
    Primitive(
        "mul",
        _BINARY,
        m.mul,
        lambda a, b: a * b,
        r"{} \cdot {}",
        commutative=True,
        nonnegative="operands",
        fast=fast.mul,
    ),
    Primitive(
        "div", _BINARY, m.div, _divide, r"\frac{{{}}}{{{}}}", nonnegative="operands", fast=fast.div
    ),
    Primitive(
        "maximum",
        _BINARY,
        m.maximum,
        sympy.Max,
        r"\max\left({}, {}\right)",
        commutative=True,
        nonnegative="operands",
        fast=fast.maximum,
    ),
    Primitive(
        "minimum",
        _BINARY,
        m.minimum,
        sympy.Min,
        r"\min\left({}, {}\right)",
        commutative=True,
        nonnegative="operands",
        fast=fast.minimum,
    ),
    Primitive("neg", _UNARY, m.neg, lambda a: -a, r"-\left({}\right)", fast=fast.neg),
    Primitive(
        "abs",
        _UNARY,
        m.absolute,
        sympy.Abs,
        r"\left|{}\right|",
        nonnegative="always",
        increasing="nonnegative",
        idempotent=True,
        fast=fast.absolute,
    ),
    Primitive(
        "square",
        _UNARY,
        m.square,
        lambda a: a**2,
        r"\left({}\right)^2",
        nonnegative="always",
        increasing="nonnegative",
        fast=fast.square,
    ),
    Primitive(
        "sqrt",
        _UNARY,
        m.sqrt,
        lambda a: sympy.sqrt(sympy.Abs(a)),
        r"\sqrt{{\left|{}\right|}}",
        nonnegative="always",
        increasing="nonnegative",
        fast=fast.sqrt,
    ),
    Primitive(
        "log",
        _UNARY,
        m.log,
        lambda a: sympy.log(sympy.Max(sympy.Abs(a), _TINY)),
        r"\log\left|{}\right|",
        cost=2,
        fast=fast.log,
    ),
    Primitive(
        "exp",
        _UNARY,
        m.exp,
        lambda a: sympy.exp(sympy.Min(a, 80)),
        r"e^{{{}}}",
        cost=2,
        nonnegative="always",
        fast=fast.exp,
    ),
    Primitive(
        "tanh",
        _UNARY,
        m.tanh,
        sympy.tanh,
        r"\tanh\left({}\right)",
        cost=2,
        nonnegative="operands",
        fast=fast.tanh,
    ),
    Primitive(
        "sigmoid",
        _UNARY,
        m.sigmoid,
        lambda a: 1 / (1 + sympy.exp(-a)),
        r"\mathrm{{sigmoid}}\left({}\right)",
        cost=2,
        nonnegative="always",
        fast=fast.sigmoid,
    ),
    Primitive(
        "sign",
        _UNARY,
        m.sign,
        sympy.sign,
        r"\mathrm{{sign}}\left({}\right)",
        nonnegative="operands",
        idempotent=True,
        fast=fast.sign,
    ),
    Primitive(
        "pow",
        _POWER,
        m.power,
        _power,
        r"\left|{}\right|^{{{}}}",
        nonnegative="always",
        fast=fast.power,
    ),
    *_reductions(),
    Primitive(
        "minmax",
        _SAME,
        m.minmax,
        _named("minmax"),
        r"\mathrm{{minmax}}\left({}\right)",
        cost=2,
        nonnegative="always",
        fast=fast.minmax,
    ),
    Primitive(
        "row_minmax",
        _IN_ROW,
        m.row_minmax,
        _named("row_minmax"),
        r"\mathrm{{minmax}}_j\left({}\right)",
        cost=2,
        nonnegative="always",
        fast=fast.row_minmax,
    ),
    Primitive(
        "zscore",
        _SAME,
        m.zscore,
        _named("zscore"),
        r"\mathrm{{z}}\left({}\right)",
        cost=2,
        fast=fast.zscore,
    ),
    Primitive(
        "row_zscore",
        _IN_ROW,
        m.row_zscore,
        _named("row_zscore"),
        r"\mathrm{{z}}_j\left({}\right)",
        cost=2,
        fast=fast.row_zscore,
    ),
    *_spectra(),
    *_over_tokens(),
    *_aggregations(),
    *_pruner_zero(),
)

CATALOG: Mapping[str, Primitive] = MappingProxyType({p.name: p for p in _PRIMITIVES})

AGGREGATIONS = frozenset(p.name for p in _PRIMITIVES if p.signatures is _LAYERS)
"""Primitives that make a Model of one Scalar for each layer."""
