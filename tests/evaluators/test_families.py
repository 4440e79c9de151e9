"""Every family: what is pruned, its statistics, masks, logits, and what is saved and loaded."""

import copy
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from evaluators.layers import is_experts, prunable, skipped, weights_of
from evaluators.masks import Unstructured, applied, keep_mask
from evaluators.models import LoadedModel
from evaluators.perplexity import block_losses, output_head
from evaluators.statistics import collect
from evaluators.walk import Walk
from tests.evaluators.families import FAMILIES, HEADS, model_of_family
from tests.evaluators.tiny import mean_loss, save, state

BLOCKS, LENGTH = 2, 24


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return model_of_family(request.param)


def blocks() -> Tensor:
    draw = torch.Generator().manual_seed(5)
    return torch.randint(2, 250, (BLOCKS, LENGTH), generator=draw)


def loaded(model: PreTrainedModel) -> LoadedModel:
    return LoadedModel(model, None, "tiny", "0" * 32, model.config.model_type)


ROUTED: dict[str, dict[str, Any]] = {
    "Llama4TextConfig": {"num_local_experts": 4, "interleave_moe_layer_step": 1},
    "PhimoeConfig": {"num_local_experts": 4},
    "HunYuanMoEV1Config": {"num_experts": 4, "moe_topk": 2},
    "Gemma3nTextConfig": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 260}
    | {"layer_types": ["full_attention"] * 2, "num_kv_shared_layers": 0, "laurel_rank": 8},
}


@pytest.mark.parametrize("name", ROUTED)
def test_routers_stay_dense_whatever_they_are_made_of(name: str) -> None:
    """A subclass of a linear layer, one inside a gate, and a plain one that is called so."""
    config = getattr(transformers, name)(**{**HEADS, **ROUTED[name]})
    routed = AutoModelForCausalLM.from_config(config, experts_implementation="eager")
    routers = [n for n in skipped(routed) if "router" in n or ".gate." in n]
    assert len(routers) == 2
    assert not any("router" in n or ".gate." in n for n in prunable(routed))
    # Llama 4 stores experts as (expert, in, out), which no statistic and no mask was made for.
    experts = [n for n in skipped(routed) if "experts" in n]
    assert len(experts) == (4 if name == "Llama4TextConfig" else 0)


def test_a_model_that_sees_images_is_pruned_in_its_language_alone() -> None:
    """Gemma 3 from 4B on: a stack of layers for images besides, which takes no token."""
    text = {**HEADS, "layer_types": ["sliding_attention", "full_attention"]}
    image = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    image |= {"num_attention_heads": 4, "image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(text_config=text, vision_config=image)
    seeing = AutoModelForCausalLM.from_config(config).eval().requires_grad_(requires_grad=False)
    assert len(prunable(seeing)) == 2 * 7
    assert not any("vision" in name for name in prunable(seeing))
    assert not any("vision" in name for name in skipped(seeing))
    found = collect(loaded(seeing), blocks(), ["x_norm", "g_region", "g_norm", "block_angle"])
    assert all(bool((v > 0).any()) for values in found.values() for v in values.values())
    walk = Walk(seeing, blocks())
    for number in range(2):
        walk.step(number)
    ids = blocks()[:1]
    with torch.no_grad():
        logits = seeing(ids, use_cache=False).logits[0]
        ours = output_head(seeing)(next(iter(walk.leave())))
    torch.testing.assert_close(ours, logits)


def test_every_matrix_of_the_decoder_is_pruned_or_listed(model: PreTrainedModel) -> None:
    """Counted by dimensions alone: nothing of two or more is forgotten, nothing counted twice."""
    layers = prunable(model)
    inside = [
        p
        for name, p in model.named_parameters()
        if p.ndim >= 2
        and any(f"{stack}.{i}." in name for stack in ("layers", "h") for i in range(4))
    ]
    left = sum(model.get_parameter(name).numel() for name in skipped(model))
    assert sum(layer.weight.numel() for layer in layers.values()) + left == sum(
        p.numel() for p in inside
    )
    assert all("gate" in name or "router" in name for name in skipped(model))
    experts = [name for name, layer in layers.items() if layer.expert is not None]
    assert len(experts) == (16 if "experts" in str(model) else 0)


def test_a_layer_is_seen_as_outputs_by_inputs(model: PreTrainedModel) -> None:
    for layer in prunable(model).values():
        if isinstance(layer.module, nn.Linear):
            assert layer.weight.shape == layer.module.weight.shape
        elif isinstance(layer.module, Conv1D):
            assert layer.weight.shape[0] == layer.module.nf
        x = torch.randn(3, layer.in_features)
        assert nn.functional.linear(x, layer.weight).shape == (3, layer.out_features)


class Recorder(nn.Module):
    """Stands in for a module and writes down what it is called with and what it answers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls: list[tuple[tuple[Tensor, ...], Tensor]] = []

    def forward(self, *args: Tensor) -> Tensor:
        result: Tensor = self.inner(*args)
        self.calls.append((args, result.clone()))  # Falcon adds to it in place
        return result

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)


def recorded(model: PreTrainedModel) -> dict[str, Recorder]:
    """Replace each computing module of a copy by a recorder, and run the blocks."""
    model = copy.deepcopy(model).double()
    recorders = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | Conv1D) or is_experts(module):
            parent, _, leaf = name.rpartition(".")
            recorders[name] = Recorder(module)
            setattr(model.get_submodule(parent), leaf, recorders[name])
    with torch.no_grad():
        for block in blocks():
            model(block.unsqueeze(0), use_cache=False)
    return recorders


def norms_of(recorder: Recorder, expert: int | None, part: str) -> tuple[Tensor, Tensor]:
    """Return the input and output norm of one matrix from what its module was called with."""
    x, y = 0.0, 0.0
    for args, result in recorder.calls:
        inputs, outputs = args[0], result
        if expert is not None:
            inputs, outputs = _of_expert(recorder.inner, args, expert, part)
        x = x + inputs.reshape(-1, inputs.shape[-1]).square().sum(dim=0)
        y = y + outputs.reshape(-1, outputs.shape[-1]).square().sum(dim=0)
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)
    return (x / BLOCKS).sqrt(), (y / BLOCKS).sqrt()


def _of_expert(
    module: nn.Module, args: tuple[Tensor, ...], expert: int, part: str
) -> tuple[Tensor, Tensor]:
    """Compute one expert token by token, from the routing alone."""
    states, chosen = args[0], args[1]
    gate_up, down = module.get_parameter("gate_up_proj"), module.get_parameter("down_proj")
    tokens = [t for t in range(len(states)) if expert in chosen[t].tolist()]
    x = states[tokens]
    middle = x @ gate_up[expert].T
    if part == "gate_up_proj":
        return x, middle
    gate, up = middle.chunk(2, dim=-1)
    hidden = module.get_submodule("act_fn")(gate) * up
    return hidden, hidden @ down[expert].T


def test_norms_of_inputs_and_outputs_are_those_that_flow(model: PreTrainedModel) -> None:
    found = collect(loaded(model), blocks(), ["x_norm", "y_norm"])
    recorders = recorded(model)
    for name, layer in prunable(model).items():
        owner, part = name, ""
        if layer.expert is not None:
            owner, part, _ = name.rsplit(".", 2)
        x, y = norms_of(recorders[owner], layer.expert, part)
        for key, right in (("x_norm", x), ("y_norm", y)):
            ours = found[name][key].double().flatten()
            torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5 * float(right.max()))


def test_gradients_are_those_of_the_mean_loss(model: PreTrainedModel) -> None:
    found = collect(loaded(model), blocks()[:1], ["g", "g_norm", "g_region"])
    twin = copy.deepcopy(model).double()
    layers = prunable(twin)
    for layer in layers.values():
        layer.parameter.requires_grad_(requires_grad=True)
    loss = mean_loss(twin, blocks()[0])
    parameters = list({id(layer.parameter): layer.parameter for layer in layers.values()}.values())
    gradients = dict(zip(map(id, parameters), torch.autograd.grad(loss, parameters), strict=True))
    for name, layer in layers.items():
        right = layer.view(gradients[id(layer.parameter)])
        assert found[name]["g"].shape == layer.weight.shape == found[name]["g_region"].shape
        torch.testing.assert_close(
            found[name]["g"].double(), right, rtol=1e-3, atol=1e-4 * float(right.abs().max())
        )
        torch.testing.assert_close(found[name]["g_norm"], found[name]["g"].abs())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_gradients_token_by_token(model: PreTrainedModel) -> None:
    """Exactly where a module computes the layer; for fused experts between what bounds it."""
    found = collect(loaded(model), blocks()[:1], ["g", "g_token"])
    twin = copy.deepcopy(model).double()
    layers = prunable(twin)
    ran: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    for layer in layers.values():
        layer.parameter.requires_grad_(requires_grad=True)
        layer.module.register_forward_hook(lambda m, x, y: ran.update({m: (x[0].detach(), y)}))
    single = [name for name, layer in layers.items() if layer.expert is None]
    loss = mean_loss(twin, blocks()[0])
    slopes = torch.autograd.grad(loss, [ran[layers[name].module][1] for name in single])
    for name, slope in zip(single, slopes, strict=True):
        x = ran[layers[name].module][0].flatten(0, -2)
        parts = torch.einsum("ti,tj->tij", slope.flatten(0, -2), x)
        right = parts.square().sum(dim=0).sqrt()
        torch.testing.assert_close(
            found[name]["g_token"].double(), right, rtol=1e-3, atol=1e-5 * float(right.max())
        )
    for name, values in found.items():
        assert values["g_token"].shape == layers[name].weight.shape
        least = values["g"].abs() / LENGTH**0.5  # Cauchy and Schwarz
        assert bool((values["g_token"] >= 0.999 * least - 1e-9).all()), name
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_gradients_are_without_a_router_s_balance() -> None:
    """A configuration may ask for its loss, which transformers adds to that of the next token."""
    plain = model_of_family("mixtral")
    asking = model_of_family("mixtral")
    asking.config.output_router_logits = True
    asking.config.router_aux_loss_coef = 10.0
    one, other = (collect(loaded(m), blocks()[:1], ["g"]) for m in (plain, asking))
    for name, values in one.items():
        assert torch.equal(values["g"], other[name]["g"])


def chosen_experts(model: PreTrainedModel, tokens: Tensor) -> dict[str, set[int]]:
    """Return which experts of each module were chosen, from what it was called with."""
    found: dict[str, set[int]] = {}
    for name, module in model.named_modules():
        if is_experts(module):
            seen = found.setdefault(name, set())
            module.register_forward_pre_hook(
                lambda _, args, seen=seen: seen.update(args[1].flatten().tolist())
            )
    model(tokens, use_cache=False)
    return found


def test_an_expert_that_no_token_chose_has_the_mean_of_its_siblings(model: PreTrainedModel) -> None:
    """Two tokens reach few. At zero, all weights of the others would tie and go by column."""
    names = ["x_norm", "x_var", "y_norm", "h_inv", "g", "g_norm", "g_token", "g_region"]
    notices: list[str] = []
    found = collect(loaded(model), blocks()[:1, :2], names, notices.append)
    chosen = chosen_experts(copy.deepcopy(model), blocks()[:1, :2])
    unchosen = 0
    for name, layer in prunable(model).items():
        assert found[name]["g_token"].shape == layer.weight.shape, name
        owner, part, expert = (*name.rsplit(".", 2), "", "")[:3]
        if layer.expert is None or int(expert) in chosen[owner]:
            continue
        unchosen += 1
        for key in names:
            siblings = [found[f"{owner}.{part}.{one}"][key] for one in sorted(chosen[owner])]
            torch.testing.assert_close(found[name][key], torch.stack(siblings).mean(dim=0))
        assert bool((found[name]["x_norm"] > 0).all())
    assert [f"{unchosen} of 16" in told for told in notices] == [True] * (unchosen > 0)
    assert bool(unchosen) == bool(chosen)


def half_masks(model: PreTrainedModel) -> dict[str, Tensor]:
    half = Unstructured(Fraction(1, 2))
    return {n: keep_mask(w.abs(), half, "row") for n, w in weights_of(prunable(model)).items()}


def test_masked_logits_survive_saving_and_loading(model: PreTrainedModel, tmp_path: Path) -> None:
    before = state(model)
    with applied(weights_of(prunable(model)), half_masks(model)):
        zeros = sum(int((w == 0).sum()) for w in weights_of(prunable(model)).values())
        total = sum(w.numel() for w in weights_of(prunable(model)).values())
        assert zeros == total // 2
        pruned = model(blocks()[:1]).logits
        save(tmp_path, model)
    assert state(model) == before
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path, experts_implementation="eager", dtype=torch.float32
    )
    assert torch.equal(again(blocks()[:1]).logits, pruned)
    assert not torch.allclose(model(blocks()[:1]).logits, pruned)


def test_losses_are_transformers_own(model: PreTrainedModel) -> None:
    for block, ours in zip(blocks(), block_losses(model, blocks()), strict=True):
        ids = block.unsqueeze(0)
        assert math.isclose(ours, float(model(ids, labels=ids).loss), rel_tol=1e-5)
