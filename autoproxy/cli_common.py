"""What the commands of the command line share: flags, printing, and being stopped."""

import contextlib
import json
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console


def seed_option(told: str) -> Any:
    """Return the option of a seed, with the range that every seed has."""
    return typer.Option(callback=_check_seed, help=told)


def _check_seed(seed: int | None) -> int | None:
    from autoproxy.seeding import MOST_SEED

    if seed is not None and not 0 <= seed <= MOST_SEED:
        raise typer.BadParameter(f"{seed} is not in the range 0<=x<={MOST_SEED}.")
    return seed


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
WorkerCount = Annotated[
    int | None,
    typer.Option("--workers", help="Processes that measure; see docs/cluster.md."),
]
Backend = Annotated[
    str | None, typer.Option(help="loky (this machine), dask or ray: where workers run.")
]
Scheduler = Annotated[str | None, typer.Option(help="Address of a Dask or Ray cluster.")]
Devices = Annotated[str | None, typer.Option(help="CUDA devices, one worker each, such as 0,1.")]
Track = Annotated[
    str | None,
    typer.Option(help="Log to tensorboard:FOLDER too; needs pip install 'autoproxy[tensorboard]'."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")]

Model = Annotated[
    str | None,
    typer.Option(help="Folder or hub name of a language model, 'starter' or 'starter-gpt2'."),
]
Calibration = Annotated[
    list[str] | None,
    typer.Option(help="Text that statistics are taken on: file, folder or topics:ROLE."),
]
Validation = Annotated[list[str] | None, typer.Option(help="Text that the search is scored on.")]
ReportText = Annotated[
    list[str] | None, typer.Option("--text", help="Text of the report; no search sees it.")
]
BaselineOrMethod = Annotated[
    str | None,
    typer.Option(
        help="Hand-made metric, see `list`; or a method: sparsegpt, sparsegpt-mask, wanda-variant, "
        "dsnot, ria-permuted."
    ),
]
Sparsity = Annotated[str | None, typer.Option(help="Share of the weights to drop, such as 0.5.")]
Pattern = Annotated[str | None, typer.Option(help="KEEP:BLOCK instead of a sparsity, such as 2:4.")]
Group = Annotated[
    str | None,
    typer.Option(help="Where importances are compared: row, matrix, layer, model or columns:N."),
]
Allocation = Annotated[
    str | None,
    typer.Option(help="Sparsity of decoder layers: uniform, owl, alpha, metric or FILE.json."),
]
Mode = Annotated[
    str | None,
    typer.Option(help="oneshot, or sequential: each layer behind those already pruned."),
]
Unit = Annotated[
    str | None,
    typer.Option(help="What --evaluator shrinking drops whole: channels, heads or blocks."),
]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Length = Annotated[int | None, typer.Option(help="Tokens in a sequence.")]
CalibrationBlocks = Annotated[int | None, typer.Option(help="Sequences to calibrate on.")]
ValidationBlocks = Annotated[int | None, typer.Option(help="Sequences to score on.")]
ConfirmBlocks = Annotated[int | None, typer.Option(help="Fresh sequences for finalists.")]
TextBlocks = Annotated[
    str | None, typer.Option(help="Sequences of the report text: a number, or all.")
]
Protocol = Annotated[
    str | None,
    typer.Option(help="Options of a published protocol, such as wanda-2048; flags override."),
]
Windows = Annotated[
    str | None,
    typer.Option(help="How sequences to calibrate on are drawn: grid, anywhere or documents."),
]
CalibrationJoin = Annotated[
    str | None,
    typer.Option(help="How its records become one text: paragraphs, newlines or spaces."),
]
TextJoin = Annotated[str | None, typer.Option(help="The same for the other texts.")]
SpecialTokens = Annotated[
    bool | None,
    typer.Option(
        "--special-tokens/--no-special-tokens",
        help="Whether the tokenizer puts its special tokens into texts.",
    ),
]

Benchmark = Annotated[
    str | None,
    typer.Option(help="Networks to order: starter, flexibert, gpt2-lts or llama-subnets."),
]
BenchmarkTable = Annotated[
    str | None, typer.Option("--table", help="File of the benchmark's table.")
]
Declared = Annotated[
    bool | None,
    typer.Option(
        "--declared/--as-trained",
        help="FlexiBERT's networks as their table declares them, or as they were trained.",
    ),
]
Limit = Annotated[int | None, typer.Option(help="First so many networks of the table alone.")]
Sequences = Annotated[int | None, typer.Option(help="Sequences that statistics are taken on.")]
Tokens = Annotated[int | None, typer.Option(help="Tokens of each such sequence.")]
Rows = Annotated[int | None, typer.Option(help="Outputs of a layer kept at most; 0 for all.")]
Draw = Annotated[int | None, seed_option("Seed of initial weights and of the batch.")]
Control = Annotated[
    str | None, typer.Option(help="'noise': every tensor replaced by noise of its shape.")
]
Jobs = Annotated[int | None, typer.Option(help="Processes that read networks; default: all.")]
CacheLimit = Annotated[
    str | None, typer.Option(help="How large the cache of statistics may grow, such as 5GB.")
]

EVALUATOR_OPTIONS = (
    "model",
    "calibration",
    "validation",
    "text",
    "sparsity",
    "pattern",
    "group",
    "allocation",
    "mode",
    "condition",
    "unit",
    "device",
    "dtype",
    "length",
    "calibration_blocks",
    "validation_blocks",
    "confirm_blocks",
    "text_blocks",
    "cache_limit",
    "protocol",
    "windows",
    "calibration_join",
    "text_join",
    "special_tokens",
    "benchmark",
    "table",
    "declared",
    "objective",
    "labels",
    "validation_labels",
    "max_tied",
    "limit",
    "sequences",
    "tokens",
    "rows",
    "draw",
    "control",
    "jobs",
)
"""Parameters of the commands that go to the evaluator as they are; `seed` is not always its own."""


ENDS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a process, and leave it the time to say how things stand."""


def of_evaluator(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those parameters of a command, its `locals()`, that the evaluator takes."""
    return {name: given[name] for name in EVALUATOR_OPTIONS if name in given}


def split_devices(devices: str | None) -> tuple[str, ...]:
    """Return the devices that a flag names.

    >>> split_devices("0, 1"), split_devices(None)
    (('0', '1'), ())
    """
    return tuple(word.strip() for word in (devices or "").split(",") if word.strip())


@contextlib.contextmanager
def interruptible(told: str) -> Iterator[None]:
    """Clean up and say how things stand after Ctrl-C, or when the system ends the process.

    A terminal that is closed ends it too, unless it was started with `nohup`.

    Args:
        told: How things stand, where the interruption itself does not say it.
    """

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    ends = [number for number in ENDS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in ends}
    try:
        yield
    except KeyboardInterrupt as stopped:
        with contextlib.suppress(OSError):  # the terminal may be what went away
            print(f"autoproxy: {str(stopped) or told}", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ended(text: str) -> str:
    """Return a text that ends its line, printed or written to a file."""
    return text if text.endswith("\n") else text + "\n"


def write(text: str) -> None:
    """Print a text, which ends its line."""
    sys.stdout.write(ended(text))


def present(
    value: Mapping[str, Any], as_json: bool, draw: Callable[[Console, Mapping[str, Any]], None]
) -> None:
    """Print what a command found, drawn, or as JSON, which has null for what is not finite."""
    if as_json:
        write(json.dumps(_finite(value), indent=2, allow_nan=False))
        return
    draw(Console(), value)


def _finite(value: Any) -> Any:
    """Return plain values with None for infinities and NaN, of which JSON has none."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {name: _finite(one) for name, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
    return value
