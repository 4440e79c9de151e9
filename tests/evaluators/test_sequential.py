"""Sequential mode and allocations in the evaluator, against a plain loop written from the text."""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from autoproxy.errors import ConfigError, ModelError
from autoproxy.evaluation import Failed, Measured
from autoproxy.language.parse import parse
from evaluators import deciding
from evaluators.calibrated import Calibrated
from evaluators.config import PruningConfig
from evaluators.deciding import Decider
from evaluators.layers import prunable
from evaluators.masks import unpack
from evaluators.methods import METHODS
from evaluators.pruning import PruningEvaluator
from evaluators.statistics import Statistics, flows
from tests.evaluators.test_methods import HALF, makes
from tests.evaluators.tiny import state, tiny_options

WANDA = parse("mul(abs(W), x_norm)")


def made(folder: Path, **changes: Any) -> PruningEvaluator:
    options = tiny_options(folder, **changes)
    return PruningEvaluator.from_options(options, cache=folder / "cache", notice=print)


def masks_of(evaluator: PruningEvaluator, text: str = str(WANDA)) -> dict[str, Tensor]:
    masks = evaluator._make_masks(parse(text), 0)
    assert not isinstance(masks, Failed)
    layers = prunable(evaluator.loaded.model)
    return {name: unpack(bits, layers[name].weight) for name, bits in masks.items()}


def wanda_in_turn(model: LlamaForCausalLM, blocks: Tensor, share: Fraction) -> dict[str, Tensor]:
    """Prune layer after layer, each by the inputs that the whole model, as pruned, gives it."""
    masks = {}
    for number in range(model.config.num_hidden_layers):
        inside = {
            f"model.layers.{number}.{name}": module
            for name, module in model.model.layers[number].named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        squares = dict.fromkeys(inside, 0.0)
        for block in blocks:
            for name, module in inside.items():
                seen: list[Tensor] = []
                handle = module.register_forward_hook(lambda _, a, __, s=seen: s.append(a[0]))
                with torch.no_grad():
                    model(block[None])
                handle.remove()
                squares[name] = squares[name] + seen[0][0].double().square().sum(0)
        for name, module in inside.items():
            norm = (squares[name] / len(blocks)).sqrt().float()
            weight = module.weight.data
            order = torch.sort(weight.abs() * norm, dim=1, stable=True).indices
            drop = order[:, : int(weight.shape[1] * share)]
            masks[name] = torch.ones_like(weight, dtype=torch.bool).scatter(1, drop, value=False)
            weight[~masks[name]] = 0.0
    return masks


def test_sequential_masks_are_those_of_the_plain_loop(tmp_path: Path) -> None:
    evaluator = made(tmp_path, sparsity="0.5", mode="sequential")
    before = state(evaluator.loaded.model)
    ours = masks_of(evaluator)
    assert state(evaluator.loaded.model) == before
    blocks = evaluator._blocks("calibration", 4, 0)
    twin = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny", dtype=torch.float32)
    right = wanda_in_turn(twin, blocks, Fraction(1, 2))
    assert ours.keys() == right.keys()
    assert all(torch.equal(ours[name], right[name]) for name in right)
    oneshot = masks_of(made(tmp_path, sparsity="0.5"))
    differs = [name for name in ours if not torch.equal(ours[name], oneshot[name])]
    assert differs
    assert all(".1." in name or "o_proj" not in name for name in differs)
    first = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert not any(f"layers.0.self_attn.{part}" in differs for part in first)


def test_sequential_mode_takes_gradients_of_the_dense_model(tmp_path: Path) -> None:
    """A metric of gradients alone sees nothing of the prefix, so both modes agree on it."""
    text = "mul(abs(W), g_norm)"
    assert_same(masks_of(made(tmp_path, mode="sequential"), text), masks_of(made(tmp_path), text))


def test_what_reads_no_inputs_walks_no_pruned_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "flows", None)
    assert_same(
        masks_of(made(tmp_path, mode="sequential"), "abs(W)"), masks_of(made(tmp_path), "abs(W)")
    )
    with pytest.raises(TypeError):
        masks_of(made(tmp_path, mode="sequential"), "mul(abs(W), x_norm)")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_statistic_that_is_not_finite_is_refused_by_every_method(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else some prune a whole matrix, and leave finite weights."""

    def broken(*words: Any) -> Statistics:
        found = flows(*words)
        for value in next(iter(found.values())).values():
            value[..., 0] = math.nan
        return found

    monkeypatch.setattr(deciding, "flows", broken)
    pattern = {"sparsity": "0.5"} if makes(METHODS[method], HALF) else {"pattern": "2:4"}
    evaluator = made(tmp_path, **pattern)
    with pytest.raises(ModelError, match=r"float16|not finite"):
        evaluator._decider.masks_by(METHODS[method], 0)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_protocols_tell_modes_and_allocations_apart(tmp_path: Path) -> None:
    plain = made(tmp_path).report_protocol()
    for change in ({"mode": "sequential"}, {"allocation": "owl"}, {"allocation": "alpha"}):
        assert made(tmp_path, **change).report_protocol() != plain
    assert "allocation" not in plain


@pytest.mark.parametrize("allocation", ["owl", "alpha", "metric"])
@pytest.mark.parametrize("group", ["row", "matrix", "layer"])
def test_an_allocation_drops_what_it_says(tmp_path: Path, allocation: str, group: str) -> None:
    evaluator = made(tmp_path, sparsity="0.5", allocation=allocation, group=group)
    evaluator.loaded.model.get_parameter("model.layers.1.mlp.up_proj.weight")[:3] *= 30  # outliers
    masks = masks_of(evaluator)
    shares = []
    for number in range(2):
        inside = [mask for name, mask in masks.items() if f"layers.{number}." in name]
        total = sum(mask.numel() for mask in inside)
        shares.append(1 - sum(int(mask.sum()) for mask in inside) / total)
        if group == "row":
            for mask in inside:
                assert len(set(mask.sum(dim=1).tolist())) == 1
    assert sum(shares) / 2 == pytest.approx(0.5, abs=0.05)  # rows of 16 are cut to whole numbers
    assert shares[0] != shares[1]


def test_what_the_metric_allots_is_its_order_over_the_model(tmp_path: Path) -> None:
    whole = masks_of(made(tmp_path, sparsity="0.5", group="model"))
    layered = masks_of(made(tmp_path, sparsity="0.5", allocation="metric", group="layer"))
    assert_same(whole, layered)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mode": "serial"}, "sequential"),
        ({"allocation": "owls"}, "owl"),
        ({"allocation": "owl", "pattern": "2:4"}, "pattern 2:4"),
        ({"allocation": "owl", "group": "model"}, "group model"),
        ({"mode": "sequential", "group": "model"}, "one decoder layer after another"),
        ({"mode": "sequential", "allocation": "metric"}, "one decoder layer after another"),
    ],
)
def test_what_cannot_be_asked_for_at_once(
    tmp_path: Path, change: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        made(tmp_path, **change)


def test_a_tuned_allocation_is_measured_as_it_was_tuned(tmp_path: Path) -> None:
    evaluator = made(tmp_path, sparsity="0.5")
    before = state(evaluator.loaded.model)
    found = evaluator.allocate(WANDA, trials=6, tell=lambda *_: None)
    assert state(evaluator.loaded.model) == before
    assert found["kl"] <= found["uniform_kl"]
    (uniform,) = made(tmp_path, sparsity="0.5").measure([WANDA], 1.0)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    (tuned,) = made(tmp_path, sparsity="0.5", allocation=str(path)).measure([WANDA], 1.0)
    assert isinstance(uniform, Measured)
    assert isinstance(tuned, Measured)
    assert uniform.value == found["uniform_kl"]
    assert tuned.value == pytest.approx(found["kl"], rel=1e-6)
    with pytest.raises(ConfigError, match="leave --pattern"):
        made(tmp_path, pattern="2:4").allocate(WANDA, trials=2, tell=lambda *_: None)


@pytest.mark.parametrize("mode", ["oneshot", "sequential"])
def test_the_only_matrix_of_a_decoder_layer_is_compared_whole(tmp_path: Path, mode: str) -> None:
    """As if it were one of several that are compared together, and not row by row."""
    evaluator = made(tmp_path, group="layer", mode=mode)
    model = Calibrated(
        evaluator.loaded, lambda _: BLOCKS, cache=tmp_path, limit=None, notice=lambda _: None
    )
    model.by_layer = [names[:1] for names in model.by_layer]
    model.layers = {names[0]: model.layers[names[0]] for names in model.by_layer}
    config = PruningConfig(group="layer", mode=mode)
    masks = Decider(model, config).masks(parse("abs(W)"), 0)
    assert not isinstance(masks, Failed)
    for name in model.layers:
        weight = model.weights[name]
        whole = weight.abs() > weight.abs().flatten().kthvalue(weight.numel() // 2).values
        assert torch.equal(unpack(masks[name], weight), whole)


BLOCKS = torch.randint(2, 250, (2, 16), generator=torch.Generator().manual_seed(1))
