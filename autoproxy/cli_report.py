"""The commands that show what runs found: a report as a site, and figures for papers."""

from pathlib import Path
from typing import Annotated

import typer

from autoproxy.cli_common import Json, LedgerPlace, Results, interruptible, present

RunName = Annotated[
    str | None, typer.Argument(help="Name of a run that is done; default: the latest.")
]


def report(
    out: Annotated[
        Path, typer.Option(help="Folder to write; new, empty, or an earlier report.")
    ] = Path("report"),
    run: RunName = None,
    every: Annotated[
        bool, typer.Option("--all", help="A page for every run that is done.")
    ] = False,
    results: Results = Path("results"),
    ledger: LedgerPlace = None,
    as_json: Json = False,
) -> None:
    """Write a static site of runs, metrics and the leaderboard; it opens from disk."""
    from autoproxy import console
    from autoproxy.commands.publishing import report as publish
    from autoproxy.commands.workspace import Workspace

    with interruptible(f"stopped; nothing was written to {out}"):
        found = publish(Workspace(results, ledger), run, every=every, out=out)
    present(found, as_json, console.report)


def plot(
    run: RunName = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(help="funnel, front, progress, ...; may be repeated; default: all."),
    ] = None,
    form: Annotated[str, typer.Option(help="svg, png, or json for Vega-Lite.")] = "svg",
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("figures"),
    results: Results = Path("results"),
    ledger: LedgerPlace = None,
    as_json: Json = False,
) -> None:
    """Write the figures of a run as files for a paper."""
    from autoproxy import console
    from autoproxy.commands.publishing import plot as draw
    from autoproxy.commands.workspace import Workspace

    with interruptible("stopped"):
        found = draw(Workspace(results, ledger), run, figures=figure or (), form=form, out=out)
    present(found, as_json, console.figures)
