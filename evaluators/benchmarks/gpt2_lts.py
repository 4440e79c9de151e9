"""GPT-2 decoders of LiteTransformerSearch with their perplexity on WikiText-103 (Microsoft, MIT).

The layout follows from the published numbers of parameters by part, to the last one: a GPT-2 with
biases and learned positions for 192 tokens; a vocabulary of 50,264 cut at 19,997 and 39,997;
tables and the projections of rare tokens tied, the softmax's first projection not.
"""

import math
from pathlib import Path

from autoproxy.errors import ConfigError
from evaluators.benchmarks.table import (
    Architecture,
    Benchmark,
    Row,
    checked,
    mean,
    needed,
    read_table,
)
from evaluators.networks.gpt2 import GPT2, GPT2Config

COLUMNS = ("id", "n_layer", "d_model", "d_embed", "div_val", "d_inner", "n_head", "valid_ppl")
QUALITY = "valid_ppl"


def open_table(table: Path | None) -> Benchmark:
    """Return the benchmark; a quality is the logarithm of the perplexity, negative.

    The order is that of the perplexity; what is fitted to it is fitted far better.

    Args:
        table: CSV with `COLUMNS`; `d_inner` and `n_head` are lists with one entry a layer.

    Raises:
        ConfigError: The table cannot serve.
    """
    path = needed("gpt2-lts", table)
    rows, digest = read_table(path, COLUMNS)
    shape = GPT2Config(width=1, heads=(1,), ff_widths=(1,), d_embed=1, div_val=1)
    return Benchmark(
        name="gpt2-lts",
        quality_name="-log valid_ppl",
        architectures=checked(
            path,
            QUALITY,
            [_architecture(row) for row in rows],
            written=lambda quality: math.exp(-quality),
        ),
        digest=digest,
        vocabulary=shape.vocabulary,
        length=shape.length,
        causal=GPT2.causal,
        text="zipf",
        network=GPT2,
    )


def config_of(row: Row) -> GPT2Config:
    """Return the shape that a row says.

    Raises:
        ConfigError: A cell cannot be built.
    """
    depth = row.whole("n_layer")
    try:
        return GPT2Config(
            width=row.whole("d_model"),
            heads=row.wholes("n_head", depth),
            ff_widths=row.wholes("d_inner", depth),
            d_embed=row.whole("d_embed"),
            div_val=row.whole("div_val"),
        )
    except ConfigError as error:
        known = str(error)
        if known.startswith(str(row.path)):
            raise
        column = "n_head" if "heads" in known else "d_embed"
        raise row.wrong(column, f"possible: {known}") from error


def _logarithm(row: Row) -> float:
    """Return the logarithm of a row's perplexity."""
    perplexity = row.number_of(QUALITY)
    if perplexity <= 0:
        raise row.wrong(QUALITY, "a perplexity, which is above 0")
    return math.log(perplexity)


def _architecture(row: Row) -> Architecture:
    config = config_of(row)
    return Architecture(
        id=row.cells["id"],
        config=config,
        quality=-_logarithm(row),
        network=repr(config),
        cell=f"{config.depth}x{config.width}",
        columns={
            "depth": config.depth,
            "width": config.width,
            "heads": mean(config.heads),
            "ff_width": mean(config.ff_widths),
            "d_embed": config.d_embed,
            "div_val": config.div_val,
        },
    )
