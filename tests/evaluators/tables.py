"""Small tables of architectures, written by hand, and how to spoil them."""

import csv
from pathlib import Path

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
