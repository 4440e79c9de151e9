"""The archive of a run: every formula that was measured, not only the best."""

from pathlib import Path
from typing import Any

from autoproxy.commands.summary import read_summary
from autoproxy.commands.workspace import ARCHIVE, Workspace, write_text
from autoproxy.evaluation import Direction
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.measured import Archive


def archive(workspace: Workspace, run: str | None, top: int, out: Path | None) -> dict[str, Any]:
    """Return the best of what a run measured, and write all of it, where asked, as CSV.

    Args:
        workspace: With the run. Its ledger is read; where that is not here or has no such run, as
            in a clone of a repository, the folder's own archive is.
        run: Name; None for the latest.
        top: How many are returned, the best first; values at low fidelity come last.
        out: File of all of them, one line a formula in the order of proposals.

    Raises:
        ConfigError: There is no such run.
        StorageError: The file cannot be written.
    """
    name = workspace.existing_run(run)
    found, direction = _measured(workspace, name)
    if out is not None:
        write_text(out, found.to_csv(), instead="another --out")
    sign = -1.0 if direction == Direction.MAXIMIZE.value else 1.0
    events = found.events
    ranked = sorted(events, key=lambda e: (-(e.fidelity or 0), sign * (e.value or 0.0), e.slot))
    return {
        "run": name,
        "measured": len(events),
        "in_full": sum(event.fate == "measured" for event in events),
        "file": None if out is None else str(out),
        "best": [found.row(event) for event in ranked[:top]],
    }


def _measured(workspace: Workspace, name: str) -> tuple[Archive, object]:
    """Return what a run measured, and which direction is better."""
    kept = workspace.run_folder(name) / ARCHIVE
    if kept.is_file() and not workspace.has_ledger_of(name):
        summary = read_summary(workspace, name)
        text = kept.read_text(encoding="utf-8")
        return Archive.from_csv(text, name), summary["objective"]["direction"]
    workspace, _ = workspace.at_ledger_of(name)
    with Ledger.open(workspace.ledger, read_only=True) as ledger:
        return Archive.of(ledger, name), ledger.run(name).config.get("direction")
