"""Likelihood and divergence, against transformers' own loss and scipy's relative entropy."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor, nn
from transformers import PreTrainedModel

from evaluators import perplexity as module
from evaluators.layers import prunable, weights_of
from evaluators.masks import applied
from evaluators.perplexity import Reference, block_losses, linear_head, output_head, perplexity
from tests.evaluators.families import model_of_family
from tests.evaluators.tiny import VOCABULARY_SIZE, tiny_model


@pytest.fixture(params=[True, False], ids=["gqa", "mha"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(gqa=request.param)


@pytest.fixture
def blocks() -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(VOCABULARY_SIZE, (3, 33), generator=draw)


def a_mask(model: PreTrainedModel) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)
    weights = weights_of(prunable(model))
    return {name: torch.rand(w.shape, generator=draw) > 0.5 for name, w in weights.items()}


@torch.no_grad()
def logits(model: PreTrainedModel, block: Tensor) -> np.ndarray:
    return model(block.unsqueeze(0)).logits[0].double().numpy()


def test_losses_are_those_of_transformers(model: PreTrainedModel, blocks: Tensor) -> None:
    with torch.no_grad():
        expected = [float(model(b.unsqueeze(0), labels=b.unsqueeze(0)).loss) for b in blocks]
    losses = block_losses(model, blocks)
    assert losses == pytest.approx(expected, rel=1e-6)
    assert len({round(loss, 3) for loss in losses}) == 3
    assert perplexity(losses) == pytest.approx(math.exp(sum(expected) / 3), rel=1e-6)


def test_divergence_is_scipys_relative_entropy(model: PreTrainedModel, blocks: Tensor) -> None:
    reference = Reference(model, blocks)
    dense = [logits(model, block) for block in blocks]
    with applied(weights_of(prunable(model)), a_mask(model)):
        found = list(reference.compare(model))
        pruned = [logits(model, block) for block in blocks]
        losses = block_losses(model, blocks)
    for comparison, p, q, loss, block in zip(found, dense, pruned, losses, blocks, strict=True):
        forward = rel_entr(softmax(p, axis=1), softmax(q, axis=1)).sum(axis=1).mean()
        assert comparison.kl == pytest.approx(forward, rel=1e-5)
        backward = rel_entr(softmax(q, axis=1), softmax(p, axis=1)).sum(axis=1).mean()
        assert comparison.kl != pytest.approx(backward, rel=1e-3)  # the oracle tells them apart
        assert comparison.nll == pytest.approx(loss, rel=1e-6)
        picked = log_softmax(q, axis=1)[np.arange(len(block) - 1), block[1:].numpy()]
        assert comparison.nll == pytest.approx(-picked.mean(), rel=1e-5)


def test_the_dense_model_does_not_diverge_from_itself(
    model: PreTrainedModel, blocks: Tensor
) -> None:
    found = list(Reference(model, blocks).compare(model))
    assert [c.kl for c in found] == pytest.approx([0.0] * 3, abs=1e-6)
    assert [c.nll for c in found] == pytest.approx(block_losses(model, blocks), rel=1e-6)


@pytest.mark.parametrize("change", ["none", "bias", "half", "cap", "scale"])
def test_linear_logits_give_what_whole_logits_do(
    model: PreTrainedModel, blocks: Tensor, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the short formula where logits are linear, and never where they are not."""
    if change == "bias":
        head = model.get_output_embeddings()
        head.bias = nn.Parameter(torch.linspace(-3, 3, VOCABULARY_SIZE))
    if change == "half":
        model.bfloat16()
    if change == "cap":
        model = model_of_family("gemma2")  # its own forward is asked, and LLaMA's has no cap
        model.config.final_logit_softcapping = 2.0
    if change == "scale":
        model = model_of_family("granite")
    given = linear_head(model, output_head(model))
    assert (given is None) == (change in {"half", "cap", "scale"})

    def measure() -> list[module.Comparison]:
        reference = Reference(model, blocks)
        with applied(weights_of(prunable(model)), a_mask(model)):
            return list(reference.compare(model))

    found = measure()
    monkeypatch.setattr(module, "linear_head", lambda *_: None)
    for ours, whole in zip(found, measure(), strict=True):
        assert ours.kl == pytest.approx(whole.kl, rel=1e-5)
        assert ours.nll == pytest.approx(whole.nll, rel=1e-6)
        assert whole.kl > 0.01


def test_next_to_nothing_dropped_diverges_by_no_less_than_nothing(
    model: PreTrainedModel, blocks: Tensor
) -> None:
    """What rounding leaves of it had come out as low as -8e-8, and has no logarithm."""
    reference = Reference(model, blocks)
    for size in (0.0, 1e-7, 1e-6):
        with torch.no_grad():
            next(iter(model.model.layers)).mlp.down_proj.weight += size
        assert all(found.kl >= 0 for found in reference.compare(model))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2", "granite", "cohere"])
def test_the_head_is_the_model_s_own(family: str, blocks: Tensor) -> None:
    """Whatever stands between last hidden states and logits: a cap, a scale, another decoder."""
    model = model_of_family(family)
    before = model.get_decoder().forward
    head = output_head(model)
    with torch.no_grad():
        states = model.base_model(input_ids=blocks[:1], use_cache=False).last_hidden_state[0]
        whole = model(input_ids=blocks[:1], use_cache=False).logits[0]
        torch.testing.assert_close(head(states[5:9]), whole[5:9], rtol=1e-5, atol=1e-5)
    assert model.get_decoder().forward == before


def test_a_reference_knows_the_dense_losses(model: PreTrainedModel, blocks: Tensor) -> None:
    expected = block_losses(model, blocks)
    reference = Reference(model, blocks)
    with applied(weights_of(prunable(model)), a_mask(model)):
        assert reference.losses() == expected


def test_a_reference_stays_dense_when_the_model_is_pruned(
    model: PreTrainedModel, blocks: Tensor
) -> None:
    reference = Reference(model, blocks)
    with applied(weights_of(prunable(model)), a_mask(model)):
        assert all(c.kl > 0.01 for c in reference.compare(model))
    assert all(abs(c.kl) < 1e-6 for c in reference.compare(model))


def test_a_range_takes_those_blocks(model: PreTrainedModel, blocks: Tensor) -> None:
    reference = Reference(model, blocks)
    with applied(weights_of(prunable(model)), a_mask(model)):
        every = list(reference.compare(model))
        assert list(reference.compare(model, 0, 2)) == every[:2]
        assert list(reference.compare(model, 1)) == every[1:]
        assert list(reference.compare(model, 1, 2)) == every[1:2]
        assert list(itertools.islice(reference.compare(model, stop=1), 5)) == every[:1]


@pytest.mark.parametrize("chunk", [1, 7, 32, 33])
def test_chunks_do_not_matter(
    model: PreTrainedModel, blocks: Tensor, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure() -> list[float]:
        reference = Reference(model, blocks)
        with applied(weights_of(prunable(model)), a_mask(model)):
            found = [(c.kl, c.nll) for c in reference.compare(model)]
        return [*itertools.chain(*found), *block_losses(model, blocks)]

    whole = measure()
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert measure() == pytest.approx(whole, rel=1e-6)


def test_a_block_is_read_alone(model: PreTrainedModel, blocks: Tensor) -> None:
    assert block_losses(model, blocks[1:2]) == block_losses(model, blocks)[1:2]


def test_perplexity_stays_a_number() -> None:
    assert perplexity([math.log(2), math.log(8)]) == pytest.approx(4.0)
    assert math.isfinite(perplexity([1e6]))
