"""The command `autoproxy watch`: a run seen from another terminal, or another machine.

Nothing heavy is imported before a command runs, as in `autoproxy.cli`.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from autoproxy.cli_common import Json, LedgerPlace, Results, interruptible, present, write


def watch(
    run: Annotated[str | None, typer.Argument(help="Name of the run; default: latest.")] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show it as it is, and end.")] = False,
    results: Results = Path("results"),
    ledger: LedgerPlace = None,
    as_json: Json = False,
) -> None:
    """Show how a run stands while another process is at work on it; nothing is written."""
    from autoproxy import live
    from autoproxy.commands.watching import watching
    from autoproxy.commands.workspace import Workspace

    with watching(Workspace(results, ledger), run) as watched:
        sight = watched.look()
        if not (once or as_json):
            told = f"no longer watching; {watched.run} goes on by itself"
            with interruptible(told), live.progress(whole=True, file=sys.stdout) as show:
                for sight in watched.looks(every):
                    show(sight.progress)
    present(sight.to_json(), as_json, lambda console, _: live.still(console, sight.progress))
    if sight.status == "done" and not as_json:
        write(sight.epilogue)
