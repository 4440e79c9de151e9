"""The command `autoproxy leaderboard`: every reported metric, and whether a row can be repeated.

Nothing heavy is imported before a command runs, as in `autoproxy.cli`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from autoproxy.cli_common import (
    Allocation,
    BenchmarkTable,
    Calibration,
    Device,
    Json,
    LedgerPlace,
    Model,
    ReportText,
    Results,
    interruptible,
    present,
)
from autoproxy.errors import ConfigError


def leaderboard(
    context: typer.Context,
    verify: Annotated[
        str | None,
        typer.Option(
            help="Measure rows again and compare, writing nothing: TABLE/NAME, TABLE (the first "
            "digits of its protocol's hash) or all."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Relative difference up to which --verify agrees; default: 0.001."),
    ] = None,
    model: Model = None,
    calibration: Calibration = None,
    text: ReportText = None,
    allocation: Allocation = None,
    table: BenchmarkTable = None,
    device: Device = None,
    results: Results = Path("results"),
    ledger: LedgerPlace = None,
    as_json: Json = False,
) -> None:
    """Rank every metric that was reported, and write leaderboard.md and .csv; or verify rows.

    With --verify, --model, --text, --calibration, --allocation and --table are other places of
    what a table was measured on. It ends with 0 when no row differs, 1 when one does, 2 when none
    could be verified.
    """
    places = {
        "model": model,
        "calibration": calibration,
        "text": text,
        "allocation": allocation,
        "table": table,
        "device": device,
    }
    if verify is not None:
        source = context.get_parameter_source("ledger")
        if source is not None and source.name == "COMMANDLINE":  # not from the environment
            raise ConfigError(
                "--verify reads the rows of reports.jsonl in the results folder and no ledger; "
                "leave --ledger out, or write its rows there first: autoproxy leaderboard --ledger "
                f"{ledger}"
            )
        _verify(verify, tolerance, places, results, as_json)
        return
    said = {**places, "tolerance": tolerance}
    given = [name for name, value in said.items() if value is not None]
    if given:
        raise ConfigError(
            f"{', '.join(f'--{name}' for name in given)} says how to verify; add --verify ROW"
        )
    from autoproxy import console
    from autoproxy.commands.boards import write_leaderboard
    from autoproxy.commands.workspace import Workspace

    present(write_leaderboard(Workspace(results, ledger)), as_json, console.leaderboard)


def _verify(
    row: str,
    tolerance: float | None,
    places: Mapping[str, object],
    results: Path,
    as_json: bool,
) -> None:
    from autoproxy import console, live
    from autoproxy.commands.verifying import DIFFERS, OPEN, TOLERANCE, VerifyOrder
    from autoproxy.commands.verifying import verify as verified
    from autoproxy.commands.workspace import Workspace

    order = VerifyOrder(
        row=row, tolerance=TOLERANCE if tolerance is None else tolerance, places=places
    )
    with interruptible("stopped"), live.progress(quiet=as_json) as show:
        found = verified(Workspace(results), order, show)
    present(found, as_json, console.verified)
    if found["stopped"]:
        raise typer.Exit(130)
    verdicts = {row["verdict"] for row in found["rows"]}
    if DIFFERS in verdicts:
        raise typer.Exit(1)
    if verdicts <= {OPEN}:
        raise ConfigError(
            "no row could be verified here; each says above what it lacks, which --verify TABLE "
            "takes from elsewhere: --model, --text, --calibration, --allocation, --table"
        )
