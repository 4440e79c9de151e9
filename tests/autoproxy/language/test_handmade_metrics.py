"""Every hand-made metric against its paper's formula in NumPy, and which of them are one metric.

The oracles read `shared/pruning.md`, section 1.2, not the expressions of the search spaces.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import order_key
from autoproxy.language.expression import Expression
from autoproxy.language.program import Program
from autoproxy.language.simplify import simplest
from autoproxy.language.types import Kind
from autoproxy.spaces import SearchSpace
from search_spaces import importance, structured

Array = NDArray[np.float64]
ROWS, COLUMNS = 6, 11


@dataclass(frozen=True)
class Layer:
    """What one linear layer shows: per-sequence gradients and inputs, and what follows of them.

    Attributes:
        w: (rows, columns).
        x: (sequences, tokens, columns).
        gradients: (sequences, rows, columns), of the loss.
        slopes: (sequences, tokens, rows), of the loss by what comes out.
        regional: (sequences, rows, columns), of the norm of the block's output.
        noise: (rows, columns).
    """

    w: Array
    x: Array
    gradients: Array
    slopes: Array
    regional: Array
    noise: Array

    @property
    def a(self) -> Array:
        found: Array = np.abs(self.w)
        return found

    @property
    def s(self) -> Array:
        """sqrt((1/N) sum of x^2 over N sequences and all their tokens): Wanda's."""
        found: Array = np.sqrt((self.x**2).sum(axis=(0, 1)) / len(self.x))
        return found

    @property
    def g100(self) -> Array:
        """The gradient of GBLM and Pruner-Zero, with 100 inside the root."""
        found: Array = 100 * np.sqrt((self.gradients**2).sum(axis=0))
        return found

    @property
    def token_fisher(self) -> Array:
        """Token by token the square of its part of each weight's gradient."""
        steep, x = self.slopes.reshape(-1, ROWS), self.x.reshape(-1, COLUMNS)
        found: Array = sum(np.outer(dy, one) ** 2 for dy, one in zip(steep, x, strict=True))
        return found

    @property
    def h(self) -> Array:
        tokens = self.x.reshape(-1, COLUMNS)
        h = 2 / len(self.x) * tokens.T @ tokens
        found: Array = h + 0.01 * np.diag(h).mean() * np.eye(COLUMNS)
        return found

    @property
    def conditional(self) -> Array:
        """Diagonal of the inverse of H for each input and those after it."""
        return np.array([np.linalg.inv(self.h[j:, j:])[0, 0] for j in range(COLUMNS)])

    @property
    def y_norm(self) -> Array:
        found: Array = np.sqrt(((self.x @ self.w.T) ** 2).sum(axis=(0, 1)) / len(self.x))
        return found

    def terminals(self) -> dict[str, torch.Tensor]:
        tokens = self.x.reshape(-1, COLUMNS)
        made: dict[str, Array | float] = {
            "W": self.w,
            "x_norm": self.s,
            "x_mean": tokens.mean(axis=0),
            "y_norm": self.y_norm[:, None],
            "x_var": tokens.var(axis=0),
            "g": self.gradients.sum(axis=0),
            "g_norm": self.g100 / 100,
            "g_token": np.sqrt(self.token_fisher),
            "g_region": np.sqrt((self.regional**2).mean(axis=0)),
            "h_inv": np.diag(np.linalg.inv(self.h)),
            "u_diag": np.sqrt(self.conditional),
            "noise": self.noise,
            "block_angle": 0.25,
            "block_change": 0.75,
            "block_index": 3.0,
        }
        return {
            name: torch.from_numpy(np.atleast_2d(value).astype(np.float32))
            for name, value in made.items()
        }


def layer(seed: int) -> Layer:
    draw = np.random.default_rng(seed)
    return Layer(
        w=draw.standard_normal((ROWS, COLUMNS)),
        x=draw.standard_normal((3, 20, COLUMNS)) * draw.lognormal(size=COLUMNS) + 0.3,
        gradients=draw.standard_normal((3, ROWS, COLUMNS)) * 0.01,
        regional=draw.standard_normal((3, ROWS, COLUMNS)) * 0.01,
        noise=draw.random((ROWS, COLUMNS)),
        slopes=draw.standard_normal((3, 20, ROWS)) * 0.01,
    )


def ri(d: Layer) -> Array:
    """A over the sum of its column, and A over the sum of its row."""
    found = np.empty((ROWS, COLUMNS))
    for i in range(ROWS):
        for j in range(COLUMNS):
            found[i, j] = d.a[i, j] / d.a[:, j].sum() + d.a[i, j] / d.a[i, :].sum()
    return found


def ria(d: Layer) -> Array:
    found: Array = ri(d) * d.s**0.5
    return found


def ria_advanced(d: Layer) -> Array:
    """log1p of A over the norm of its row, and of its column, times the fourth root of s2."""
    row = np.sqrt((d.w**2).sum(axis=1, keepdims=True))
    column = np.sqrt((d.w**2).sum(axis=0, keepdims=True))
    found: Array = np.log1p(d.a / row + d.a / column) * (d.s**2) ** 0.25
    return found


def si_as_coded(d: Layer) -> Array:
    z = ria(d)
    found: Array = (z - z.mean()) / (z.std(axis=1, keepdims=True) + 1e-5)
    return found


def mms(value: Array) -> Array:
    found: Array = (value - value.min()) / (value.max() - value.min())
    return found


WEIGHTS: dict[str, Callable[[Layer], Array]] = {
    "random": lambda d: d.noise,
    "magnitude": lambda d: d.a,
    "wanda": lambda d: d.a * d.s,
    "wanda-sqrt": lambda d: d.a * d.s**0.5,
    "wanda-square": lambda d: d.a * d.s**2,
    "wanda-gradient": lambda d: d.a * d.s * (d.g100 / 100) ** 0.25,
    "obd": lambda d: d.w**2 * d.s**2,
    "obs-code": lambda d: d.w**2 / d.conditional,
    "obs": lambda d: d.w**2 / np.diag(np.linalg.inv(d.h)),
    "gblm": lambda d: d.a * d.s + d.a * d.g100,
    "gblm-gradient": lambda d: d.a * d.g100 / 100,
    "gblm-inverse": lambda d: d.a * d.s / (d.g100 + 1e-8),
    "ri": ri,
    "ria": ria,
    "ria-1": lambda d: ri(d) * d.s,
    "ria-advanced": ria_advanced,
    "stbllm-code": si_as_coded,
    "stbllm-paper": lambda d: (ri(d) - ri(d).mean()) / ri(d).std() * d.s,
    "snip": lambda d: np.abs(d.gradients.sum(axis=0) * d.w),
    "taylor": lambda d: np.abs(d.w * d.gradients.sum(axis=0)),
    "fisher": lambda d: d.w**2 * (d.gradients**2).sum(axis=0),
    "fisher-token": lambda d: d.w**2 * d.token_fisher,
    "taylor-mix": lambda d: np.abs(
        d.w * d.gradients.sum(axis=0) - 0.5 * d.w**2 * (d.gradients**2).sum(axis=0)
    ),
    "pruner-zero": lambda d: np.abs(d.a * d.a) * mms(d.g100),
    "pruner-zero-2": lambda d: mms(d.a) ** 2 * mms(d.g100),
    "dass": lambda d: d.a * d.y_norm[:, None] ** 0.5,
    "wanda++": lambda d: (100 * np.sqrt((d.regional**2).mean(axis=0)) + d.s) * d.a,
    "stade": lambda d: d.a * d.x.reshape(-1, COLUMNS).std(axis=0),
}

CHANNELS: dict[str, Callable[[Layer], Array]] = {
    "random": lambda d: d.noise.mean(axis=0),
    "magnitude": lambda d: np.sqrt((d.w**2).sum(axis=0)),
    "wanda-sp": lambda d: (d.a * d.s).sum(axis=0),
    "flap-ifv": lambda d: d.x.reshape(-1, COLUMNS).var(axis=0),
    "flap-wifv": lambda d: d.x.reshape(-1, COLUMNS).var(axis=0) * (d.w**2).sum(axis=0),
    "flap-wifn": lambda d: (d.a * d.s).mean(axis=0),
    "ppsp": lambda d: np.sqrt(((d.s**2 * d.w**2) ** 2).sum(axis=0)),
    "taylor": lambda d: np.abs(d.w * d.gradients.sum(axis=0)).sum(axis=0),
    "taylor-vector": lambda d: np.abs((d.w * d.gradients.sum(axis=0)).sum(axis=0)),
}

HEADS: dict[str, Callable[[Layer], Array]] = {
    **{name: CHANNELS[name] for name in ("random", "wanda-sp", "ppsp", "taylor")},
    "magnitude": lambda d: (d.w**2).sum(axis=0),
    **{
        name: lambda d, name=name: CHANNELS[name](d) ** 2  # type: ignore[misc]
        for name in ("flap-ifv", "flap-wifv", "flap-wifn")
    },
}

BLOCKS: dict[str, Callable[[Layer], Array]] = {
    "random": lambda d: d.noise.mean(keepdims=True),
    "last": lambda d: np.array(-3.0),
    "first": lambda d: np.array(3.0),
    "magnitude": lambda d: d.a.mean(keepdims=True),
    "wanda-mean": lambda d: (d.a * d.s).mean(keepdims=True),
    "taylor": lambda d: np.abs(d.w * d.gradients.sum(axis=0)).sum(keepdims=True),
    "angle": lambda d: np.array(0.25),
    "change": lambda d: np.array(0.75),
}


def value(expression: Expression, terminals: dict[str, torch.Tensor]) -> torch.Tensor:
    (found,) = Program([expression]).run(terminals)
    return found


@pytest.mark.parametrize(
    ("space", "oracles"),
    [
        (importance.SPACE, WEIGHTS),
        (structured.CHANNELS, CHANNELS),
        (structured.HEADS, HEADS),
        (structured.BLOCKS, BLOCKS),
    ],
    ids=lambda given: getattr(given, "name", ""),
)
def test_every_hand_made_metric_is_its_formula(
    space: SearchSpace, oracles: dict[str, Callable[[Layer], Array]]
) -> None:
    assert {baseline.name for baseline in space.baselines} == set(oracles)
    for seed in range(5):
        data = layer(seed)
        terminals = data.terminals()
        for name, oracle in oracles.items():
            found = value(space.baseline(name).expression, terminals)
            np.testing.assert_allclose(
                found.numpy(),
                np.atleast_2d(oracle(data)),
                rtol=1e-4,
                atol=1e-5 * np.abs(oracle(data)).max(),
                err_msg=name,
            )


def test_no_two_oracles_agree_but_those_that_should() -> None:
    data = layer(0)
    names = list(WEIGHTS)
    scaled = {name: WEIGHTS[name](data) / np.abs(WEIGHTS[name](data)).max() for name in names}
    same = {
        (a, b)
        for a in names
        for b in names
        if a < b and np.allclose(scaled[a], scaled[b], rtol=1e-3)
    }
    assert same == {("snip", "taylor")}


# Which are one metric. Numbers of few bits, so that every product is exact in float32.

few_bits = st.integers(-15, 15).map(lambda n: n / 8)
positive = st.integers(1, 15).map(lambda n: n / 4)


@st.composite
def exact_layers(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(2, 7))

    def matrix(numbers: st.SearchStrategy[float], high: int) -> torch.Tensor:
        row = st.lists(numbers, min_size=columns, max_size=columns)
        return torch.tensor(draw(st.lists(row, min_size=high, max_size=high)))

    gradient = matrix(st.integers(0, 16).map(lambda n: n / 4), rows)
    gradient[0, 0], gradient[0, 1] = 0.5, 4.5  # a range that divides exactly
    return {
        "W": matrix(few_bits, rows),
        "x_norm": matrix(positive, 1),
        "g_norm": gradient.clamp(0.5, 4.5),
    }


def ranks(row: Array) -> list[int]:
    """Return for each entry how many distinct values lie below: equal ranks are ties."""
    distinct = sorted(set(row.tolist()))
    return [distinct.index(value) for value in row.tolist()]


def shipped(name: str) -> Expression:
    return importance.SPACE.baseline(name).expression


@given(exact_layers())
def test_obd_orders_as_wanda_does(terminals: dict[str, torch.Tensor]) -> None:
    obd = value(shipped("obd"), terminals).double().numpy()
    wanda = value(shipped("wanda"), terminals).double().numpy()
    assert np.array_equal(obd, wanda**2)
    assert ranks(obd.reshape(-1)) == ranks(wanda.reshape(-1))


@given(exact_layers())
def test_pruner_zero_orders_a_row_as_a_product_without_its_square(
    terminals: dict[str, torch.Tensor],
) -> None:
    found = value(shipped("pruner-zero"), terminals).double().numpy()
    gradient = terminals["g_norm"].double().numpy()
    plain = np.abs(terminals["W"].double().numpy()) * np.sqrt(gradient - gradient.min())
    for ours, theirs in zip(found, plain, strict=True):
        assert ranks(ours) == ranks(theirs.round(9))


@given(st.integers(0, 10**6))
def test_standardized_importance_as_coded_orders_a_row_as_ria(seed: int) -> None:
    terminals = layer(seed).terminals()
    terminals["W"][:, 1] = terminals["W"][:, 0]
    terminals["x_norm"][:, 1] = terminals["x_norm"][:, 0]  # ties
    si = value(shipped("stbllm-code"), terminals).double()
    ria_ = value(shipped("ria"), terminals).double()
    for ours, theirs in zip(si, ria_, strict=True):
        sort = theirs.argsort(stable=True)
        assert ours[0] == ours[1]
        assert (ours[sort].diff() >= 0).all()
        apart = theirs[sort].diff() > 1e-5 * theirs.max()
        assert (ours[sort].diff()[apart] > 0).all()


def test_within_a_matrix_standardized_importance_is_another_metric() -> None:
    terminals = layer(0).terminals()
    si, ria_ = value(shipped("stbllm-code"), terminals), value(shipped("ria"), terminals)
    assert si.reshape(-1).argsort().tolist() != ria_.reshape(-1).argsort().tolist()


ONE_METRIC = [
    ("wanda", "obd", True, True),
    ("snip", "taylor", True, True),
    ("ria", "stbllm-code", True, False),
    ("wanda", "wanda-sqrt", False, False),
    ("ri", "ria", False, False),
    ("pruner-zero", "fisher", False, False),
    ("gblm", "wanda", False, False),
    ("stade", "wanda", False, False),
    ("dass", "magnitude", True, False),
    ("pruner-zero-2", "pruner-zero", False, False),
    ("obs-code", "obs", False, False),
]


@pytest.mark.parametrize(("a", "b", "by_row", "by_matrix"), ONE_METRIC)
def test_algebra_knows_which_are_one_metric(a: str, b: str, by_row: bool, by_matrix: bool) -> None:
    for blindness, same in ((Blindness.ROW, by_row), (Blindness.MATRIX, by_matrix)):
        digests = {
            order_key(simplest(shipped(name), blindness, Kind.WEIGHT), blindness) for name in (a, b)
        }
        assert (len(digests) == 1) is same, (blindness, digests)
