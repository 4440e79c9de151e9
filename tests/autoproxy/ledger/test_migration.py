"""Ledgers and report lines of version 1, made by the program of that time, still serve.

`version_1/` holds what it wrote: a ledger as SQL, its report lines and its boards.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from autoproxy.commands.boards import budgets, write_leaderboard
from autoproxy.commands.workspace import Workspace
from autoproxy.errors import StorageError
from autoproxy.evaluation import Failed, Measured
from autoproxy.ledger.archive import from_lines, to_lines
from autoproxy.ledger.leaderboard import rank, to_csv, to_markdown
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.schema import SCHEMA_VERSION

OLD = Path(__file__).parent / "version_1"
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return the path of a ledger as version 1 wrote it."""
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((OLD / "ledger.sql").read_text(encoding="utf-8"))
    return path


def test_a_ledger_of_version_1_gives_the_same_boards(old: Path) -> None:
    with Ledger.open(old) as ledger:
        rows = ledger.reports()
        groups = rank(rows)
        assert ledger.recall("k", _protocol(old), 1.0) == Measured(
            0.5, 1.0, 2.0, {"perplexity": float("inf")}
        )
        assert isinstance(ledger.recall("b", _protocol(old), 1.0), Failed)
        assert len(ledger.events("found")) == 1
        assert ledger.run("found").seconds == 1.5
    assert [row.name for row in rows[:4]] == ["dense", "wanda", "wanda", "ruins"]
    assert rows[3].values == {"perplexity": float("inf"), "kl": 15.799}
    assert rows[1].values == {"perplexity": 20.1, "kl": 0.1 + 0.2}
    assert to_markdown(groups) == (OLD / "leaderboard.md").read_text(encoding="utf-8")
    assert to_csv(groups) == (OLD / "leaderboard.csv").read_text(encoding="utf-8")


def _protocol(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT protocol FROM evaluations").fetchone()[0])


def test_it_is_done_once_and_for_good(old: Path) -> None:
    with Ledger.open(old) as ledger:
        rows = ledger.reports()
        ledger.add_reports(rows)  # each takes its own place
        assert ledger.reports() == rows
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [
            (SCHEMA_VERSION,)
        ]
        columns = [row[1] for row in connection.execute("PRAGMA table_info(reports)")]
        assert "perplexity" not in columns
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        recorded = connection.execute("SELECT DISTINCT substr(recorded, 1, 4) FROM reports")
        assert recorded.fetchall()
    with Ledger.open(old) as ledger:
        assert ledger.reports() == rows


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(old: Path) -> None:
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute("ALTER TABLE reports RENAME COLUMN kl TO divergence")
        before = list(connection.iterdump())
    with pytest.raises((StorageError, KeyError)):
        Ledger.open(old)
    with closing(sqlite3.connect(old)) as connection:
        assert list(connection.iterdump()) == before


def test_report_lines_of_version_1_are_taken_in_and_written_anew(tmp_path: Path) -> None:
    text = (OLD / "reports.jsonl").read_text(encoding="utf-8")
    rows = from_lines(text, "reports.jsonl")
    assert to_markdown(rank(rows)) == (OLD / "leaderboard.md").read_text(encoding="utf-8")
    assert from_lines(to_lines(rows), "again") == rows
    workspace = Workspace(tmp_path)
    workspace.prepare()
    workspace.reports.write_text(text, encoding="utf-8")
    write_leaderboard(workspace)
    assert (tmp_path / "leaderboard.csv").read_bytes() == (OLD / "leaderboard.csv").read_bytes()
    assert workspace.reports.read_text(encoding="utf-8") == to_lines(rows)


def test_the_boards_of_the_repository_are_those_of_its_rows() -> None:
    results = REPOSITORY / "results"
    rows = from_lines((results / "reports.jsonl").read_text(encoding="utf-8"), "reports.jsonl")
    groups = rank(rows)
    spent = budgets(Workspace(results))
    assert spent  # of the runs that are kept beside their rows
    assert to_markdown(groups, spent) == (results / "leaderboard.md").read_text(encoding="utf-8")
    assert to_csv(groups) == (results / "leaderboard.csv").read_text(encoding="utf-8")
