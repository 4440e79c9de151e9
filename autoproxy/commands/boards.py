"""The leaderboard files, made anew from the ledger and the rows that came with the repository."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autoproxy.commands.plan import read_run_file
from autoproxy.commands.summary import read_summary
from autoproxy.commands.workspace import SUMMARY, Workspace, write_text
from autoproxy.errors import ConfigError
from autoproxy.ledger.archive import from_lines, identity, to_lines
from autoproxy.ledger.leaderboard import Group, rank, to_csv, to_markdown
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import ReportRow


def write_leaderboard(workspace: Workspace, ledger: Ledger | None = None) -> dict[str, Any]:
    """Write `leaderboard.md`, `leaderboard.csv` and `reports.jsonl`, and return the first's data.

    A ledger is one machine's and stays out of version control; `reports.jsonl` goes with the
    repository, and a new ledger takes in those of its rows that it lacks.

    Args:
        workspace: Where they go.
        ledger: The open ledger, where there is one already.
    """
    workspace.prepare()
    with workspace.boards_locked(), contextlib.ExitStack() as stack:
        opened = ledger or stack.enter_context(Ledger.open(workspace.ledger))
        _take_in(workspace, opened)
        rows = opened.reports()
        groups = rank(rows)
        write_text(workspace.folder / "leaderboard.md", to_markdown(groups, budgets(workspace)))
        write_text(workspace.folder / "leaderboard.csv", to_csv(groups))
        write_text(workspace.reports, to_lines(rows))
    return {
        "groups": [group.to_json() for group in groups],
        "files": [str(workspace.folder / f"leaderboard.{end}") for end in ("md", "csv")],
    }


def leaderboard_groups(workspace: Workspace) -> tuple[Group, ...]:
    """Return the leaderboard of a folder, of ledger and `reports.jsonl`; writes no file.

    A folder without a ledger gets none.
    """
    held = workspace.place is not None or Path(workspace.ledger).is_file()
    rows: list[ReportRow] = []
    if held:
        with Ledger.open(workspace.ledger, read_only=True) as ledger:
            rows = ledger.reports()
    return rank([*rows, *_further(workspace, rows)])


def budgets(workspace: Workspace) -> dict[str, str]:
    """Return what each run in the folder that is done has spent, in words, by its name.

    Raises:
        ConfigError: A run's folder cannot be read; the message says which.
    """
    found = {}
    for run in workspace.done():
        folder = workspace.run_folder(run)
        summary, tables = read_summary(workspace, run), read_run_file(folder / "run.toml")
        try:
            spent, seed = summary["search"]["spent"], tables["search"]["seed"]
            found[run] = f"{spent:g} evaluations, seed {seed}"
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"run {run!r} cannot be read: {SUMMARY} and run.toml in {folder} lack {error} of "
                "the search, or have something else there; restore them, write them anew with "
                f"autoproxy resume {run}, or move the folder away"
            ) from None
    return found


def _take_in(workspace: Workspace, ledger: Ledger) -> None:
    """Store the rows of `reports.jsonl` that the ledger has not measured itself."""
    ledger.add_reports(_further(workspace, ledger.reports()))


def _further(workspace: Workspace, rows: Iterable[ReportRow]) -> list[ReportRow]:
    """Return the rows of `reports.jsonl` that are not among these."""
    if not workspace.reports.is_file():
        return []
    known = {identity(row) for row in rows}
    text = workspace.reports.read_text(encoding="utf-8")
    listed = from_lines(text, str(workspace.reports))
    return [row for row in listed if identity(row) not in known]
