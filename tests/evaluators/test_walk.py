"""The walk: passing hidden states on by hand is what the model does, whatever the family."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from evaluators.walk import Walk
from tests.evaluators.families import FAMILIES, model_of_family
from tests.evaluators.tiny import hook_count, state


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return model_of_family(request.param)


def blocks() -> Tensor:
    return torch.randint(2, 250, (3, 24), generator=torch.Generator().manual_seed(5))


def last_hidden(model: PreTrainedModel, block: Tensor) -> Tensor:
    with torch.no_grad():
        states: Tensor = model.base_model(input_ids=block[None], use_cache=False).last_hidden_state
    return states[0]


def test_a_walk_to_the_end_is_the_model(model: PreTrainedModel) -> None:
    before = state(model)
    walk = Walk(model, blocks())
    for number in range(model.config.get_text_config().num_hidden_layers):
        walk.step(number)
    for block, ours in zip(blocks(), walk.leave(), strict=True):
        assert torch.equal(ours, last_hidden(model, block))
    assert state(model) == before
    assert hook_count(model) == 0


def test_the_model_computes_as_before_after_a_walk(model: PreTrainedModel) -> None:
    right = last_hidden(model, blocks()[0])
    walk = Walk(model, blocks())
    list(walk.leave())
    assert torch.equal(last_hidden(model, blocks()[0]), right)


def test_looking_does_not_move(model: PreTrainedModel) -> None:
    walk = Walk(model, blocks())
    first = [run() for run in walk.runs(0)]
    again = [run() for run in walk.runs(0)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (1, 24, 32)


def test_the_model_is_whole_after_an_error(model: PreTrainedModel) -> None:
    right = last_hidden(model, blocks()[0])
    with pytest.raises(IndexError):
        Walk(model, torch.full((1, 4), 10_000))  # no such token
    assert torch.equal(last_hidden(model, blocks()[0]), right)


def test_what_is_the_same_for_all_blocks_is_held_once() -> None:
    """Masks and positions of many blocks would need more memory than their states."""
    walk = Walk(model_of_family("llama"), blocks())
    held = [calls[0].kwargs["position_embeddings"] for calls in walk._calls]
    assert len(held) == 3
    assert all(ours is first for pair in held for ours, first in zip(pair, held[0], strict=True))


def test_a_token_s_own_part_in_a_layer_is_its_block_s() -> None:
    """Gemma 4 gives each layer what belongs to the tokens: those of the last block went to all."""
    model = model_of_family("gemma4")
    walk = Walk(model, blocks())
    for block, run in zip(blocks(), walk.runs(0), strict=True):
        with torch.no_grad():
            whole = model.base_model(
                input_ids=block[None], use_cache=False, output_hidden_states=True
            )
        torch.testing.assert_close(run(), whole.hidden_states[1])
