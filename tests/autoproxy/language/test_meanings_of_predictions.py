"""Words of activations, attention and networks against numpy and scipy, and their protections."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoproxy.language.catalog import AGGREGATIONS, CATALOG
from autoproxy.language.types import Kind, shape_of
from tests.autoproxy.language.oracles import ORACLES

SIZES = [(4, 3), (3, 8), (7, 7), (1, 5), (6, 1)]


def values(kind: Kind, size: tuple[int, int], draw: np.random.Generator) -> Tensor:
    shape = shape_of(kind, *size, sequences=2, tokens=5, heads=3)
    made = draw.standard_normal(shape) + 0.25
    made[draw.random(shape) < 0.2] = 0.0
    return torch.from_numpy(made.astype(np.float32))


def value(name: str, *operands: Tensor) -> float:
    return float(CATALOG[name].tensor(*operands))


@pytest.mark.parametrize("name", sorted(set(ORACLES) - AGGREGATIONS))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_words_of_one_layer(name: str, size: tuple[int, int]) -> None:
    draw = np.random.default_rng(size[0])
    for kinds, result in CATALOG[name].signatures:
        operands = [values(kind, size, draw) for kind in kinds]
        found = CATALOG[name].tensor(*operands)
        wanted = ORACLES[name](*(operand.double().numpy() for operand in operands))
        assert found.dtype is torch.float32
        most = shape_of(result, *size, sequences=2, tokens=5, heads=3)
        assert np.broadcast_shapes(found.shape, most) == most
        if isinstance(wanted, np.ndarray) and wanted.ndim:
            assert found.shape == wanted.shape
        np.testing.assert_allclose(found.numpy().squeeze(), np.squeeze(wanted), 2e-5, 2e-6)


@pytest.mark.parametrize("name", sorted(AGGREGATIONS))
@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=9))
def test_aggregations_of_float64_keep_float64(name: str, layers: list[float]) -> None:
    column = torch.tensor(layers, dtype=torch.float64).reshape(-1, 1)
    found = CATALOG[name].tensor(column)
    assert found.dtype is torch.float64
    assert found.shape == (1, 1)
    scale = max(map(abs, layers))
    np.testing.assert_allclose(
        float(found), ORACLES[name](np.array(layers)), 1e-12, max(scale, 1) * 1e-14
    )


def test_aggregations_of_one_layer_and_of_the_order_of_layers() -> None:
    column = torch.tensor([[3.0], [-1.0], [2.0]])
    assert [value(f"layers_{end}", column) for end in ("first", "last")] == [3, 2]
    single = {name: value(name, torch.tensor([[-5.0]])) for name in AGGREGATIONS}
    log = float(torch.tensor(5.0).log())
    assert single == dict.fromkeys(AGGREGATIONS, -5.0) | {"layers_std": 0.0, "layers_logsum": log}


@pytest.mark.parametrize("name", ["nuclear", "spectral", "erank", "logdet"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_singular_values_of_what_is_not_finite_are_nan_and_no_error(name: str, bad: float) -> None:
    broken = torch.ones(3, 4)
    broken[1, 2] = bad
    assert math.isnan(value(name, broken))


WORST = torch.finfo(torch.float32)


def test_words_of_zeros_and_extremes() -> None:
    nothing, one = torch.zeros(3, 4), torch.ones(1, 1)
    assert value("entropy", nothing) == value("nuclear", nothing) == value("spectral", nothing) == 0
    assert value("erank", nothing) == value("erank", one) == 1
    assert value("logdet", nothing) == pytest.approx(3 * math.log(1e-6))
    assert value("spectral", one * WORST.max) == pytest.approx(WORST.max)
    assert value("nuclear", one * WORST.tiny) == pytest.approx(WORST.tiny)
    assert value("entropy", torch.full((1, 8), 1e-20)) == pytest.approx(math.log(8))
    assert value("erank", torch.eye(5) * 1e-20) == pytest.approx(5)
    assert value("entropy", torch.tensor([[0.0, -2.0, 0.0]])) == 0


def test_correlation_by_example() -> None:
    a = torch.tensor([[1.0, 2.0, 4.0]])
    assert value("correlation", a, 3 * a - 7) == pytest.approx(1)
    assert value("correlation", a, -a) == pytest.approx(-1)
    assert value("correlation", a, torch.full((1, 3), 0.1)) == 0  # whose mean is not 0.1 in float32
    assert value("correlation", torch.zeros(1, 3), a) == 0
    assert value("correlation", a * 1e-30, a * 1e-30) == pytest.approx(1)
    long = torch.stack([a, a + 1])  # (2, 1, 3) meets (2, 5, 3): a reduced axis
    assert -1 <= value("correlation", long, torch.randn(2, 5, 3)) <= 1


def test_attention_that_looks_at_one_key_has_no_entropy() -> None:
    sharp = torch.eye(4).reshape(1, 1, 4, 4)
    even = torch.full((1, 2, 4, 4), 0.25)
    assert (CATALOG["key_entropy"].tensor(sharp) == 0).all()
    torch.testing.assert_close(
        CATALOG["key_entropy"].tensor(even), torch.full((1, 2, 4, 1), math.log(4))
    )
    assert CATALOG["head_max"].tensor(even).shape == (1, 1, 4, 4)
