"""The commands `autoproxy benchmark ...`: tables of networks whose quality is known.

Nothing heavy is imported before a command runs, as in `autoproxy.cli`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from autoproxy.cli_common import Device, Json, Results, interruptible, present, seed_option

benchmarks = typer.Typer(
    help="List, fetch and build the tables of networks that proxies are to order.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
building = typer.Typer(
    help="Measure networks on this machine; what was stopped goes on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
benchmarks.add_typer(building, name="build")

Evaluator = Annotated[str, typer.Option(help="Evaluator that has them; see `autoproxy list`.")]


@benchmarks.command("list")
def list_(
    evaluator: Evaluator = "prediction", results: Results = Path("results"), as_json: Json = False
) -> None:
    """List benchmarks: their networks, their quality, and where their tables are."""
    from autoproxy import console
    from autoproxy.commands.benchmarking import list_benchmarks
    from autoproxy.commands.workspace import Workspace

    present(list_benchmarks(Workspace(results), evaluator), as_json, console.benchmarks)


@benchmarks.command()
def get(
    name: Annotated[str, typer.Argument(help="flexibert or gpt2-lts.")],
    url: Annotated[str | None, typer.Option(help="Address instead of the pinned one.")] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Hash that the file must have, 64 hex digits.")
    ] = None,
    evaluator: Evaluator = "prediction",
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Fetch a public table, check it, and keep it where `rank` and `search` look for it."""
    from autoproxy import console
    from autoproxy.commands.benchmarking import get_benchmark
    from autoproxy.commands.workspace import Workspace

    with interruptible("stopped; nothing was kept"):
        found = get_benchmark(Workspace(results), evaluator, name, url=url, sha256=sha256)
    present(found, as_json, console.benchmark)


@building.command("llama-subnets")
def llama_subnets(
    model: Annotated[str, typer.Option(help="A trained LLaMA: folder, hub name or 'starter'.")],
    count: Annotated[int, typer.Option(help="Sub-networks in all.")] = 100,
    text: Annotated[
        list[str] | None, typer.Option(help="Text to measure them on: file, folder, topics:ROLE.")
    ] = None,
    seed: Annotated[int | None, seed_option("Of the draw of sub-networks.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens in a sequence.")] = None,
    blocks: Annotated[int | None, typer.Option(help="Sequences of the text.")] = None,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the table; default: benchmarks/llama-subnets of --results."),
    ] = None,
    evaluator: Evaluator = "prediction",
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Measure sub-networks of a trained LLaMA; asking for more later adds to the table."""
    options = {
        "model": model,
        "count": count,
        "texts": text,
        "seed": seed,
        "length": length,
        "blocks": blocks,
        "device": device,
        "out": out,
    }
    _build(evaluator, "llama-subnets", options, results, as_json)


@building.command()
def starter(
    text: Annotated[list[Path], typer.Option(help="Folder of .txt files to learn; repeatable.")],
    work: Annotated[Path, typer.Option(help="Folder of what is trained; several may share it.")],
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(help="File of the table; default: starter.csv in --work.")
    ] = None,
    evaluator: Evaluator = "prediction",
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Train the networks of the benchmark that ships, and write their table."""
    options = {"texts": text, "work": work, "device": device, "out": out}
    _build(evaluator, "starter", options, results, as_json)


def _build(
    evaluator: str, name: str, options: Mapping[str, Any], results: Path, as_json: bool
) -> None:
    from autoproxy import console, live
    from autoproxy.commands.benchmarking import build_benchmark
    from autoproxy.commands.workspace import Workspace

    said = {word: value for word, value in options.items() if value is not None}
    with (
        interruptible("stopped; what is measured is kept, and the same command goes on"),
        live.progress(quiet=as_json) as show,
    ):
        found = build_benchmark(Workspace(results), evaluator, name, said, show)
    present(found, as_json, console.benchmark)
