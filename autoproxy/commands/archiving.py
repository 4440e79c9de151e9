"""The archive of a run: every formula that was measured, not only the best."""

from pathlib import Path
from typing import Any

from autoproxy.commands.workspace import Workspace, write_text
from autoproxy.evaluation import Direction
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.measured import Archive


def archive(workspace: Workspace, run: str | None, top: int, out: Path | None) -> dict[str, Any]:
    """Return the best of what a run measured, and write all of it, where asked, as CSV.

    Args:
        workspace: With the run.
        run: Name; None for the latest.
        top: How many are returned, the best first; values at low fidelity come last.
        out: File of all of them, one line a formula in the order of proposals.

    Raises:
        ConfigError: There is no such run.
        StorageError: The file cannot be written.
    """
    name = workspace.existing_run(run)
    workspace, _ = workspace.at_ledger_of(name)
    with Ledger.open(workspace.ledger) as ledger:
        record = ledger.run(name)
        found = Archive.of(ledger, name)
    if out is not None:
        write_text(out, found.to_csv())
    sign = -1.0 if record.config.get("direction") == Direction.MAXIMIZE.value else 1.0
    events = found.events
    ranked = sorted(events, key=lambda e: (-(e.fidelity or 0), sign * (e.value or 0.0), e.slot))
    return {
        "run": name,
        "measured": len(events),
        "in_full": sum(event.fate == "measured" for event in events),
        "file": None if out is None else str(out),
        "best": [found.row(event) for event in ranked[:top]],
    }
