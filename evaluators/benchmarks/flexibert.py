"""FlexiBERT: encoders with their mean GLUE score (Serianni & Kalita 2023, CC-BY-4.0).

The code that trained them built every layer with scaled dot-product attention, whatever the table
declares, with a first feed-forward of four times the width. So are they built here, unless
`declared` is asked for.
"""

from dataclasses import replace
from pathlib import Path

from evaluators.benchmarks.table import (
    AS_DECLARED,
    Architecture,
    Benchmark,
    Row,
    checked,
    mean,
    needed,
    read_table,
)
from evaluators.networks.encoder import OPERATIONS, Encoder, EncoderConfig

COLUMNS = ("id", "hidden_size", "n_layers", "ops", "heads", "ffd", "nff", "glue")
QUALITY = "glue"


def open_table(table: Path | None, *, declared: bool = False) -> Benchmark:
    """Return the benchmark.

    Args:
        table: CSV with `COLUMNS`; `ops`, `heads`, `ffd`, `nff` have one entry a layer, separated
            by spaces.
        declared: Build the operations that the table declares instead of those that were trained.

    Raises:
        ConfigError: The table cannot serve.
    """
    path = needed("flexibert", table)
    rows, digest = read_table(path, COLUMNS)
    read = [_architecture(row, declared=declared) for row in rows]
    shape = EncoderConfig(width=1, operations=("SA:SDP",), heads=(1,), stacks=((1,),))
    return Benchmark(
        name=f"flexibert{AS_DECLARED}" if declared else "flexibert",
        quality_name="GLUE",
        architectures=checked(path, QUALITY, read),
        digest=digest,
        vocabulary=shape.vocabulary,
        length=shape.length,
        causal=Encoder.causal,
        text="zipf",
        network=Encoder,
    )


def declared_config(row: Row) -> EncoderConfig:
    """Return the encoder that a row declares, with feed-forwards as they were trained.

    Raises:
        ConfigError: A cell is not of the space.
    """
    width, depth = row.whole("hidden_size"), row.whole("n_layers")
    heads = row.wholes("heads", depth)
    for count in heads:
        if width % count or count % 2:
            raise row.wrong("heads", f"made of even numbers that divide hidden_size {width}")
    further = row.wholes("ffd", depth)
    counts = row.wholes("nff", depth)
    return EncoderConfig(
        width=width,
        operations=row.words("ops", depth, OPERATIONS),
        heads=heads,
        stacks=tuple(
            (4 * width, *[hidden] * (count - 1))
            for hidden, count in zip(further, counts, strict=True)
        ),
    )


def trained_config(declared: EncoderConfig) -> EncoderConfig:
    """Return the encoder that was trained where another was declared."""
    return replace(declared, operations=("SA:SDP",) * declared.depth)


def _architecture(row: Row, *, declared: bool) -> Architecture:
    given = declared_config(row)
    config = given if declared else trained_config(given)
    further = [int(word) for word in row.cells["ffd"].split()]
    # By what is built: the published count (233 of the 300 at hand) tells apart networks whose
    # further width has no layer, and one of such twins must not be searched with the other's label.
    return Architecture(
        id=row.cells["id"],
        config=config,
        quality=row.number_of(QUALITY),
        network=repr(trained_config(given)),
        cell=f"{config.depth}x{config.width}",
        columns={
            "depth": config.depth,
            "width": config.width,
            "heads": mean(config.heads),
            "ff_width": mean([mean(stack) for stack in config.stacks]),
            "d_embed": config.d_embed,
            "feed_forward_dimension": mean(further),
            "feed_forwards": mean([len(stack) for stack in config.stacks]),
        },
    )
