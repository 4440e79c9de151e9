"""Charts that everybody can read: contrast, and values where they belong."""

import itertools
import re
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.evaluation import Direction, Objective
from autoproxy.report.charts import COLOURS, good_scale, some_colours

STYLE = (files("autoproxy.report") / "assets" / "style.css").read_text(encoding="utf-8")
BACKS = sorted(set(re.findall(r"--back: (#\w{6})", STYLE)))
TEXTS = re.findall(
    r"--back: (#\w{6}).*?--text: (#\w{6}); --soft: (#\w{6}).*?--link: (#\w{6})", STYLE, re.DOTALL
)


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_measure_of_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(("name", "back"), [*itertools.product(COLOURS, BACKS)])
def test_marks_stand_out_on_both_pages(name: str, back: str) -> None:
    assert contrast(COLOURS[name], back) >= 3  # WCAG 2.2, 1.4.11: graphical objects


def test_words_stand_out_on_both_pages() -> None:
    assert len(BACKS) == 2
    assert len({back for back, *_ in TEXTS}) == 2
    for back, *words in TEXTS:
        assert all(contrast(word, back) >= 4.5 for word in words)


@given(
    values=st.lists(st.floats(-100, 100), min_size=1, max_size=20),
    direction=st.sampled_from(Direction),
    shown=st.lists(st.floats(-100, 100), max_size=2),
)
def test_the_best_and_the_usual_are_in_sight(
    values: list[float], direction: Direction, shown: list[float]
) -> None:
    rows = [{"value": value} for value in values]
    shown = [value for value in shown if min(values) <= value <= max(values)]
    scale = good_scale(rows, Objective("v", "", direction), shown).to_dict()
    low, high = scale["domain"]
    ranked = sorted(values, reverse=direction is Direction.MAXIMIZE)
    for value in [*ranked[: len(values) // 2 + 1], *shown]:
        assert low <= value <= high


@given(count=st.integers(0, 20))
def test_colours_do_not_run_out(count: int) -> None:
    found = some_colours(count)
    assert len(found) == count
    assert len(set(found)) == min(count, len(COLOURS))
