"""Every primitive against its formula, with loops in float64; and what the catalogue claims."""

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from autoproxy.language import published_meanings
from autoproxy.language.catalog import CATALOG
from autoproxy.language.types import Kind, shape_of
from tests.autoproxy.language.formulas import HARD
from tests.autoproxy.language.oracles import ORACLES

Matrix = NDArray[np.float64]


def _divided(a: float, b: float) -> float:
    if abs(b) < 1e-30:
        b = -1e-30 if b < 0 else 1e-30
    return a / b


def _power(a: float, exponent: float) -> float:
    base = abs(a)
    if exponent < 0:
        base = max(base, 1e-9)
    return math.pow(base, exponent)


ELEMENTWISE: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": _divided,
    "maximum": max,
    "minimum": min,
    "neg": lambda a: 0 - a,
    "abs": lambda a: a if a > 0 else 0 - a,
    "square": lambda a: a * a,
    "sqrt": lambda a: math.sqrt(abs(a)),
    "log": lambda a: math.log(max(abs(a), 1e-30)),
    "exp": lambda a: math.exp(min(a, 80.0)),
    "tanh": math.tanh,
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)) if a > -700 else 0.0,
    "sign": lambda a: (a > 0) - (a < 0),
    "pow": _power,
    "pz_log": lambda a: math.log(abs(a) + 0.001),
    "pz_exp": lambda a: math.exp(min(a, 88.72)),
    "pz_skp": lambda a: a,
}


def _std(values: Sequence[float]) -> float:
    middle = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / len(values))


STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum,
    "mean": lambda values: math.fsum(values) / len(values),
    "max": max,
    "min": min,
    "std": _std,
    "norm": lambda values: math.sqrt(math.fsum(value**2 for value in values)),
}


def _minmax(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def _zscore(values: Sequence[float]) -> list[float]:
    middle, spread = math.fsum(values) / len(values), _std(values)
    return [(value - middle) / spread if spread else 0.0 for value in values]


def _zsn(values: Sequence[float]) -> list[float]:
    """Pruner-Zero's, by the deviation of a sample."""
    wider = math.sqrt(len(values) / max(1, len(values) - 1))
    return [value / wider for value in _zscore(values)]


NORMALISED: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "minmax": _minmax,
    "zscore": _zscore,
    "pz_zsn": _zsn,
}


def _reduced(name: str, a: Matrix) -> list[list[float]]:
    group, word = name.split("_")
    of = STATISTICS[word]
    if group == "row":
        return [[of(row)] for row in a.tolist()]
    if group == "col":
        return [[of(column) for column in a.T.tolist()]]
    return [[of(a.reshape(-1).tolist())]]


def _normalised(name: str, a: Matrix) -> Matrix:
    if name.startswith("row_"):
        of = NORMALISED[name.removeprefix("row_")]
        return np.array([of(row) for row in a.tolist()])
    return np.array(NORMALISED[name](a.reshape(-1).tolist())).reshape(a.shape)


REDUCTIONS = [f"{group}_{word}" for group in ("row", "col", "all") for word in STATISTICS]
NORMALISATIONS = ["minmax", "row_minmax", "zscore", "row_zscore", "pz_zsn"]


def test_every_primitive_has_an_oracle() -> None:
    assert {*ELEMENTWISE, *REDUCTIONS, *NORMALISATIONS, *ORACLES, "pz_div"} == set(CATALOG)


@pytest.mark.parametrize(("rows", "columns"), [(1, 6), (6, 1), (3, 5), (5, 40)])
def test_pruner_zeros_division_is_by_the_norm_of_a_divisor_as_wide_as_the_result(
    rows: int, columns: int
) -> None:
    draw = np.random.default_rng(rows)
    for kinds, result in CATALOG["pz_div"].signatures:
        left, right = (
            draw.standard_normal(shape_of(kind, rows, columns)).astype(np.float32) for kind in kinds
        )
        shape = shape_of(result, rows, columns)
        wide = np.broadcast_to(right.astype(np.float64), shape).ravel()
        norm = math.sqrt(math.fsum(value**2 for value in wide.tolist()))
        found = CATALOG["pz_div"].tensor(torch.from_numpy(left), torch.from_numpy(right))
        _agree(found, np.broadcast_to(left, shape) / norm, tolerance=2e-5)
    zero = CATALOG["pz_div"].tensor(torch.tensor([[2.0]]), torch.zeros(1, 1))
    assert zero.item() == pytest.approx(2e30)


def test_published_meanings_stay_as_they_were() -> None:
    """No protocol hashes them, so a change would mix values of two meanings: name a new word."""
    source = inspect.getsource(published_meanings).partition("import torch\n")[2]
    lines = [line for line in source.splitlines() if not line.strip().startswith('"""')]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "fc6b62d1607f46cf"


def _agree(found: Tensor, wanted: object, *, tolerance: float = 2e-6) -> None:
    assert found.dtype is torch.float32
    with np.errstate(over="ignore", under="ignore"):
        wanted = np.asarray(wanted, np.float64).astype(np.float32)
    assert tuple(found.shape) == wanted.shape
    np.testing.assert_allclose(found.numpy(), wanted, rtol=tolerance, atol=2e-38)


def _hard(shape: tuple[int, ...], draw: np.random.Generator) -> Tensor:
    values = np.where(
        draw.random(shape) < 0.5, draw.choice(HARD, shape), 3 * draw.standard_normal(shape)
    )
    return torch.from_numpy(values.astype(np.float32))


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (4, 33)])
def test_elementwise_on_every_pair_of_kinds(name: str, rows: int, columns: int) -> None:
    draw = np.random.default_rng(len(name))
    for kinds, result in CATALOG[name].signatures:
        for exponent in (-4.0, -1.0, -0.5, 0.0, 0.3, 0.5, 1.0, 1.7, 2.0, 3.0, 4.0):
            operands: list[Tensor | float] = [
                exponent if kind is Kind.EXPONENT else _hard(shape_of(kind, rows, columns), draw)
                for kind in kinds
            ]
            wanted = np.empty(shape_of(result, rows, columns))
            for place in product(*map(range, wanted.shape)):
                wanted[place] = ELEMENTWISE[name](*(_at(operand, place) for operand in operands))
            # A sum near 1 is rounded before its logarithm, near 0, is taken.
            near = 2e-4 if name == "pz_log" else 2e-6
            _agree(CATALOG[name].tensor(*operands), wanted, tolerance=near)
            if Kind.EXPONENT not in kinds:
                break


def _at(operand: Tensor | float, place: tuple[int, ...]) -> float:
    if isinstance(operand, float):
        return operand
    own = place[len(place) - operand.dim() :]  # the axes that both have are the last ones
    return float(operand[tuple(i % n for i, n in zip(own, operand.shape, strict=True))])


@pytest.mark.parametrize(
    ("name", "operands", "wanted"),
    [
        ("div", (1.0, 0.0), 1e30),
        ("div", (1.0, -0.0), 1e30),
        ("div", (-2.0, 0.0), -2e30),
        ("div", (1.0, -1e-40), -1e30),
        ("div", (0.0, 0.0), 0.0),
        ("div", (1e-29, 1e-29), 1.0),
        ("log", (0.0,), -69.0775528),
        ("log", (-math.e,), 1.0),
        ("log", (-1e-44,), -69.0775528),
        ("sqrt", (-4.0,), 2.0),
        ("exp", (1e4,), 5.5406224e34),
        ("exp", (-1e4,), 0.0),
        ("exp", (79.0,), 2.0382810e34),
        ("sigmoid", (-1e4,), 0.0),
        ("tanh", (20.0,), 1.0),
        ("sign", (-1e-45,), -1.0),
        ("sign", (-0.0,), 0.0),
        ("pow", (0.0, -4.0), 1e36),
        ("pow", (-1e-12, -1.0), 1e9),
        ("pow", (-1e-12, 1.0), 1e-12),
        ("pow", (0.0, 0.0), 1.0),
        ("pow", (-8.0, 0.5), 2.8284271),
        ("pow", (-2.0, 3.0), 8.0),
        ("pz_log", (0.0,), -6.9077553),
        ("pz_log", (-1.999,), 0.6931472),
        ("pz_exp", (1e4,), 3.3931806e38),
        ("pz_exp", (85.0,), 8.2230127e36),
    ],
)
def test_where_protections_bite(name: str, operands: tuple[float, ...], wanted: float) -> None:
    takes = CATALOG[name].signatures[-1][0]
    given_ = [
        value if kind is Kind.EXPONENT else torch.tensor([[value]])
        for value, kind in zip(operands, takes, strict=True)
    ]
    _agree(CATALOG[name].tensor(*given_), [[wanted]])


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 6), (6, 1), (3, 5), (5, 40)])
def test_reductions(name: str, rows: int, columns: int) -> None:
    draw = np.random.default_rng(rows)
    for (kind,), result in CATALOG[name].signatures:
        shape = shape_of(kind, rows, columns)
        a = draw.standard_normal(shape).astype(np.float32) + 0.25
        a[draw.random(shape) < 0.2] = 0.0
        found = CATALOG[name].tensor(torch.from_numpy(a))
        assert tuple(found.shape) == shape_of(result, rows, columns)
        np.testing.assert_allclose(
            found.numpy(), _reduced(name, a.astype(np.float64)), rtol=2e-5, atol=2e-6
        )


@pytest.mark.parametrize("name", NORMALISATIONS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 6), (6, 1), (3, 5), (5, 40)])
def test_normalisations(name: str, rows: int, columns: int) -> None:
    draw = np.random.default_rng(rows)
    for (kind,), _ in CATALOG[name].signatures:
        a = draw.standard_normal(shape_of(kind, rows, columns)).astype(np.float32) * 100 - 50
        wanted = _normalised(name, a.astype(np.float64))
        np.testing.assert_allclose(
            CATALOG[name].tensor(torch.from_numpy(a)).numpy(), wanted, rtol=2e-5, atol=2e-6
        )


@pytest.mark.parametrize("name", NORMALISATIONS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 0.1, 1e4, 1e-38])
def test_a_constant_row_stays_constant_and_finite(name: str, value: float) -> None:
    a = torch.randn((3, 7), generator=torch.Generator().manual_seed(0))
    a[1] = value
    found = CATALOG[name].tensor(a)
    assert found.isfinite().all()
    assert (found[1] == found[1, 0]).all()
    if name == "row_minmax":
        assert (found[1] == 0).all()
        assert found[0].min() == 0
        assert found[0].max() == 1
    flat = CATALOG[name].tensor(torch.full((3, 7), value))
    assert flat.isfinite().all()
    assert (flat == flat[0, 0]).all()


hard_rows = st.lists(st.sampled_from(HARD) | st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9)
UNARY = [name for name, primitive in CATALOG.items() if primitive.arity == 1]
BINARY = [name for name, p in CATALOG.items() if p.arity == 2 and name != "pow"]


@given(hard_rows, hard_rows)
def test_claims_of_symmetry_and_sign_hold(left: list[float], right: list[float]) -> None:
    a, b = torch.tensor(left).reshape(-1, 1), torch.tensor(right).reshape(1, -1)
    for name in BINARY:
        primitive = CATALOG[name]
        if primitive.commutative:
            assert torch.equal(primitive.tensor(a, b), primitive.tensor(b, a))
        if primitive.nonnegative == "operands":
            assert (primitive.tensor(a.abs(), b.abs()) >= 0).all()
        assert primitive.nonnegative != "always"


@given(hard_rows)
def test_claims_about_one_operand_hold(values: list[float]) -> None:
    a = torch.tensor([values])
    for name in UNARY:
        primitive = CATALOG[name]
        once = primitive.tensor(a)
        if primitive.nonnegative == "always":
            assert (once >= 0).all(), name
        if primitive.nonnegative == "operands":
            assert (primitive.tensor(a.abs()) >= 0).all(), name
        if primitive.idempotent:
            assert torch.equal(primitive.tensor(once), once), name
    for exponent in (-1.5, 0.0, 3.0):
        assert (CATALOG["pow"].tensor(a, exponent) >= 0).all()


@given(st.lists(st.floats(2**-40, 2**40, width=32), min_size=2, max_size=9))
def test_claims_of_growth_hold_up_to_rounding(values: list[float]) -> None:
    ordered = torch.tensor([sorted({0.0, *values})])
    for name, primitive in CATALOG.items():
        assert primitive.increasing in {"nowhere", "nonnegative"}
        if primitive.increasing == "nonnegative":
            mapped = primitive.tensor(ordered)
            assert (mapped.diff() >= 0).all(), name
            apart = ordered[:, 1:] > 1.001 * ordered[:, :-1]
            assert (mapped.diff()[apart] > 0).all(), name


def test_claims_that_would_be_false_are_not_made() -> None:
    growing = {name for name, p in CATALOG.items() if p.increasing != "nowhere"}
    assert growing == {"abs", "square", "sqrt"}  # tanh saturates, log is even, exp overflows
    commutative = {name for name, p in CATALOG.items() if p.commutative}
    assert commutative == {"add", "mul", "maximum", "minimum", "correlation"}
    assert {name for name, p in CATALOG.items() if p.idempotent} == {"abs", "sign"}
