"""The leaderboard: the same rows in any order give the same bytes."""

import csv
import io
import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.ledger.leaderboard import (
    HEADING,
    changes,
    entries_of,
    mean_and_interval,
    rank,
    to_csv,
    to_markdown,
)
from autoproxy.ledger.records import ReportRow

HALF = {
    "model": "starter",
    "model_hash": "0" * 32,
    "condition": "50%",
    "group": "row",
    "mode": "oneshot-dense",
    "text": "report",
    "text_hash": "1" * 32,
    "tokens": 8192,
    "length": 512,
    "calibration": "pydoc",
}
TWO_FOUR = {**HALF, "condition": "2:4"}


def row(name, seed, perplexity, *, role="baseline", protocol=HALF, kl=0.25, **rest) -> ReportRow:
    fields = {"run": None, "text": f"f({name})", "key": name, "complexity": 4}
    values = {"perplexity": perplexity, "kl": kl}
    return ReportRow(
        role=role, name=name, seed=seed, values=values, protocol=protocol, **fields | rest
    )


ROWS = (
    row("dense", 0, 10.0, role="dense", text="", key="", complexity=0, kl=0.0),
    row("wanda", 0, 20.0),
    row("wanda", 1, 22.0),
    row("wanda", 2, 24.0),
    row("importance-s0", 0, 18.0, role="discovered", run="importance-s0", complexity=9, kl=0.2),
    row("importance-s0", 1, 20.9, role="discovered", run="importance-s0", complexity=9, kl=0.2),
    row("magnitude", 0, 200.0, complexity=2, kl=1.5),
    row("wanda", 0, 40.0, protocol=TWO_FOUR),
)

GOLDEN = """\
# Leaderboard

Made by `autoproxy leaderboard` from the ledger. Perplexity on a text that no search
saw: mean over calibration seeds and half the 95 % interval (Student's t on perplexity).
/ Wanda: mean of the ratios to Wanda's perplexity, seed by seed. KL in nats. The command
above a table measures its rows again, `/NAME` behind it one of them. Rows with fewer
seeds are means over other draws: compare them with `/ Wanda`, or by seed in
`reports.jsonl`.

## model starter, condition 2:4

`autoproxy leaderboard --verify b2c08689792c`: group row, mode oneshot-dense, text report, \
tokens 8192, length 512, calibration pydoc

| | metric | role | perplexity | / Wanda | KL | seeds | complexity | formula |
|---|---|---|---|---|---|---|---|---|
| 1 | wanda | baseline | 40.00 | 1.000 | 0.250 | 1 | 4 | `f(wanda)` |

## model starter, condition 50%

`autoproxy leaderboard --verify 5ffb88d55b8b`: group row, mode oneshot-dense, text report, \
tokens 8192, length 512, calibration pydoc

| | metric | role | perplexity | / Wanda | KL | seeds | complexity | formula |
|---|---|---|---|---|---|---|---|---|
| 1 | dense | dense | 10.00 |  | 0.000 | 1 |  |  |
| 2 | **importance-s0** | discovered | 19.45 ± 18.42 | 0.925 | 0.200 | 2 | 9 | `f(importance-s0)` |
| 3 | wanda | baseline | 22.00 ± 4.97 | 1.000 | 0.250 | 3 | 4 | `f(wanda)` |
| 4 | magnitude | baseline | 200.00 | 10.000 | 1.500 | 1 | 2 | `f(magnitude)` |
"""


def test_golden_text():
    # ± of (20, 22, 24): t(0.975, 2) = 4.303 times 2 / sqrt(3) = 4.97; 18 / 20 and 20.9 / 22
    # are 0.90 and 0.95, 0.925 on average.
    assert to_markdown(rank(ROWS)) == GOLDEN


def test_what_a_run_spent_stands_beside_what_it_found():
    board = to_markdown(rank(ROWS), {"importance-s0": "120 evaluations, seed 4", "other": "7"})
    assert "| **importance-s0** | discovered (120 evaluations, seed 4) | 19.45" in board
    assert board.replace(" (120 evaluations, seed 4)", "") == GOLDEN


def test_changes_are_paired_by_draw():
    """Draws move both alike: the ratio is sure where the rows' own intervals overlap widely."""
    ours = {0: 9.0, 1: 19.0, 2: 37.0, 5: 1.0}
    rows = [
        *(row("r", s, v, role="discovered", run="r") for s, v in ours.items()),
        *(row("wanda", s, v) for s, v in {0: 10.0, 1: 20.0, 2: 40.0, 7: 3.0}.items()),
        *(row("r.random", s, v, role="random-search", run="r") for s, v in ours.items()),
        row("once", 0, 10.0),
        row("ruined", 0, math.inf),
        row("ruined", 1, 20.0),
        row("dense", 0, 1.0, role="dense"),
        row("dense", 1, 1.0, role="dense"),
    ]
    found = changes(rows, "r")
    assert set(found) == {"wanda", "r.random"}
    logs = [math.log(9 / 10), math.log(19 / 20), math.log(37 / 40)]
    mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(3)
    half = 4.302653 * error  # t(0.975, 2)
    expected = {"change": math.exp(mean) - 1, "low": math.exp(mean - half) - 1}
    expected |= {"high": math.exp(mean + half) - 1, "draws": 3}
    assert found["wanda"] == pytest.approx(expected, rel=1e-6)
    assert found["wanda"]["high"] < 0
    assert found["r.random"] == {"change": 0.0, "low": 0.0, "high": 0.0, "draws": 4}
    assert changes(rows[::-1], "r") == found
    assert changes(rows, "another") == changes([], "r") == {}


drawn = st.lists(
    st.builds(
        row,
        st.sampled_from(["wanda", "ria", "a|b"]),
        st.integers(0, 3),
        st.sampled_from([20.0, 20.0 + 2**-40, math.inf, 1e308]) | st.floats(1, 1e4),
        role=st.sampled_from(["baseline", "evaluated", "discovered"]),
        protocol=st.sampled_from([HALF, TWO_FOUR, dict(reversed(HALF.items()))]),
        run=st.sampled_from([None, "r", "s"]),
        complexity=st.integers(1, 2),
        key=st.sampled_from(["k", "l"]),
    ),
    max_size=12,
)


@given(drawn, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows, draw):
    groups = rank(rows)
    shuffled = rank(draw.sample(rows, len(rows)))
    assert to_markdown(shuffled) == to_markdown(groups)
    assert to_csv(shuffled) == to_csv(groups)
    assert repr([g.to_json() for g in shuffled]) == repr([g.to_json() for g in groups])


@given(drawn)
def test_entries_are_best_first_and_none_is_lost(rows):
    for group in rank(rows):
        values = [entry.values["perplexity"] for entry in group.entries]
        assert values == sorted(values)
    named = {(r.role, r.name, r.key, r.protocol["condition"]) for r in rows}
    assert len(named) == sum(len(group.entries) for group in rank(rows))


def test_groups_are_told_apart_by_what_the_heading_does_not_show():
    other = row("wanda", 0, 21.0, protocol={**HALF, "model_hash": "2" * 32})
    groups = rank([ROWS[1], other])
    assert len(groups) == 2
    assert to_markdown(groups).count("## model starter") == 2


def test_the_ratio_is_taken_seed_by_seed_in_the_same_group():
    rows = [*ROWS, row("wanda", 7, 1e6)]
    found = next(e for e in entries_of(rows[:7]) if e.role == "discovered")
    assert found.ratio == pytest.approx((18.0 / 20 + 20.9 / 22) / 2)
    again = next(e for g in rank(rows) for e in g.entries if e.role == "discovered")
    assert again.ratio == found.ratio
    assert next(iter(entries_of([ROWS[4]]))).ratio is None


@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=8))
def test_the_interval_is_that_of_the_textbook(values):
    t = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}
    mean, half = mean_and_interval(values)
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert mean == pytest.approx(statistics.fmean(values))
    assert half == pytest.approx(t[len(values) - 1] * error, rel=1e-3, abs=1e-9)


def test_one_value_has_no_interval_and_ruins_have_no_end():
    assert mean_and_interval([3.0]) == (3.0, None)
    assert mean_and_interval([1e308, 1e308, 1e308]) == (math.inf, None)
    assert mean_and_interval([1.0, math.inf]) == (math.inf, None)


def test_csv_is_exact_and_reads_back():
    rows = [
        replace(ROWS[1], values={"perplexity": 1 / 3, "kl": 1.0}, name='a,"b"\n|', text="mul(a, b)")
    ]
    (line,) = csv.DictReader(io.StringIO(to_csv(rank(rows))))
    assert float(line["perplexity"]) == 1 / 3
    assert line["name"] == 'a,"b"\n|'
    assert line["formula"] == "mul(a, b)"
    assert line["text"] == "report"
    assert line["interval"] == ""


def test_csv_columns_of_protocol_and_metric_do_not_collide():
    header = to_csv(()).strip().split(",")
    assert len(set(header)) == len(header), header
    assert set(HEADING) < set(header)


def test_a_name_cannot_break_the_table():
    text = to_markdown(rank([row("a|b\nc", 0, 2.0)]))
    assert r"| 1 | a\|b c | baseline |" in text


def test_nothing_measured_is_an_empty_board():
    assert to_markdown(rank([])).startswith("# Leaderboard\n")
    assert to_markdown(rank([])).count("|") == 0
