"""The simplification that stands in for a proposal: same order, never larger, its own fixpoint."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.variation import sprout
from autoproxy.language.blindness import Blindness
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.program import Program
from autoproxy.language.simplify import simplest, simplify
from autoproxy.language.types import Kind
from search_spaces.importance import SPACE
from search_spaces.pruner_zero import PRUNER_ZERO

ROWS, COLUMNS = 5, 9


def _inputs(seed: int) -> dict[str, torch.Tensor]:
    """Return terminals whose magnitudes stay away from zero, where protections bite."""
    draw = torch.Generator().manual_seed(seed)

    def away(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=draw) + 0.5

    signs = torch.where(torch.rand((ROWS, COLUMNS), generator=draw) < 0.5, -1.0, 1.0)
    return {
        "W": away(ROWS, COLUMNS) * signs,
        "g": away(ROWS, COLUMNS) * signs.flip(0),
        "g_norm": away(ROWS, COLUMNS),
        "x_norm": away(1, COLUMNS),
        "x_mean": away(1, COLUMNS) - 1.0,
        "x_var": away(1, COLUMNS),
        "y_norm": away(ROWS, 1),
        "g_token": away(ROWS, COLUMNS),
    }


def _value(expression: Expression, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    (value,) = Program([expression]).run(inputs)
    return value.double().expand(ROWS, COLUMNS)


GRAMMAR = Grammar(SPACE)


def _drawn(seed: int) -> Expression:
    return sprout(GRAMMAR, random.Random(seed), low=1, high=2 + seed % 4, full=seed % 2 == 0)


@settings(max_examples=300)
@given(st.integers(0, 10**9))
def test_it_ends_never_grows_and_is_its_own_fixpoint(seed: int) -> None:
    drawn = _drawn(seed)
    for blindness in Blindness:
        found = simplest(drawn, blindness, Kind.WEIGHT)
        assert found.size <= drawn.size
        assert simplest(found, blindness, Kind.WEIGHT) == found
    assert kind_of(simplify(drawn)) is kind_of(drawn)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "mul(mul(100, g_norm), neg(square(x_norm)))",
            "neg(mul(100, mul(g_norm, square(x_norm))))",
        ),
        ("mul(neg(abs(W)), mul(100, g_norm))", "neg(mul(100, mul(abs(W), g_norm)))"),
    ],
)
def test_what_a_sign_moved_out_of_is_simplified_too(text: str, wanted: str) -> None:
    found = simplify(parse(text))
    assert str(found) == wanted
    assert simplify(found) is found


def test_it_is_its_own_fixpoint_over_signed_words_too() -> None:
    grammar, rng = Grammar(PRUNER_ZERO), random.Random(1)
    for number in range(1500):
        drawn = sprout(grammar, rng, low=1, high=2 + number % 4, full=number % 2 == 0)
        found = simplify(drawn)
        assert simplify(found) is found, str(drawn)


@settings(max_examples=300)
@given(st.integers(0, 10**9), st.sampled_from([Blindness.ROW, Blindness.MATRIX]))
def test_no_clear_order_is_turned_round(seed: int, blindness: Blindness) -> None:
    drawn = _drawn(seed)
    if drawn.size > 30 or any(node.head in {"div", "log"} for node in drawn.walk()):
        return  # where they bite, protections are lifted on purpose
    inputs = _inputs(seed)
    before = _value(drawn, inputs)
    after = _value(simplest(drawn, blindness, Kind.WEIGHT), inputs)
    if not (before.isfinite().all() and after.isfinite().all()):
        return
    if blindness is Blindness.MATRIX:
        before, after = before.reshape(1, -1), after.reshape(1, -1)
    for old, new in zip(before, after, strict=True):
        rises = (old[:, None] - old) > 1e-2 * old.abs().max()
        falls = (new[:, None] - new) < -1e-2 * new.abs().max()
        assert not (rises & falls).any()


@pytest.mark.parametrize(
    ("text", "row", "matrix"),
    [
        ("add(abs(W), sub(sub(g_norm, 10), 4.5))", "add(abs(W), g_norm)", None),
        ("mul(W, mul(3, mul(x_norm, 2)))", "mul(W, x_norm)", None),
        ("sqrt(mul(W, add(10, x_norm)))", "mul(abs(W), add(10, x_norm))", None),
        ("div(mul(abs(W), y_norm), 2)", "abs(W)", "mul(abs(W), y_norm)"),
        ("sub(add(W, x_norm), x_norm)", "W", None),
        ("div(mul(W, x_norm), mul(y_norm, x_norm))", "W", "div(W, y_norm)"),
        ("pow(sqrt(mul(W, W)), 3)", "abs(W)", None),
        ("mul(pow(W, 0.375), pow(x_norm, 0.25))", "mul(abs(W), pow(x_norm, 0.667))", None),
        ("div(square(W), h_inv)", "div(square(W), h_inv)", None),
        # The root that gives the formula its kind stays.
        ("mul(y_norm, x_norm)", "mul(x_norm, y_norm)", "mul(x_norm, y_norm)"),
        # Squares of sums, and signs, are not what their parts are.
        ("square(add(W, x_norm))", "abs(add(W, x_norm))", None),
        ("mul(W, -2)", "mul(-2, W)", None),
    ],
)
def test_by_example(text: str, row: str, matrix: str | None) -> None:
    for blindness, wanted in ((Blindness.ROW, row), (Blindness.MATRIX, matrix or row)):
        assert str(simplest(parse(text), blindness, Kind.WEIGHT)) == wanted


def test_where_magnitudes_count_the_root_stays() -> None:
    text = "sqrt(mul(abs(W), 2))"
    kept = simplest(parse(text), Blindness.NOTHING, Kind.WEIGHT)
    assert str(kept) == "mul(sqrt(W), 1.41421)" or kept.head == "mul"
    inputs = _inputs(1)
    assert torch.allclose(_value(kept, inputs), _value(parse(text), inputs), rtol=1e-5)
