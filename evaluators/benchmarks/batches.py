"""The token ids that statistics of a benchmark's networks are gathered on."""

import functools
import hashlib

import torch
from torch import Tensor

from autoproxy.errors import ConfigError
from evaluators.benchmarks.table import Benchmark
from evaluators.benchmarks.zipf import zipf_ids
from evaluators.models import load_tokenizer
from evaluators.text import topics

TEXT = "calibration"
"""Which topics are read where networks learned text that is at hand."""


def batch_of(benchmark: Benchmark, sequences: int, tokens: int, seed: int) -> Tensor:
    """Return token ids (sequences, tokens) of the kind that a benchmark's networks learned.

    Bytes or tokens of `topics:calibration`, from places drawn by the seed; Zipf ids where the
    tokenizer is not at hand.

    Raises:
        ConfigError: The networks do not take that many tokens.
    """
    if tokens > benchmark.length:
        raise ConfigError(
            f"networks of {benchmark.name} take {benchmark.length} tokens at most, got {tokens}; "
            "give fewer --tokens"
        )
    if benchmark.text == "zipf":
        return zipf_ids(benchmark.vocabulary, sequences, tokens, seed)
    ids = _read(benchmark.text)
    draw = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(ids) - tokens + 1, (sequences,), generator=draw)
    return torch.stack([ids[start : start + tokens] for start in starts.tolist()])


def text_hash(benchmark: Benchmark) -> str | None:
    """Return the hash of all ids that batches are cut from; None where they are drawn.

    A release may ship another text, and a tokenizer is a file: a name tells neither.
    """
    return None if benchmark.text == "zipf" else _hash(benchmark.text)


@functools.cache
def _hash(text: str) -> str:
    return hashlib.sha256(_read(text).numpy().tobytes()).hexdigest()[:16]


@functools.lru_cache(maxsize=2)
def _read(text: str) -> Tensor:
    """Return all ids of the text, read once: it takes longer than a small network does."""
    content = topics(TEXT).content
    if text == "bytes":
        return torch.frombuffer(bytearray(content.encode()), dtype=torch.uint8).long()
    tokenizer = load_tokenizer(text)
    return torch.tensor(tokenizer.encode(content, add_special_tokens=False, verbose=False))
