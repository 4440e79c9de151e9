"""The architectures of the benchmark that ships: small decoders between GPT-2 and LLaMA.

64 `varied` ones differ in everything. 96 `matched` ones lie in six cells whose members have equal
depth, width and parameter count, to the last parameter; they differ in heads, key-value heads,
the distribution of feed-forward width over layers, norm, activation and position encoding. Size
cannot explain the order within a cell.
"""

import hashlib
import random
from dataclasses import dataclass

from evaluators.networks.decoder import ACTIVATIONS, NORMS, POSITIONS, DecoderConfig

VOCABULARY = 256
"""The text is read as bytes, so no tokenizer is needed."""

LENGTH = 96
"""Bytes in a sequence; a multiple of 6, so that learned positions can be matched exactly."""

CELLS = ((2, 48), (2, 96), (3, 72), (4, 48), (4, 72), (6, 48))
"""(depth, width) of the matched cells."""

PER_CELL = 16
VARIED = 64

REPEATED = 8
"""Every matched cell's first architecture, and the first varied ones, have three seeds."""

SHAPES = {
    "even": (1.0, 1.0, 1.0),
    "rising": (0.4, 1.0, 1.6),
    "falling": (1.6, 1.0, 0.4),
    "middle": (0.4, 1.6, 0.4),
}
"""Feed-forward width of the first, the middle and the last layer; between them it is straight."""


@dataclass(frozen=True, slots=True)
class StarterArchitecture:
    """One network of the benchmark.

    Attributes:
        id: Its name, such as `m2x48-03`.
        cell: `varied`, or the matched cell, such as `2x48`.
        config: Its shape.
        seeds: How often it is trained.
    """

    id: str
    cell: str
    config: DecoderConfig
    seeds: int


def architectures() -> tuple[StarterArchitecture, ...]:
    """Return all 160 architectures, always the same ones.

    >>> len({a.id for a in architectures()}), sum(a.seeds for a in architectures())
    (160, 176)
    """
    made = [a for depth, width in CELLS for a in _matched(depth, width)]
    return (*made, *_varied())


def parameters(config: DecoderConfig) -> int:
    """Return the number of parameters of a decoder without biases, by counting on paper.

    >>> parameters(DecoderConfig(width=8, heads=(2,), kv_heads=(1,), ff_widths=(16,)))
    3544
    """
    width = config.width
    matrices = 3 if config.activation == "swiglu" else 2
    total = config.vocabulary * width + (2 * config.depth + 1) * width
    total += config.length * width if config.position == "learned" else 0
    for heads, shared, ff_width in zip(
        config.heads, config.kv_heads, config.ff_widths, strict=True
    ):
        total += 2 * width * width + 2 * width * shared * width // heads
        total += matrices * width * ff_width
    return total


def _matched(depth: int, width: int) -> list[StarterArchitecture]:
    cell = f"{depth}x{width}"
    draw = _stream(f"matched:{cell}")
    configs: list[DecoderConfig] = []
    while len(configs) < PER_CELL:
        config = _draw_matched(draw, depth, width)
        if config not in configs:
            configs.append(config)
    return [
        StarterArchitecture(f"m{cell}-{n:02}", cell, config, 3 if n == 0 else 1)
        for n, config in enumerate(configs)
    ]


def _draw_matched(draw: random.Random, depth: int, width: int) -> DecoderConfig:
    heads = draw.choice([n for n in (1, 2, 4, 8) if width // n % 2 == 0])
    shared = draw.choice([n for n in (1, 2, 4, 8) if heads % n == 0])
    activation = draw.choice(ACTIVATIONS)
    position = draw.choice(POSITIONS)
    # What plain attention and a feed-forward four times as wide would have, in units of the
    # width, less what attention and positions take here, is left to the feed-forwards.
    left = 8 * depth * width + 2 * depth * (width - shared * width // heads)
    left -= LENGTH if position == "learned" else 0
    total, rest = divmod(left, 3 if activation == "swiglu" else 2)
    if rest:
        raise ValueError(f"{left} parameters cannot be spread evenly over {activation}")
    known = [name for name in SHAPES if name != "middle" or depth > 2]
    return DecoderConfig(
        width=width,
        heads=(heads,) * depth,
        kv_heads=(shared,) * depth,
        ff_widths=spread(total, depth, draw.choice(known)),
        norm=draw.choice(NORMS),
        activation=activation,
        position=position,
        vocabulary=VOCABULARY,
        length=LENGTH,
    )


def spread(total: int, depth: int, shape: str) -> tuple[int, ...]:
    """Return integers over layers in one of `SHAPES`, whose sum is `total` exactly.

    >>> spread(100, 3, "rising"), spread(100, 3, "middle")
    ((13, 34, 53), (17, 66, 17))
    """
    places = [layer / (depth - 1) if depth > 1 else 0.5 for layer in range(depth)]
    first, middle, last = SHAPES[shape]
    weights = [
        first + (middle - first) * 2 * place
        if place <= 0.5
        else last + (middle - last) * 2 * (1 - place)
        for place in places
    ]
    whole = sum(weights)
    ends = [round(total * sum(weights[: n + 1]) / whole) for n in range(depth)]
    return tuple(end - begin for begin, end in zip([0, *ends], ends, strict=False))


def _varied() -> list[StarterArchitecture]:
    draw = _stream("varied")
    configs: list[DecoderConfig] = []
    while len(configs) < VARIED:
        config = _draw_varied(draw)
        if config not in configs:
            configs.append(config)
    repeated = REPEATED - len(CELLS)
    return [
        StarterArchitecture(f"v{n:02}", "varied", config, 3 if n < repeated else 1)
        for n, config in enumerate(configs)
    ]


def _draw_varied(draw: random.Random) -> DecoderConfig:
    depth = draw.randint(1, 7)
    width = draw.choice((24, 32, 48, 64, 80, 96))
    possible = [n for n in (1, 2, 4, 8) if width % n == 0 and width // n % 2 == 0]
    heads = tuple(draw.choice(possible) for _ in range(depth))
    return DecoderConfig(
        width=width,
        heads=heads,
        kv_heads=tuple(draw.choice([n for n in possible if h % n == 0]) for h in heads),
        ff_widths=tuple(width * draw.randint(1, 4) for _ in range(depth)),
        norm=draw.choice(NORMS),
        activation=draw.choice(ACTIVATIONS),
        position=draw.choice(POSITIONS),
        vocabulary=VOCABULARY,
        length=LENGTH,
    )


def _stream(name: str) -> random.Random:
    digest = hashlib.sha256(f"starter-benchmark:{name}".encode()).digest()
    return random.Random(digest)  # noqa: S311 - not for secrets
