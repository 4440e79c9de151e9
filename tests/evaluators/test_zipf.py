import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.errors import ConfigError
from evaluators.benchmarks.zipf import zipf_ids


def test_ids_follow_the_law() -> None:
    drawn = zipf_ids(12, 40, 500, seed=3).flatten().numpy()
    harmonic = math.fsum(1 / rank for rank in range(1, 13))
    expected = [len(drawn) / rank / harmonic for rank in range(1, 13)]
    assert scipy.stats.chisquare(np.bincount(drawn, minlength=12), expected).pvalue > 0.01


@given(st.integers(1, 300), st.integers(1, 4), st.integers(1, 20), st.integers(0, 5))
def test_less_is_the_beginning_of_more(
    vocabulary: int, sequences: int, tokens: int, seed: int
) -> None:
    ids = zipf_ids(vocabulary, sequences, tokens, seed)
    assert ids.shape == (sequences, tokens)
    assert ids.dtype == torch.int64
    assert 0 <= int(ids.min()) <= int(ids.max()) < vocabulary
    more = zipf_ids(vocabulary, sequences + 1, tokens + 2, seed)
    assert torch.equal(ids, more[:sequences, :tokens])


def test_sequences_and_seeds_differ() -> None:
    one, two = zipf_ids(1000, 2, 30, seed=0)
    assert not torch.equal(one, two)
    assert not torch.equal(one, zipf_ids(1000, 1, 30, seed=1)[0])


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_numbers_below_one_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        zipf_ids(*numbers, seed=0)
