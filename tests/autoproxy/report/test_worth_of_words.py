"""What words are worth: counted pair by pair."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.evaluation import Direction, Objective
from autoproxy.ledger.records import Event
from autoproxy.report.words import FEWEST, importance
from tests.autoproxy.report.test_data import event

TEXTS = ("abs(W)", "mul(abs(W), x_norm)", "mul(abs(W), sqrt(g_norm))", "square(W)", "mul(3, g)")
HAVE = {
    "abs(W)": {"abs", "W"},
    "mul(abs(W), x_norm)": {"mul", "abs", "W", "x_norm"},
    "mul(abs(W), sqrt(g_norm))": {"mul", "abs", "W", "sqrt", "g_norm"},
    "square(W)": {"square", "W"},
    "mul(3, g)": {"mul", "g"},
}
"""The words of each text, by hand; a number is none."""

measured = st.lists(st.tuples(st.sampled_from(TEXTS), st.integers(0, 6)), max_size=14)


def events_of(rows: list[tuple[str, int]]) -> list[Event]:
    return [
        replace(event(slot, "measured", 1.0, value / 4), text=text)
        for slot, (text, value) in enumerate(rows)
    ]


@given(rows=measured, direction=st.sampled_from(Direction))
def test_an_advantage_is_the_share_of_pairs_that_it_wins(
    rows: list[tuple[str, int]], direction: Direction
) -> None:
    found = importance(events_of(rows), Objective("value", "", direction))
    for word in found:
        pairs = [
            (a, b)
            for (text, a), (other, b) in itertools.product(rows, rows)
            if word.name in HAVE[text] and word.name not in HAVE[other]
        ]
        sign = 1 if direction is Direction.MAXIMIZE else -1
        wins = sum(1.0 if sign * a > sign * b else 0.5 if a == b else 0.0 for a, b in pairs)
        assert word.advantage == pytest.approx(wins / len(pairs))
        assert word.formulas == sum(word.name in HAVE[text] for text, _ in rows)
    every = set().union(*HAVE.values())
    counts = {name: sum(name in HAVE[text] for text, _ in rows) for name in every}
    wanted = {n for n, c in counts.items() if FEWEST <= c <= len(rows) - FEWEST}
    assert {word.name for word in found} == wanted
    assert [w.advantage for w in found] == sorted((w.advantage for w in found), reverse=True)


def test_what_was_left_on_a_cheap_rung_does_not_count() -> None:
    whole = events_of([("abs(W)", 1), ("square(W)", 2)] * 4)
    cheap = [event(90 + n, "screened", 0.25, -9.0) for n in range(9)]
    kl = Objective("kl", "nats", Direction.MINIMIZE)
    assert importance([*whole, *cheap], kl) == importance(whole, kl) != []
