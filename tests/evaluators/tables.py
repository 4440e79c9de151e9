"""Small tables of architectures, written by hand, and how to spoil them."""

import csv
from pathlib import Path

from evaluators.benchmarks.starter_space import LENGTH, VOCABULARY, parameters
from evaluators.networks.decoder import ACTIVATIONS, NORMS, POSITIONS, DecoderConfig

Rows = list[dict[str, str]]


def flexibert_rows(count: int = 12) -> Rows:
    """Return rows of encoders that differ, with different qualities."""
    operations = ("SA:SDP", "SA:WMA", "LT:DFT", "LT:DCT", "DSC:5", "DSC:9")
    return [
        {
            "id": str(n),
            "hidden_size": "128",
            "n_layers": "2",
            "ops": f"{operations[n % 6]} {operations[(n + 1) % 6]}",
            "heads": "2 4",
            "ffd": f"512 {1024 if n < 6 else 512}",
            "nff": "1 3",
            "glue": str(60 + n / 4),
        }
        for n in range(count)
    ]


def gpt2_rows(count: int = 10) -> Rows:
    """Return rows of decoders with different perplexities."""
    return [
        {
            "id": f"c{n}",
            "n_layer": "2",
            "d_model": "64",
            "d_embed": "128",
            "div_val": str((1, 2, 4)[n % 3]),
            "d_inner": f"[{512 + n}, 600]",
            "n_head": "[2, 4]",
            "valid_ppl": str(50 - n),
        }
        for n in range(count)
    ]


def write(path: Path, rows: Rows) -> Path:
    """Write rows as CSV; the columns are those of the first."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def without(rows: Rows, column: str) -> Rows:
    """Return rows that lack a column."""
    return [{name: cell for name, cell in row.items() if name != column} for row in rows]


def changed(rows: Rows, number: int, **cells: str) -> Rows:
    """Return rows one of which has other cells."""
    return [row | cells if n == number else row for n, row in enumerate(rows)]


def starter_rows(count: int = 24) -> Rows:
    """Return rows of tiny decoders in three cells of equal depth and width, all different.

    Qualities grow with size and, within a cell, with the number of heads and the width of the
    feed-forwards, and no two are equal.
    """
    return [_starter_row(n) for n in range(count)]


def _starter_row(number: int) -> dict[str, str]:
    depth, width = ((1, 16), (2, 16), (3, 8))[number % 3]
    member = number // 3
    heads, ff_width = (1, 2, 4)[member % 3], 12 + 4 * (member * 5 % 8)
    config = DecoderConfig(
        width=width,
        heads=(heads,) * depth,
        kv_heads=(1,) * depth,
        ff_widths=(ff_width,) * depth,
        norm=NORMS[member % 2],
        activation=ACTIVATIONS[number % 3],
        position=POSITIONS[member % 4],
        vocabulary=VOCABULARY,
        length=LENGTH,
    )
    loss = 4 - 0.02 * depth * width - 0.03 * heads - 0.004 * ff_width + 0.001 * (number * 7 % 24)
    return {
        "id": f"t{number:02}",
        "cell": f"{depth}x{width}",
        "width": str(width),
        "depth": str(depth),
        "heads": " ".join([str(heads)] * depth),
        "kv_heads": " ".join(["1"] * depth),
        "ff_widths": " ".join([str(ff_width)] * depth),
        "norm": config.norm,
        "activation": config.activation,
        "position": config.position,
        "parameters": str(parameters(config)),
        "loss": f"{loss:.6f}",
        "loss_seed1": "",
        "loss_seed2": "",
    }
