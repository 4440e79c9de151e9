"""The commands `autoproxy archive` and `audit`: all that a run measured; were its merges right.

Nothing heavy is imported before a command runs, as in `autoproxy.cli`.
"""

from pathlib import Path
from typing import Annotated

import typer

from autoproxy.cli_common import Json, LedgerPlace, Results, interruptible, present, seed_option


def archive(
    run: Annotated[str | None, typer.Argument(help="Name of the run; default: latest.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many are shown, the best first.")] = 20,
    out: Annotated[Path | None, typer.Option(help="CSV file of all of them.")] = None,
    results: Results = Path("results"),
    ledger: LedgerPlace = None,
    as_json: Json = False,
) -> None:
    """Show every formula that a run measured, not only the best, and where it came from."""
    from autoproxy import console
    from autoproxy.commands.archiving import archive as archive_of
    from autoproxy.commands.workspace import Workspace

    found = archive_of(Workspace(results, ledger), run, top, out)
    present(found, as_json, console.archive)


def audit(
    run: Annotated[str | None, typer.Argument(help="Name of the run; default: latest.")] = None,
    sample: Annotated[int, typer.Option(help="Most merges of each rule that are looked at.")] = 100,
    seed: Annotated[int, seed_option("Of the draw of the sample.")] = 0,
    results: Results = Path("results"),
    ledger: LedgerPlace = None,
    as_json: Json = False,
) -> None:
    """Compare all masks of candidates that a run took for one; show how much was new."""
    from autoproxy import console, live
    from autoproxy.commands.auditing import AuditOrder, audit_run
    from autoproxy.commands.workspace import Workspace

    order = AuditOrder(run, sample, seed)
    with interruptible("stopped"), live.progress(quiet=as_json) as show:
        found = audit_run(Workspace(results, ledger), order, show)
    present(found, as_json, console.audit)
