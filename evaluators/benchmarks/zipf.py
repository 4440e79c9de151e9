"""Token ids for vocabularies whose tokenizer is not at hand."""

from bisect import bisect_right
from itertools import accumulate

import torch
from torch import Tensor

from autoproxy.errors import ConfigError
from autoproxy.seeding import stream


def zipf_ids(vocabulary: int, sequences: int, tokens: int, seed: int) -> Tensor:
    """Return token ids drawn by Zipf's law: id r has a chance in proportion to 1 / (r + 1).

    Ids are drawn independently, and id 0 is the most frequent, as in vocabularies sorted by
    frequency. Every sequence has a stream of its own, so fewer sequences or fewer tokens are the
    beginning of more; the numbers are the same on every machine.

    Args:
        vocabulary: Ids are below it.
        sequences: How many sequences, at least 1.
        tokens: Ids in each, at least 1.
        seed: Of the streams.

    Returns:
        (sequences, tokens) int64.

    Raises:
        ConfigError: A number is below 1.

    >>> zipf_ids(1000, 2, 8, seed=0).tolist()
    [[1, 1, 1, 151, 79, 90, 638, 29], [5, 7, 2, 0, 7, 786, 339, 7]]
    """
    if min(vocabulary, sequences, tokens) < 1:
        raise ConfigError(
            f"Zipf ids need a vocabulary, sequences and tokens of at least 1, got {vocabulary}, "
            f"{sequences} and {tokens}"
        )
    sums = list(accumulate(1.0 / rank for rank in range(1, vocabulary + 1)))
    rows = []
    for number in range(sequences):
        draw = stream(seed, "zipf", number)
        places = (bisect_right(sums, draw.random() * sums[-1]) for _ in range(tokens))
        rows.append([min(place, vocabulary - 1) for place in places])
    return torch.tensor(rows)
