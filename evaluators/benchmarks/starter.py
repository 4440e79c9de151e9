"""The benchmark that ships: small decoders between GPT-2 and LLaMA, trained by this project."""

import csv
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from autoproxy.errors import ConfigError, StorageError
from evaluators.benchmarks.starter_space import (
    LENGTH,
    VOCABULARY,
    StarterArchitecture,
    architectures,
    parameters,
)
from evaluators.benchmarks.table import Architecture, Benchmark, Row, checked, mean, read_table
from evaluators.networks.decoder import (
    ACTIVATIONS,
    NORMS,
    POSITIONS,
    Decoder,
    DecoderConfig,
)

FILE = "starter-benchmark.csv"
COLUMNS = (
    "id",
    "cell",
    "width",
    "depth",
    "heads",
    "kv_heads",
    "ff_widths",
    "norm",
    "activation",
    "position",
    "parameters",
    "loss",
    "loss_seed1",
    "loss_seed2",
)
QUALITY = "loss"


def open_table(table: Path | None, *, varied: bool = False) -> Benchmark:
    """Return the benchmark; a quality is the held-out loss in nats a byte, negative.

    Args:
        table: CSV with `COLUMNS`; None: the one that ships.
        varied: The networks that differ in everything, not those in matched cells.

    Raises:
        ConfigError: The table cannot serve.
    """
    path = _shipped() if table is None else table
    rows, digest = read_table(path, COLUMNS)
    return Benchmark(
        name="starter-varied" if varied else "starter",
        quality_name="-loss",
        architectures=checked(
            path,
            QUALITY,
            [_architecture(row) for row in rows if (row.cells["cell"] == "varied") is varied],
        ),
        digest=digest,
        vocabulary=VOCABULARY,
        length=LENGTH,
        causal=Decoder.causal,
        text="bytes",
        network=Decoder,
    )


def write_table(work: Path, path: Path) -> int:
    """Write the table of what `train_starter` left in a folder; return the number of rows.

    Args:
        work: Its work folder: one JSON file a network and seed.
        path: CSV, written whole or not at all.

    Raises:
        ConfigError: A file does not fit, or files are of different budgets, texts or versions.
    """
    losses = _read_losses(work)
    rows = [_cells(a, losses[a.id, 0], losses) for a in architectures() if (a.id, 0) in losses]
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    partial.replace(path)
    return len(rows)


def _read_losses(work: Path) -> dict[tuple[str, int], float]:
    losses: dict[tuple[str, int], float] = {}
    known = {(a.id, seed) for a in architectures() for seed in range(a.seeds)}
    circumstances: dict[str, Path] = {}
    for path in sorted(work.glob("*.json")):
        try:
            row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            job, loss = (row["id"], row["seed"]), float(row["loss"])
            circumstances.setdefault(json.dumps([row["budget"], row["text"]]), path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{path} is not what training leaves: {error!r}; remove it and train again"
            ) from error
        if job not in known or not math.isfinite(loss):
            raise ConfigError(
                f"{path}: {job[0]!r} with seed {job[1]} and loss {loss} is no result of this "
                "benchmark; remove it and train again"
            )
        losses[job] = loss
    if not losses:
        raise ConfigError(
            f"{work} holds no trained network; train some with `autoproxy benchmark build starter`"
        )
    if len(circumstances) > 1:
        first, second = list(circumstances.values())[:2]
        raise ConfigError(
            f"{first.name} and {second.name} in {work} were trained with different budgets or "
            "texts, so their losses cannot be compared; keep one kind"
        )
    return losses


def _cells(
    architecture: StarterArchitecture, loss: float, losses: dict[tuple[str, int], float]
) -> list[str]:
    config = architecture.config
    more = [losses.get((architecture.id, seed)) for seed in (1, 2)]
    return [
        architecture.id,
        architecture.cell,
        str(config.width),
        str(config.depth),
        *[_joined(x) for x in (config.heads, config.kv_heads, config.ff_widths)],
        config.norm,
        config.activation,
        config.position,
        str(parameters(config)),
        f"{loss:.6f}",
        *["" if x is None else f"{x:.6f}" for x in more],
    ]


def _joined(values: Sequence[int]) -> str:
    return " ".join(str(value) for value in values)


def _shipped() -> Path:
    path = Path(str(resources.files("evaluators") / "assets" / FILE))
    if not path.is_file():
        raise StorageError(
            f"the shipped benchmark {path} is not there; install the project again, or give a "
            "table by --table FILE"
        )
    return path


def _config(row: Row) -> DecoderConfig:
    depth = row.whole("depth")
    try:
        config = DecoderConfig(
            width=row.whole("width"),
            heads=row.wholes("heads", depth),
            kv_heads=row.wholes("kv_heads", depth),
            ff_widths=row.wholes("ff_widths", depth),
            norm=row.one_of("norm", NORMS),
            activation=row.one_of("activation", ACTIVATIONS),
            position=row.one_of("position", POSITIONS),
            vocabulary=VOCABULARY,
            length=LENGTH,
        )
    except ConfigError as error:
        if str(error).startswith(str(row.path)):
            raise
        raise row.wrong("heads", f"possible: {error}") from error
    if row.whole("parameters") != parameters(config):
        raise row.wrong("parameters", f"what this shape has ({parameters(config)})")
    return config


def _architecture(row: Row) -> Architecture:
    config = _config(row)
    cell = row.cells["cell"]
    size = f"{config.depth}x{config.width}"
    return Architecture(
        id=row.cells["id"],
        config=config,
        quality=-row.number_of(QUALITY),
        network=repr(config),
        cell=f"varied {size}" if cell == "varied" else cell,
        columns={
            "depth": config.depth,
            "width": config.width,
            "heads": mean(config.heads),
            "kv_heads": mean(config.kv_heads),
            "ff_width": mean(config.ff_widths),
            "d_embed": config.width,
            "parameters": parameters(config),
            "rms": config.norm == "rms",
            **{name: config.activation == name for name in ACTIVATIONS[1:]},
            **{name: config.position == name for name in POSITIONS[1:]},
        },
    )
