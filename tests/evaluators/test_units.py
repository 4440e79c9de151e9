"""Units: where they are in each family; a model without them computes as one with zeros."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    SmolLM3Config,
)

from autoproxy.errors import ConfigError, ModelError
from evaluators.layers import decoder_layers, prunable, weights_of
from evaluators.masks import applied
from evaluators.units import (
    check_expressible,
    check_unit,
    cut,
    passed_by,
    places,
    shrunk_config,
    without_columns,
)
from tests.evaluators.families import EXPERTS, FAMILIES, GROUPED, model_of_family
from tests.evaluators.tiny import hook_count, state, tiny_model

READERS = {  # of channels, by hand, in each decoder layer
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3"), "mlp.down_proj"),
    **dict.fromkeys(("gemma2", "gemma3"), "mlp.down_proj"),
    "gpt2": "mlp.c_proj",
    "gpt-neox": "mlp.dense_4h_to_h",
    "opt": "fc2",
}
WITHOUT_CHANNELS = {"mixtral", "qwen2-moe", "qwen3-moe"}
WITHOUT_HEADS = {"gpt2", "gpt-neox", "opt", "falcon", "gpt-j", "bloom", "gemma4"}
"""Families whose configuration has no word for the width of a head, or Gemma 4, whose later layers
have no keys of their own."""

IDS = torch.randint(2, 250, (2, 24), generator=torch.Generator().manual_seed(1))


def logits_of(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS, use_cache=False).logits
    return found


def loaded_again(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return a model as it is saved, in float64; none of this project's code is asked."""
    model.save_pretrained(folder)
    again: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, experts_implementation="eager"
    )
    return again.eval()


@contextmanager
def silenced(readers: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Put zeros for some inputs of modules: what a unit would hand them."""

    def hook(gone: Tensor) -> Callable[..., Any]:
        return lambda _, args: (args[0].masked_fill(gone, 0.0),)

    handles = [m.register_forward_pre_hook(hook(gone)) for m, gone in readers.items()]
    yield
    for handle in handles:
        handle.remove()


def drawn(count: int, layers: int, seed: int) -> list[Tensor]:
    """Return which of `count` units stay in each layer: half, others in each."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randperm(count, generator=draw) >= count // 2 for _ in range(layers)]


def parameters(model: PreTrainedModel) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", READERS)
def test_without_channels_it_computes_as_with_zeros(family: str, tmp_path: Path) -> None:
    model = loaded_again(model_of_family(family), tmp_path / "dense")
    found = places(model, "channels")
    width = 128 if family == "gpt2" else 48
    assert [place.count for place in found] == [width, width]
    check_expressible(model, "channels", width // 2)
    keep = drawn(width, 2, seed=3)
    blocks = decoder_layers(model)
    gone = {b.get_submodule(READERS[family]): ~k for b, k in zip(blocks, keep, strict=True)}
    with silenced(gone):
        expected = logits_of(model)
    weights = weights_of(prunable(model))
    masks = {
        p.reader: without_columns(p, k.reshape(1, -1), weights[p.reader])
        for p, k in zip(found, keep, strict=True)
    }
    with applied(weights, masks):
        torch.testing.assert_close(logits_of(model), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(logits_of(model), expected)
    before = parameters(model)
    makers, biased = (1 if family in {"opt", "gpt2", "gpt-neox"} else 2), family not in LLAMA_LIKE
    changes = cut(model, "channels", keep)
    assert list(changes.values()) == [width // 2]
    again = loaded_again(model, tmp_path / "shrunk")
    lost = 2 * (width // 2) * (32 * (makers + 1) + (makers if biased else 0))
    assert before - parameters(again) == lost
    torch.testing.assert_close(logits_of(again), expected, rtol=1e-9, atol=1e-9)


LLAMA_LIKE = {"llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3"}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - WITHOUT_HEADS))
@pytest.mark.parametrize("stays", [0, 1])
def test_without_heads_it_computes_as_with_zeros(family: str, stays: int, tmp_path: Path) -> None:
    """Four query heads of eight numbers, two to each of two key-value heads."""
    model = loaded_again(model_of_family(family), tmp_path / "dense")
    assert [(p.count, p.width) for p in places(model, "heads")] == [(2, 16), (2, 16)]
    check_expressible(model, "heads", 1)
    last = 1 - stays  # in the second layer the other group stays
    gone = {}
    for block, group in zip(decoder_layers(model), (stays, last), strict=True):
        head = torch.arange(32) // 8  # which query head each input of o_proj is of
        gone[block.get_submodule("self_attn.o_proj")] = (head // 2) != group
    with silenced(gone):
        expected = logits_of(model)
    assert not torch.allclose(logits_of(model), expected)
    keep = [torch.tensor([g == 0, g == 1]) for g in (stays, last)]
    changes = cut(model, "heads", keep)
    assert changes == {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    again = loaded_again(model, tmp_path / "shrunk")
    torch.testing.assert_close(logits_of(again), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gemma4"}))
@pytest.mark.parametrize("gone", [0, 1])
def test_without_a_block_it_computes_as_if_it_were_passed_by(
    family: str, gone: int, tmp_path: Path
) -> None:
    model = loaded_again(model_of_family(family), tmp_path / "dense")
    check_expressible(model, "blocks", 1)
    dense = logits_of(model)
    with passed_by(model, [gone]):
        expected = logits_of(model)
    assert torch.equal(logits_of(model), dense)
    assert not torch.allclose(expected, dense)
    with passed_by(model, [0, 1]):
        bare = logits_of(model)  # embedding, norm and head alone
    assert not torch.allclose(bare, expected)
    cut(model, "blocks", [torch.tensor([gone != 0, gone != 1])])
    again = loaded_again(model, tmp_path / "shrunk")
    assert len(decoder_layers(again)) == 1
    torch.testing.assert_close(logits_of(again), expected, rtol=1e-9, atol=1e-9)


def test_every_decoder_layer_passed_by_leaves_embedding_norm_and_head() -> None:
    model = tiny_model(bias=True).double()
    with passed_by(model, [0, 1]), torch.no_grad():
        found = logits_of(model)
        right = model.lm_head(model.model.norm(model.model.embed_tokens(IDS)))
    torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)


def test_hooks_go_when_the_model_fails() -> None:
    model = tiny_model()
    before, hooks = state(model), hook_count(model)
    with pytest.raises(RuntimeError, match="half-way"), passed_by(model, [1]):
        raise RuntimeError("half-way")
    assert (state(model), hook_count(model)) == (before, hooks)


# --- by hand, number by number ----------------------------------------------------------------


def llama(queries: int, groups: int, *, layers: int = 2, bias: bool = True) -> LlamaForCausalLM:
    """Return a random LLaMA with heads of four numbers and six channels."""
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=12,
        intermediate_size=6,
        num_hidden_layers=layers,
        num_attention_heads=queries,
        num_key_value_heads=groups,
        head_dim=4,
        attention_bias=bias,
        mlp_bias=bias,
        max_position_embeddings=64,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=draw))
    return model.eval().requires_grad_(requires_grad=False)


def taken(rows: Tensor, wanted: list[int]) -> list[Any]:
    return [rows[number].tolist() for number in wanted]


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([(2, 2), (4, 2), (6, 3), (6, 6), (3, 1)]),
    st.booleans(),
    st.data(),
)
def test_heads_are_taken_number_by_number(
    heads: tuple[int, int], bias: bool, data: st.DataObject
) -> None:
    queries, groups = heads
    model = llama(queries, groups, bias=bias)
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    possible = [n for n in range(1, groups + 1) if 12 % (n * queries // groups) == 0]
    stay = data.draw(st.sampled_from(possible))
    kept = [sorted(data.draw(st.permutations(range(groups)))[:stay]) for _ in decoder_layers(model)]
    cut(model, "heads", [torch.tensor([g in k for g in range(groups)]) for k in kept])
    for number, chosen in enumerate(kept):
        of_queries, of_groups = [], []
        for head in range(queries):
            if head // (queries // groups) in chosen:
                of_queries += [head * 4 + i for i in range(4)]
        for head in chosen:
            of_groups += [head * 4 + i for i in range(4)]
        root = f"model.layers.{number}.self_attn"
        for part, rows in (("q_proj", of_queries), ("k_proj", of_groups), ("v_proj", of_groups)):
            found = model.get_parameter(f"{root}.{part}.weight")
            assert found.tolist() == taken(old[f"{root}.{part}.weight"], rows)
            if bias:
                assert model.get_parameter(f"{root}.{part}.bias").tolist() == taken(
                    old[f"{root}.{part}.bias"], rows
                )
        out = model.get_parameter(f"{root}.o_proj.weight")
        assert out.T.tolist() == taken(old[f"{root}.o_proj.weight"].T, of_queries)
        if bias:
            assert torch.equal(
                model.get_parameter(f"{root}.o_proj.bias"), old[f"{root}.o_proj.bias"]
            )
    assert model.config.num_key_value_heads == stay
    assert model.config.num_attention_heads == stay * queries // groups
    assert model.config.head_dim == 4


@settings(max_examples=12, deadline=None)
@given(st.booleans(), st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True))
def test_channels_are_taken_number_by_number(bias: bool, chosen: list[int]) -> None:
    model = llama(3, 1, bias=bias)
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = [sorted(chosen), sorted((c + 1) % 6 for c in chosen)]
    cut(model, "channels", [torch.tensor([c in k for c in range(6)]) for k in rows])
    for number, kept in enumerate(rows):
        root = f"model.layers.{number}.mlp"
        for name in ("gate_proj", "up_proj"):
            for part in ("weight", "bias") if bias else ("weight",):
                found = model.get_parameter(f"{root}.{name}.{part}")
                assert found.tolist() == taken(old[f"{root}.{name}.{part}"], kept)
        down = model.get_parameter(f"{root}.down_proj.weight")
        assert down.T.tolist() == taken(old[f"{root}.down_proj.weight"].T, kept)
    assert model.config.intermediate_size == len(chosen)


def test_blocks_are_taken_in_order_and_so_are_their_types() -> None:
    model = model_of_family("gemma3")
    model.config.layer_types = ["sliding_attention", "full_attention"]
    config, changes = shrunk_config(model, "blocks", [1])
    assert changes == {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    assert (config.num_hidden_layers, config.layer_types) == (1, ["full_attention"])
    assert model.config.num_hidden_layers == 2
    five = llama(3, 1, layers=5)
    last = five.model.layers[4].mlp.up_proj.weight.clone()
    cut(five, "blocks", [torch.tensor([True, False, True, False, True])])
    assert torch.equal(five.model.layers[2].mlp.up_proj.weight, last)
    assert len(five.model.layers) == five.config.num_hidden_layers == 3


def test_lists_of_decoder_layers_are_cut_or_numbered_anew() -> None:
    options: dict[str, Any] = {**GROUPED, "num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 0]}
    smol = AutoModelForCausalLM.from_config(
        SmolLM3Config(**{**options, "eos_token_id": [1, 2, 3, 4]})
    )
    config, changes = shrunk_config(smol, "blocks", [0, 3])
    assert changes["no_rope_layers"] == config.no_rope_layers == [1, 0]
    assert len(config.layer_types) == 2
    assert config.eos_token_id == [1, 2, 3, 4]
    check_expressible(smol, "blocks", 2)
    options = {**GROUPED, **EXPERTS, "num_hidden_layers": 4, "mlp_only_layers": [0, 2]}
    mixed = AutoModelForCausalLM.from_config(Qwen2MoeConfig(**options))
    assert shrunk_config(mixed, "blocks", [1, 2, 3])[1]["mlp_only_layers"] == [1]
    assert shrunk_config(mixed, "blocks", [1, 3])[1]["mlp_only_layers"] == []


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(WITHOUT_CHANNELS))
def test_experts_have_no_channels_that_go_whole(family: str) -> None:
    with pytest.raises(ModelError, match=r"channels of the family .* cannot be dropped whole"):
        places(model_of_family(family), "channels")


@pytest.mark.parametrize("family", sorted(WITHOUT_HEADS))
def test_families_without_a_width_of_heads_keep_them(family: str) -> None:
    with pytest.raises(ModelError, match=r"heads of the family .* cannot be .*--unit"):
        places(model_of_family(family), "heads")


def test_layers_that_read_another_s_keys_are_not_dropped() -> None:
    with pytest.raises(ModelError, match=r"gemma4_text' cannot say that it has fewer blocks"):
        check_expressible(model_of_family("gemma4"), "blocks", 1)


def test_query_heads_that_cannot_be_shared_out_are_refused() -> None:
    model = llama(4, 2)
    model.config.num_key_value_heads = 3
    with pytest.raises(ModelError, match=r"4 query heads cannot be shared evenly by 3"):
        places(model, "heads")


def test_a_number_for_each_unit_elsewhere_is_refused() -> None:
    """A norm over all heads at once (OLMo 2) or a scale of channels would have to shrink too."""
    for unit, owner, name in (("heads", "self_attn", "q_norm"), ("channels", "mlp", "scale")):
        model = llama(3, 1)
        extra = nn.Module()
        extra.register_parameter("weight", nn.Parameter(torch.ones(12)))
        setattr(getattr(model.model.layers[1], owner), name, extra)
        with pytest.raises(ModelError, match=rf"layers\.1\.{owner}\.{name}\.weight is not known"):
            places(model, unit)


def test_layers_of_different_sizes_are_refused() -> None:
    model = llama(3, 1)
    mlp = model.model.layers[1].mlp
    mlp.gate_proj, mlp.up_proj = nn.Linear(12, 5), nn.Linear(12, 5)
    mlp.down_proj = nn.Linear(5, 12)
    with pytest.raises(ModelError, match="different numbers of channels"):
        places(model, "channels")


def test_attention_of_another_shape_is_refused() -> None:
    model = llama(3, 1)
    model.model.layers[0].self_attn.k_proj = nn.Linear(12, 8)
    with pytest.raises(ModelError, match="other outputs"):
        places(model, "heads")


def test_what_a_configuration_cannot_say_is_refused() -> None:
    model = llama(3, 1)
    model.config.mlp_bias = False  # a configuration that says less than the model has
    for unit in ("channels", "blocks"):
        with pytest.raises(ModelError, match=r"cannot say that it has fewer .*bias"):
            check_expressible(model, unit, 1)


def test_heads_that_would_not_divide_the_width_are_refused_with_those_that_do() -> None:
    """What transformers says of LLaMA and Gemma, though their heads have a width of their own."""
    model = llama(6, 6)
    with pytest.raises(ModelError, match=r"12\).*multiple.*\(5\).* can keep 1 or 2 or 3 or 4\)"):
        check_expressible(model, "heads", 5)
    check_expressible(model, "heads", 4)


def test_a_unit_must_be_said() -> None:
    with pytest.raises(ConfigError, match="--unit channels"):
        check_unit(None)
    with pytest.raises(ConfigError, match="did you mean 'heads'"):
        check_unit("haeds")
    assert check_unit("blocks") == "blocks"
