"""The token ids that networks are scored on."""

import dataclasses

import pytest
import torch

from autoproxy.errors import ConfigError
from evaluators.benchmarks.batches import batch_of
from evaluators.benchmarks.table import Benchmark, open_benchmark
from evaluators.benchmarks.zipf import zipf_ids
from evaluators.text import topics
from tests.evaluators.tables import starter_rows, write


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    path = write(tmp_path_factory.mktemp("table") / "table.csv", starter_rows(10))
    return open_benchmark("starter", path)


def test_bytes_are_those_of_the_calibration_text(decoders: Benchmark) -> None:
    ids = batch_of(decoders, 5, 40, seed=3)
    assert ids.shape == (5, 40)
    assert ids.dtype == torch.int64
    content = topics("calibration").content.encode()
    others = topics("test").content.encode()
    for row in ids.tolist():
        assert bytes(row) in content
        assert bytes(row) not in others


def test_the_seed_alone_decides_the_places(decoders: Benchmark) -> None:
    before = torch.get_rng_state()
    first = batch_of(decoders, 4, 30, seed=1)
    torch.rand(3)
    assert torch.equal(first, batch_of(decoders, 4, 30, seed=1))
    assert not torch.equal(first, batch_of(decoders, 4, 30, seed=2))
    assert len({tuple(row) for row in first.tolist()}) == 4
    assert torch.equal(first[:2], batch_of(decoders, 2, 30, seed=1))  # more adds to them
    torch.set_rng_state(before)


def test_where_no_tokenizer_is_at_hand_ids_are_drawn(decoders: Benchmark) -> None:
    drawn = dataclasses.replace(decoders, text="zipf", vocabulary=50)
    ids = batch_of(drawn, 3, 60, seed=5)
    assert torch.equal(ids, zipf_ids(50, 3, 60, 5))
    assert ids.shape == (3, 60)
    assert 0 <= int(ids.min()) <= int(ids.max()) < 50


def test_sequences_are_no_longer_than_networks_take(decoders: Benchmark) -> None:
    assert batch_of(decoders, 1, decoders.length, seed=0).shape == (1, decoders.length)
    with pytest.raises(ConfigError, match="take 96 tokens at most, got 97; give fewer --tokens"):
        batch_of(decoders, 1, 97, seed=0)


def test_tokens_are_read_by_the_tokenizer_of_a_model(decoders: Benchmark) -> None:
    tokens = dataclasses.replace(decoders, text="starter", vocabulary=2**20)
    ids = batch_of(tokens, 2, 20, seed=0)
    assert ids.shape == (2, 20)
    assert not torch.equal(ids, batch_of(decoders, 2, 20, seed=0))
