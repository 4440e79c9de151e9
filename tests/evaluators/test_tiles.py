"""Masks made tile by tile are the masks of the whole importance, to the bit."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.language.program import Program
from autoproxy.language.types import Kind
from evaluators import kernels
from evaluators.masks import NM, Pattern, Unstructured, keep_mask, pack
from evaluators.tiles import Tiles
from tests.autoproxy.language.formulas import Recursion, expressions, hard_inputs

HOW: list[tuple[Pattern, str]] = [
    (Unstructured(Fraction(1, 2)), "row"),
    (Unstructured(Fraction("0.29")), "row"),
    (Unstructured(Fraction(0)), "row"),
    (Unstructured(Fraction("0.99")), "row"),
    (Unstructured(Fraction(1, 2)), "matrix"),
    (Unstructured(Fraction("0.03")), "matrix"),
    (Unstructured(Fraction(1, 2)), "columns:8"),
    (NM(2, 4), "row"),
    (NM(1, 4), "matrix"),
    (NM(4, 8), "row"),
]
HARD = (
    "W",
    "abs(W) * x_norm",
    "abs(W) ** 0.3 * x_norm ** 0.6",  # the last bits of powers depend on places in memory
    "row_minmax(W)",
    "zscore(abs(W)) + row_std(W) ** 0.3",
    "minmax(g_norm) * abs(W)",
    "div(abs(W), col_sum(abs(W))) + div(abs(W), row_sum(abs(W)))",
    "sign(W)",  # three values, so all is decided by ties
    "x_norm",
    "y_norm",
    "2",
)


@pytest.fixture(scope="module", autouse=True, params=["compiled", "torch"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    available, threads = kernels.AVAILABLE, torch.get_num_threads()
    if request.param == "compiled" and not available:
        pytest.skip("Numba is not installed")
    kernels.AVAILABLE = request.param == "compiled"
    torch.set_num_threads(1)
    yield request.param
    kernels.AVAILABLE = available
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def small_tiles() -> Iterator[None]:
    """Let a few rows be a tile, so that small layers have many."""
    real = Program.run_in_tiles
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "run_in_tiles", lambda self, inputs: real(self, inputs, 1))
        yield


def at_once(expression: Expression, inputs: dict[str, Tensor], how: tuple[Pattern, str]) -> object:
    """Return the bits of the mask of the whole importance, None where it is not finite."""
    value = Recursion(inputs).value(expression).expand(inputs["W"].shape)
    if not bool(torch.isfinite(value).all()):
        return None
    return pack(keep_mask(value.contiguous(), *how)).tolist()


def listed(bits: object) -> object:
    return bits.tolist() if isinstance(bits, np.ndarray) else bits


@pytest.mark.parametrize("text", HARD)
@pytest.mark.parametrize("size", [(70, 40), (33, 8), (1, 16), (65, 64)])
def test_a_mask_is_that_of_the_whole_importance(text: str, size: tuple[int, int]) -> None:
    tiles, expression = Tiles(), parse(text)
    for seed in range(3):
        inputs = hard_inputs(seed, *size)
        for how in HOW:
            found = tiles.keep_bits(Program([expression]), inputs, *how)
            assert listed(found) == at_once(expression, inputs, how), how


@given(expressions(Kind.WEIGHT), st.integers(0, 10**6), st.sampled_from(HOW))
def test_any_importance(expression: Expression, seed: int, how: tuple[Pattern, str]) -> None:
    inputs = hard_inputs(seed, 40, 24)
    found = Tiles().keep_bits(Program([expression]), inputs, *how)
    assert listed(found) == at_once(expression, inputs, how)


def test_a_row_whose_count_does_not_fill_bytes() -> None:
    inputs = hard_inputs(5, 67, 13)
    how = (Unstructured(Fraction(1, 2)), "row")
    found = Tiles().keep_bits(Program([parse("abs(W)")]), inputs, *how)
    assert listed(found) == at_once(parse("abs(W)"), inputs, how)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 39, 69])
def test_an_importance_that_is_not_finite_gives_no_mask(
    how: tuple[Pattern, str], bad: float, place: int
) -> None:
    inputs = {"W": torch.ones(70, 40)}
    inputs["W"][place, 7] = bad
    assert Tiles().keep_bits(Program([parse("W")]), inputs, *how) is None


def test_large_finite_numbers_are_finite() -> None:
    """Sums of them are not, and those only say where to look for a threshold."""
    draw = torch.Generator().manual_seed(0)
    inputs = {"W": (torch.rand(70, 64, generator=draw) - 0.5) * 6e38}
    how = (Unstructured(Fraction(1, 2)), "row")
    for weight in (inputs["W"], inputs["W"] * 1e-45, inputs["W"].abs().clamp_min(3e38)):
        found = Tiles().keep_bits(Program([parse("W")]), {"W": weight}, *how)
        assert listed(found) == at_once(parse("W"), {"W": weight}, how)


def test_room_is_used_again_for_layers_of_other_sizes() -> None:
    tiles, program = Tiles(), Program([parse("zscore(abs(W)) * minmax(g_norm)")])
    for size in ((70, 40), (8, 16), (90, 48), (70, 40)):
        inputs = hard_inputs(1, *size)
        for how in HOW:
            expected = at_once(program.expressions[0], inputs, how)
            assert listed(tiles.keep_bits(program, inputs, *how)) == expected


def test_inputs_stay_as_they_are() -> None:
    inputs = hard_inputs(2, 70, 40)
    before = {name: value.clone() for name, value in inputs.items()}
    for text in HARD:
        for how in HOW:
            Tiles().keep_bits(Program([parse(text)]), inputs, *how)
    for name, value in inputs.items():
        assert torch.equal(value.view(torch.int32), before[name].view(torch.int32))
