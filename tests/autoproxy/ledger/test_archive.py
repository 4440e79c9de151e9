"""Rows of reports as text: nothing lost, nothing repeated, measured rows stay."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from autoproxy.commands.boards import write_leaderboard
from autoproxy.commands.workspace import Workspace
from autoproxy.errors import StorageError
from autoproxy.ledger.archive import from_lines, identity, to_lines
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import ReportRow

ROW = ReportRow(
    run=None,
    role="baseline",
    name="wanda",
    text="mul(abs(W), x_norm)",
    key="k1",
    complexity=4,
    seed=0,
    values={"perplexity": 40.123456789012345, "kl": 0.1 + 0.2},
    protocol={"model": "starter", "condition": "50%", "group": "row"},
)
ROWS = [
    ROW,
    replace(ROW, seed=10, values={"perplexity": 41.0, "kl": 0.3}),
    replace(ROW, seed=2),
    replace(ROW, role="discovered", run="r1", name="r1", key="k2"),
    replace(ROW, run="r1", values={"perplexity": 40.0, "kl": 0.2}),
    replace(ROW, run="r2", values={"perplexity": 40.5, "kl": 0.2}),
    replace(ROW, protocol={"model": "other", "condition": "2:4", "group": "block"}),
]


def test_rows_come_back_bit_for_bit_and_in_an_order_of_their_own() -> None:
    text = to_lines(ROWS)
    assert text == to_lines(reversed(ROWS))
    back = from_lines(text, "reports.jsonl")
    assert {identity(row): row for row in back} == {identity(row): row for row in ROWS}
    assert len(back) == len(ROWS)


def test_runs_that_end_together_wait_for_each_other(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.prepare()
    other = Workspace(tmp_path, place=f"sqlite:///{tmp_path / 'other.sqlite'}")
    with Ledger.open(other.ledger) as ledger:
        ledger.add_reports([replace(ROW, name="theirs")])
    with ThreadPoolExecutor(1) as pool:
        with workspace.boards_locked():
            waiting = pool.submit(write_leaderboard, other)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
            workspace.reports.write_text(to_lines(ROWS))
        waiting.result(timeout=60)
    names = {row.name for row in from_lines(workspace.reports.read_text(), "reports.jsonl")}
    assert names == {"theirs", *(row.name for row in ROWS)}


@pytest.mark.parametrize("line", ["{", '{"name": "x"}', "[]", '{"protocol": "none", "seed": 1}'])
def test_a_damaged_line_is_named(line: str) -> None:
    text = to_lines(ROWS) + line + "\n"
    with pytest.raises(StorageError, match=rf"line {len(text.splitlines())}, is no row"):
        from_lines(text, "reports.jsonl")


def test_a_new_ledger_takes_in_what_the_repository_has(tmp_path: Path) -> None:
    first, second = Workspace(tmp_path / "first"), Workspace(tmp_path / "second")
    first.prepare()
    second.prepare()
    with Ledger.open(first.ledger) as ledger:
        ledger.add_reports(ROWS)
        write_leaderboard(first, ledger)
    second.reports.write_text(first.reports.read_text())
    with Ledger.open(second.ledger) as ledger:
        # Measured here, so it is not overwritten by what came along.
        measured = replace(ROW, values={"perplexity": 99.0, "kl": 0.5})
        ledger.add_reports([measured])
        write_leaderboard(second, ledger)
        held = {identity(row): row.values["perplexity"] for row in ledger.reports()}
    wanted = {identity(row): row.values["perplexity"] for row in ROWS} | {identity(ROW): 99.0}
    assert held == wanted
    again = second.reports.read_text()
    write_leaderboard(second)
    assert second.reports.read_text() == again
