"""Tuned numbers: of the parent's shape, near the best known, and better than blind steps."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.breeding.constants import shape_of, stepped_factor, tune
from autoproxy.evaluation import Direction, Individual, Objective
from autoproxy.language.expression import constant
from autoproxy.language.parse import parse
from autoproxy.language.primitive import EXPONENT_RANGE
from tests.autoproxy.export.drawn import drawn

LOSS = Objective("loss", "none", Direction.MINIMIZE)
GAIN = Objective("gain", "none", Direction.MAXIMIZE)


def known(exponent: float, factor: float, *, sign: float = 1.0) -> Individual:
    """One of a bowl whose bottom is at an exponent of 0.4 and a factor of 8."""
    text = f"add(mul(abs(W), pow(x_norm, {exponent})), mul({factor}, g_norm))"
    value = (exponent - 0.4) ** 2 + (0.2 * (factor**0.5 - 8**0.5)) ** 2
    return Individual(str(parse(text)), f"{exponent} {factor}", 9, sign * value, 0)


GRID = [(e, f) for e in (-0.5, 0.1, 0.3, 0.7, 1.25) for f in (1.0, 4.0, 30.0)]


@pytest.mark.parametrize("objective", [LOSS, GAIN])
def test_what_is_known_leads_nearer_to_the_best(objective: Objective) -> None:
    """A dozen proposals, one after another; blind steps come down to a quarter of the start."""
    like = [known(*point, sign=objective.sign) for point in GRID]
    start = min(objective.sign * i.value for i in like)
    for turn in range(12):
        found = tune(like[0], like, objective, random.Random(turn))
        assert found is not None
        shape, (exponent, factor) = shape_of(str(found))
        assert shape == shape_of(like[0].text)[0]
        like.append(known(exponent, factor, sign=objective.sign))
    best = min(objective.sign * i.value for i in like)
    assert best < start / 20


def test_the_same_is_proposed_to_the_same_and_chance_is_the_stream_s() -> None:
    like = [known(*point) for point in GRID]
    first = [str(tune(like[0], like, LOSS, random.Random(seed))) for seed in range(8)]
    random.seed(5)  # noqa: TID251 - the surroundings must not matter
    assert first == [str(tune(like[0], like, LOSS, random.Random(seed))) for seed in range(8)]
    assert len(set(first)) > 4


def test_formulas_of_another_shape_do_not_count() -> None:
    like = [known(*point) for point in GRID]
    other = [Individual("mul(abs(W), pow(x_norm, 3))", "o", 4, -100.0, 0)]
    one = tune(like[0], like, LOSS, random.Random(1))
    assert tune(like[0], [*like, *other], LOSS, random.Random(1)) == one


def test_without_numbers_there_is_nothing_to_tune() -> None:
    assert (
        tune(Individual("mul(abs(W), x_norm)", "k", 4, 0.5, 0), [], LOSS, random.Random(0)) is None
    )


def test_roots_stay_roots_in_a_space_without_powers() -> None:
    parent = Individual("mul(0.5, sqrt(x_norm))", "k", 4, 0.5, 0)
    found = tune(parent, [], LOSS, random.Random(0), powers=False)
    assert str(found).endswith("sqrt(x_norm))")
    bare = Individual("sqrt(x_norm)", "k", 4, 0.5, 0)
    assert tune(bare, [], LOSS, random.Random(0), powers=False) is None


def test_one_alone_takes_a_step() -> None:
    """Nothing else is known: an exponent or factor near its own."""
    parent = Individual("mul(W, sqrt(x_norm))", "k", 4, 0.5, 0)
    steps = [shape_of(str(tune(parent, [], LOSS, random.Random(n))))[1][0] for n in range(40)]
    assert 0.1 < sum(abs(step - 0.5) for step in steps) / 40 < 0.4


def test_those_on_one_line_are_no_reason_to_stop() -> None:
    like = [known(n / 10, 1.0) for n in range(8)]
    assert tune(like[0], like, LOSS, random.Random(0)) is not None


@given(st.sampled_from(drawn(60)), st.integers(0, 9))
def test_whatever_has_numbers_keeps_its_shape_and_lawful_exponents(
    expression: object, seed: int
) -> None:
    parent = Individual(str(expression), "k", 1, 0.5, 0)
    shape, numbers = shape_of(parent.text)
    found = tune(parent, [], LOSS, random.Random(seed))
    if not numbers:
        assert found is None
        return
    assert found is not None
    again, moved = shape_of(str(found))
    assert again == shape
    low, high = EXPONENT_RANGE
    for mark, number in zip(shape.split("?")[1:], moved, strict=True):
        assert not mark.startswith("^") or low <= number <= high


def test_no_step_leaves_the_numbers_that_a_constant_takes() -> None:
    """From any number of float32, however far, by any mutation and by tuning."""
    largest = 3.4028234663852886e38
    for number in (largest, -largest, 2e38, 1e30, 9e29):
        for step in (-3.0, 0.0, 0.1, 3.0):
            value = stepped_factor(number, step)
            assert math.copysign(1.0, value) == math.copysign(1.0, number)
            assert abs(constant(value).value or 0.0) <= 1.01e30
    assert stepped_factor(1e29, 1.0) == 2e29
