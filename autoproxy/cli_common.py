"""What the commands of the command line share: flags, printing, and being stopped."""

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

Results = Annotated[Path, typer.Option("--results", help="Folder of ledger, runs and boards.")]
LedgerPlace = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        envvar="AUTOPROXY_LEDGER",
        show_envvar=True,
        help="SQLite file or postgresql:// URL of the ledger; default: in the results folder.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")]


@contextlib.contextmanager
def interruptible(told: str = "stopped; go on with: autoproxy resume") -> Iterator[None]:
    """Clean up and say how things stand after Ctrl-C, or when the system ends the process."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        print(f"autoproxy: {told}", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def write(text: str) -> None:
    """Print a text, which ends its line."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def present(
    value: Mapping[str, Any], as_json: bool, draw: Callable[[Console, Mapping[str, Any]], None]
) -> None:
    """Print what a command found, as JSON or drawn."""
    if as_json:
        write(json.dumps(value, indent=2))
        return
    draw(Console(), value)
