"""Reports that are not of pruning: their columns, rows, boards, and how they are measured."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autoproxy import console
from autoproxy.columns import PRUNING, Column, columns_of, ends
from autoproxy.commands.reporting import Named, Reporter, best_of
from autoproxy.commands.summary import describe_baselines
from autoproxy.evaluation import Direction, Failed, Measured, Objective
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.ledger.archive import from_lines, identity, to_lines
from autoproxy.ledger.leaderboard import entries_of, rank, to_csv, to_markdown
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import ReportRow
from autoproxy.spaces import Baseline

COLUMNS = (
    Column("tau", direction=Direction.MAXIMIZE, title="τ-b"),
    Column("within", direction=Direction.MAXIMIZE),
    Column("tied", "% of pairs", Direction.MINIMIZE, digits=1),
    Column("seconds", "a network"),
)
GPT2 = {
    "benchmark": "gpt2-lts",
    "architectures": 150,
    "labels": 50,
    "columns": [column.to_json() for column in COLUMNS],
}
HALF = {"model": "starter", "condition": "50%", "group": "row"}


def row(name: str, tau: float, **rest: Any) -> ReportRow:
    given = {"role": "baseline", "run": None, "seed": 0, "complexity": 2, **rest}
    values = {"tau": tau, "tau_low": tau - 0.05, "tau_high": tau + 0.04, "tied": 1.5}
    fields = {"text": f"f({name})", "key": name, "values": values, "protocol": GPT2, **given}
    return ReportRow(name=name, **fields)


def pruning(seed: int, perplexity: float) -> ReportRow:
    values = {"perplexity": perplexity, "kl": 0.5}
    return replace(row("wanda", 0.0), seed=seed, values=values, protocol=HALF)


ROWS = (
    row("depth", 0.682),
    row("wanda", -0.2),  # the name of a reference, elsewhere: no ratio here
    row("found", 0.9, role="discovered", run="found", complexity=7),
    replace(
        row("params", 0.573), values={"tau": 0.573, "within": 0.21, "tied": 0, "seconds": 0.01}
    ),
)

GOLDEN = """\
Tables with other columns are ranked by the first; [a, b] is the 95 % interval
that the evaluator gives, over what it reports on.

## benchmark gpt2-lts, architectures 150, labels 50

`autoproxy leaderboard --verify HASH`

| | metric | role | τ-b | within | tied (% of pairs) | seconds (a network) | seeds | complexity \
| formula |
|---|---|---|---|---|---|---|---|---|---|
| 1 | **found** | discovered | 0.900 [0.850, 0.940] |  | 1.5 |  | 1 | 7 | `f(found)` |
| 2 | depth | baseline | 0.682 [0.632, 0.722] |  | 1.5 |  | 1 | 2 | `f(depth)` |
| 3 | params | baseline | 0.573 | 0.210 | 0.0 | 0.010 | 1 | 2 | `f(params)` |
| 4 | wanda | baseline | -0.200 [-0.250, -0.160] |  | 1.5 |  | 1 | 2 | `f(wanda)` |
"""


# --- boards ----------------------------------------------------------------------------------


def test_golden_board_of_predictions() -> None:
    groups = rank(ROWS)
    text = to_markdown(groups).replace(groups[0].digest[:12], "HASH")
    assert text.split("\n\n", 2)[2] == GOLDEN
    assert to_markdown(rank(ROWS[::-1])) == to_markdown(groups)


def test_pruning_boards_do_not_change_beside_predictions() -> None:
    rows = [pruning(0, 20.0), pruning(1, 22.0)]
    alone, both = to_markdown(rank(rows)), to_markdown(rank([*rows, *ROWS]))
    assert alone.split("## ")[1] in both
    assert "| / Wanda | KL |" in alone
    lines = list(csv.DictReader(io.StringIO(to_csv(rank(rows)))))
    mixed = list(csv.DictReader(io.StringIO(to_csv(rank([*rows, *ROWS])))))
    assert not {"tau", "benchmark"} & set(lines[0])
    of_pruning = next(line for line in mixed if line["perplexity"])
    assert {name: of_pruning[name] for name in lines[0]} == lines[0]


def test_csv_of_predictions_is_exact() -> None:
    lines = {line["name"]: line for line in csv.DictReader(io.StringIO(to_csv(rank(ROWS))))}
    found = lines["found"]
    assert [float(found[name]) for name in ("tau", "tau_low", "tau_high")] == [
        0.9,
        0.9 - 0.05,
        0.9 + 0.04,
    ]
    assert (found["benchmark"], found["perplexity"], found["within"]) == ("gpt2-lts", "", "")
    assert "seconds_low" not in found
    assert lines["params"]["within"] == "0.21"


def test_an_interval_is_the_evaluator_s_own_or_student_s_or_none() -> None:
    found = {one.name: ends(COLUMNS[0], one.to_json()) for one in entries_of(ROWS)}
    assert found["found"] == (0.9 - 0.05, 0.9 + 0.04)
    assert found["params"] is None  # of one draw
    (entry,) = entries_of([pruning(0, 20.0), pruning(1, 22.0)])
    assert entry.interval is not None
    assert ends(PRUNING[0], entry.to_json()) == (21.0 - entry.interval, 21.0 + entry.interval)


def test_several_seeds_are_averaged_over_those_that_have_a_value() -> None:
    second = replace(ROWS[3], seed=1, values={"tau": 0.6, "tied": 1.0})
    (entry,) = entries_of([ROWS[3], second])
    assert entry.values == pytest.approx(
        {"tau": 0.5865, "within": 0.21, "tied": 0.5, "seconds": 0.01}
    )
    assert entry.interval is not None  # Student's, where the evaluator gives none
    assert entry.ratio is None
    (entry,) = entries_of([ROWS[0], replace(ROWS[0], seed=1)])
    assert entry.interval is None
    assert entry.values["tau_low"] == pytest.approx(0.632)


def test_the_console_shows_the_same_cells(capsys: pytest.CaptureFixture[str]) -> None:
    groups = [group.to_json() for group in rank([*ROWS, pruning(0, 20.0)])]
    groups[0]["protocol"] |= {"tokens": 9, "text": "t"} if "model" in groups[0]["protocol"] else {}
    groups[1]["protocol"] |= {"tokens": 9, "text": "t"} if "model" in groups[1]["protocol"] else {}
    console.leaderboard(Console(width=200), {"groups": groups, "files": ["a"]})
    shown = capsys.readouterr().out
    for words in ("Report: benchmark gpt2-lts", "τ-b", "0.900 [0.850, 0.940]", "/ Wanda", "20.00"):
        assert words in shown, words


# --- rows ------------------------------------------------------------------------------------


def test_rows_come_back_from_ledger_and_lines(tmp_path: Path) -> None:
    rows = [*ROWS, pruning(0, math.inf), replace(ROWS[0], values={"tau": 0.1, "seconds": math.inf})]
    with Ledger.open(tmp_path / "a.sqlite") as ledger:
        ledger.add_reports(rows[1:])
        assert ledger.reports() == rows[1:]
    back = from_lines(to_lines(rows[1:]), "x")
    assert {identity(row): row for row in back} == {identity(row): row for row in rows[1:]}
    assert len(back) == 5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tied": 1.0}, "the first is always there; got tied"),
        ({}, "got none"),
        ({"tau": 0.5, "perplexity": 1.0}, "columns tau, within, tied, seconds"),
        ({"tau": 0.5, "tied": math.nan}, "got NaN for f"),
    ],
)
def test_a_row_has_the_columns_of_its_protocol(values: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(ROWS[0], values=values)


@pytest.mark.parametrize(
    "columns",
    [
        [],
        [Column("tau")],
        [COLUMNS[0], COLUMNS[0]],
        [COLUMNS[0], Column("tau_low")],
        [COLUMNS[0], Column("seeds")],
        [COLUMNS[0], Column("text")],
        [COLUMNS[0], Column("benchmark")],
    ],
)
def test_columns_that_cannot_be_told_apart_are_refused(columns: list[Column]) -> None:
    with pytest.raises(ValueError, match="lists columns of different names"):
        columns_of({"columns": [column.to_json() for column in columns]})


def test_columns_come_back_from_a_protocol() -> None:
    assert columns_of(GPT2) == COLUMNS
    assert columns_of(HALF) == PRUNING


# --- measuring -------------------------------------------------------------------------------


class Ranking:
    """Rates architectures by the length of a formula: a condition without a dense model."""

    def __init__(self) -> None:
        self.asked = 0

    def report_protocol(self) -> Mapping[str, Any]:
        return GPT2

    def report(
        self, candidates: Sequence[Expression | str], seeds: Iterable[int]
    ) -> Iterator[Mapping[str, Any]]:
        for seed in seeds:
            for index, candidate in enumerate(candidates):
                self.asked += 1
                tau = 1 / (len(str(candidate)) + seed)
                yield {"seed": seed, "index": index, "tau": tau, "tau_low": 0, "tau_high": 1}

    def dense(self) -> None:
        return None


def test_a_report_without_a_dense_model(tmp_path: Path) -> None:
    named = [
        Named("baseline", "short", parse("abs(W)")),
        Named("discovered", "run", parse("abs(g)")),
        Named("baseline", "method", None),
    ]
    seen: list[Any] = []
    with Ledger.open(tmp_path / "a.sqlite") as ledger:
        condition = Ranking()
        rows = Reporter(ledger, condition, "run", seen.append).report(named, [0, 1])
        assert [(r.name, r.seed) for r in rows] == [(n.name, s) for s in (0, 1) for n in named]
        assert rows[0].values == {"tau": 1 / 6, "tau_low": 0.0, "tau_high": 1.0}
        assert ledger.reports() == rows
        again = Reporter(ledger, condition, "run", seen.append).report(named, [0, 1])
    assert again == rows
    assert condition.asked == 6
    assert (seen[-1].done, seen[-1].total) == (6, 6)


class Dense(Ranking):
    """A condition with a dense model, which counts how often that is measured."""

    def __init__(self) -> None:
        super().__init__()
        self.dense_asked = 0

    def dense(self) -> dict[str, float]:  # type: ignore[override]
        self.dense_asked += 1
        return {"tau": 1.0}


def test_the_dense_model_is_measured_once_a_protocol(tmp_path: Path) -> None:
    class Other(Dense):
        def report_protocol(self) -> Mapping[str, Any]:
            return {**GPT2, "labels": 51}

    named = [Named("baseline", "short", parse("abs(W)"))]
    with Ledger.open(tmp_path / "a.sqlite") as ledger:
        one, other = Dense(), Other()
        first = Reporter(ledger, one, "run", lambda _: None).report(named, [0])
        again = Reporter(ledger, one, None, lambda _: None).report(named, [0])
        elsewhere = Reporter(ledger, other, None, lambda _: None).report(named, [0])
    assert again == first
    assert (one.dense_asked, other.dense_asked) == (1, 1)
    assert elsewhere[0].protocol != first[0].protocol


def test_baselines_are_listed_best_first_whichever_way_is_better() -> None:
    measured = {
        name: (Baseline(name, "abs(W)", "hand"), outcome)
        for name, outcome in (
            ("bad", Failed("why")),
            ("low", Measured(0.1, 1.0)),
            ("high", Measured(0.9, 1.0)),
            ("worse", Failed("why")),
        )
    }
    for direction, names in (
        (Direction.MAXIMIZE, ["high", "low", "bad", "worse"]),
        (Direction.MINIMIZE, ["low", "high", "bad", "worse"]),
    ):
        found = describe_baselines(measured, Objective("tau", "", direction))
        assert [row["name"] for row in found] == names


def test_the_best_by_hand_are_those_of_the_objective() -> None:
    found = {
        "wanda": (Baseline("wanda", "mul(abs(W), x_norm)", "there"), Measured(0.2, 1.0)),
        "obd": (
            Baseline("obd", "mul(square(W), square(x_norm))", "there"),
            Measured(0.2 - 1e-9, 1.0),
        ),
        "magnitude": (Baseline("magnitude", "abs(W)", "there"), Measured(0.4, 1.0)),
        "flat": (Baseline("flat", "x_norm", "there"), Measured(0.3, 1.0)),
        "broken": (Baseline("broken", "W", "there"), Failed("it broke")),
    }
    low = Objective("kl", "nats", Direction.MINIMIZE)
    high = Objective("tau", "none", Direction.MAXIMIZE)
    for order in (found, dict(reversed(found.items()))):  # whichever was measured first
        assert best_of(order, low, 2) == ["wanda", "flat"]  # obd has wanda's value, and is longer
        assert best_of(order, high, 2) == ["magnitude", "flat"]
        assert best_of(order, high, 9) == ["magnitude", "flat", "wanda"]
        assert best_of(order, low, 0) == []
