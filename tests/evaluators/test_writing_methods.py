"""What is written of a model that a method pruned: its weights, to the bit, and their zeros."""

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from autoproxy.errors import ConfigError, ModelError
from evaluators.masks import NM
from evaluators.methods import METHODS
from evaluators.methods.ria_permuted import permutation
from evaluators.pruning import PruningEvaluator
from evaluators.source import find_source
from evaluators.writing import read_masks, write_pruned
from tests.evaluators import peers
from tests.evaluators.families import model_of_family
from tests.evaluators.test_writing import files_of, matrix, mixed, plain_masks
from tests.evaluators.tiny import save, tiny_folder, tiny_model, write_texts

FAMILIES = ("llama", "gpt2", "qwen2-moe")  # grouped queries; Conv1D; fused experts
ASKED = (
    *(("sparsegpt", amount) for amount in ("0.3", "2:4")),
    *((name, "0.5") for name in ("sparsegpt-mask", "wanda-variant", "dsnot")),
    ("ria-permuted", "2:4"),
)


def said(folder: Path, model: Path, amount: str = "0.5", **changes: Any) -> dict[str, Any]:
    """Return options for a model, with texts that are written."""
    texts = write_texts(folder / "texts")
    roles = {role: [texts[role]] for role in ("calibration", "text")}
    how = {"pattern": amount} if ":" in amount else {"sparsity": amount}
    few = {"length": 16, "calibration_blocks": 3}
    return {"model": str(model), **roles, **few, **how, **changes}


def opened(options: Mapping[str, Any], folder: Path) -> PruningEvaluator:
    return PruningEvaluator.from_options(options, cache=folder / "c", notice=lambda _: None)


def pruned(
    name: str, options: Mapping[str, Any], folder: Path
) -> tuple[Path, dict[str, Any], list[str]]:
    """Write a model as a method prunes it; return the folder, the facts and what was noted."""
    out = folder / "out"
    out.mkdir()
    told: list[str] = []
    facts = PruningEvaluator.prune(
        options,
        name,
        out,
        check=False,
        cache=folder / "c",
        tell=lambda _, note: told.append(note) if note and "stay dense" not in note else None,
    )
    return out, facts, told


def plain(folder: Path) -> PreTrainedModel:
    """Load a folder as anybody would; nothing may be missing or left over."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, experts_implementation="eager", dtype="auto", output_loading_info=True
    )
    assert not any(report.values())
    return model


# --- the weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "amount"), ASKED)
def test_the_folder_has_the_weights_of_the_method_bit_for_bit(
    family: str, name: str, amount: str, tmp_path: Path
) -> None:
    options = said(tmp_path, save(tmp_path / "model", model_of_family(family)), amount)
    out, facts, told = pruned(name, options, tmp_path)
    right = opened(options, tmp_path)._decider.weights_by(METHODS[name], 0)
    model, dense, masks = plain(out), model_of_family(family), plain_masks(out)
    assert list(masks) == list(right)
    for layer, weight in right.items():
        written = matrix(model, layer)
        assert written.dtype == torch.float32
        assert torch.equal(written, weight), layer
        assert torch.equal(written != 0, torch.from_numpy(masks[layer]))  # exactly the zeros
        matrix(dense, layer).copy_(weight)
    # All else is the source's: only what `right` has was put into the dense model.
    for one, other in zip(model.named_parameters(), dense.named_parameters(), strict=True):
        assert torch.equal(one[1], other[1]), one[0]
    assert facts["dropped"] == sum(int((weight == 0).sum()) for weight in right.values())
    assert facts["method"]["name"] == name
    assert facts["method"]["source"] == METHODS[name].source
    assert not told


def moments_by_hand(model: PreTrainedModel, name: str, blocks: Tensor) -> np.ndarray:
    """Return (2/N) sum x x^T of what a module reads, by whole forward passes."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda _, args, __: seen.append(args[0])
    )
    with torch.no_grad():
        for block in blocks:
            model(input_ids=block[None], use_cache=False)
    handle.remove()
    x = torch.cat([one.reshape(-1, one.shape[-1]) for one in seen]).double().numpy()
    return 2 / len(blocks) * x.T @ x


@pytest.mark.parametrize("mode", ["oneshot", "sequential"])
def test_sparsegpt_is_brain_surgery_by_hand_on_what_flows_there(mode: str, tmp_path: Path) -> None:
    """Layer by layer: in sequential mode behind the weights that were written before."""
    options = said(tmp_path, tiny_folder(tmp_path / "model"), mode=mode)
    out, _, _ = pruned("sparsegpt", options, tmp_path)
    evaluator, model = opened(options, tmp_path), tiny_model()
    blocks, written = evaluator._model.blocks(0), plain(out)
    if mode == "sequential":
        for name in evaluator._model.by_layer[0]:
            matrix(model, name).copy_(matrix(written, name))
    for name in ("model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        moments = moments_by_hand(model, name, blocks)
        seen = {"W": matrix(tiny_model(), name).double().numpy(), "moments": moments}
        weight, mask = peers.sparsegpt(seen, "columns", Fraction(1, 2))
        found = matrix(written, name).numpy()
        assert ((found != 0) == mask).all()
        np.testing.assert_allclose(found, weight, rtol=1e-3, atol=1e-4)
        assert not np.allclose(found, np.where(mask, seen["W"], 0.0), rtol=1e-3)  # truly updated


# --- patterns -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(1, 4), NM(4, 8)], ids=str)
@pytest.mark.parametrize("name", ["sparsegpt", "ria-permuted"])
def test_blocks_keep_what_the_pattern_says(name: str, pattern: NM, tmp_path: Path) -> None:
    options = said(tmp_path, tiny_folder(tmp_path / "model"), str(pattern))
    out, _, _ = pruned(name, options, tmp_path)
    dense = tiny_model()
    seen = opened(options, tmp_path)._model.statistics(0, frozenset({"x_norm"}))
    broken = 0
    for layer, mask in read_masks(out / "masks.safetensors").items():
        rows, columns = mask.shape
        plainly = mask.reshape(rows, -1, pattern.block).sum(dim=2)
        order = torch.arange(columns)
        if name == "ria-permuted":  # in the order of inputs that it chose, never written
            size = matrix(dense, layer).abs()
            relative = size / size.sum(dim=0) + size / size.sum(dim=1, keepdim=True)
            order = permutation(relative * seen[layer]["x_norm"].sqrt(), pattern)
        blocks = mask[:, order].reshape(rows, -1, pattern.block)
        assert (blocks.sum(dim=2) == pattern.keep).all(), layer
        broken += int((plainly != pattern.keep).sum())
    assert bool(broken) == (name == "ria-permuted")


def test_inputs_stay_where_they_were_under_ria_s_permutation(tmp_path: Path) -> None:
    """What is kept is the source's own, in its place: the same function up to the pruning."""
    options = said(tmp_path, tiny_folder(tmp_path / "model"), "2:4")
    out, _, _ = pruned("ria-permuted", options, tmp_path)
    before, after, masks = files_of(tmp_path / "model"), files_of(out), plain_masks(out)
    for name, old in before.items():
        mask = masks.get(name.removesuffix(".weight"), np.ones(old.shape, bool))
        assert torch.equal(after[name], old.masked_fill(torch.from_numpy(~mask), 0.0)), name


@pytest.mark.parametrize(
    ("name", "amount"), [("dsnot", "2:4"), ("wanda-variant", "2:4"), ("ria-permuted", "0.5")]
)
def test_what_a_method_cannot_make_is_told_before_anything_is_read(
    name: str, amount: str, tmp_path: Path
) -> None:
    options = said(tmp_path, tmp_path / "missing", amount)
    with pytest.raises(ConfigError, match=f"^{name} .*; ask for a"):
        pruned(name, options, tmp_path)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["sparsegpt", "wanda-variant"])
def test_a_value_has_no_group_in_its_protocol_that_was_not_honoured(
    name: str, tmp_path: Path
) -> None:
    """A report measures nothing under a group that a method does not compare by."""
    model = tiny_folder(tmp_path / "model")
    asked = said(tmp_path, model, text_blocks=2, group="matrix")
    with pytest.raises(ConfigError, match=rf"^{name} .*group matrix; ask for --group row"):
        list(opened(asked, tmp_path).report([name], [0]))
    with pytest.raises(ConfigError, match=rf"^{name} .*group matrix; ask for --group row"):
        pruned(name, {**asked, "model": str(tmp_path / "missing")}, tmp_path)


def test_blocks_are_compared_within_whatever_the_group(tmp_path: Path) -> None:
    """The group is of no matter then, as for a metric, and the protocol says `block`."""
    model = tiny_folder(tmp_path / "model")
    found = []
    for group in ("row", "matrix"):
        folder = tmp_path / group
        folder.mkdir()
        _, facts, _ = pruned("sparsegpt", said(tmp_path, model, "2:4", group=group), folder)
        found.append(facts)
    assert found[0]["protocol"] == found[1]["protocol"]
    assert found[0]["protocol"]["group"] == "block"
    assert found[0]["mask_hash"] == found[1]["mask_hash"]


# --- types and zeros of the source --------------------------------------------------------------


@pytest.mark.parametrize("name", ["sparsegpt", "dsnot"])
@pytest.mark.parametrize("form", ["bfloat16", "float16", "mixed"])
def test_zeros_stay_zeros_in_the_types_of_the_source(name: str, form: str, tmp_path: Path) -> None:
    """New weights are rounded as a cast rounds them; what a method leaves alone never is."""
    source = save(tmp_path / "model", tiny_model())
    tensors = load_file(source / "model.safetensors")
    kind = torch.bfloat16 if form == "mixed" else getattr(torch, form)
    kept = {n: mixed(n, t) if form == "mixed" else t.to(kind) for n, t in tensors.items()}
    save_file(kept, source / "model.safetensors", metadata={"format": "pt"})
    options = said(tmp_path, source)
    out, _, told = pruned(name, options, tmp_path)
    right = opened(options, tmp_path)._decider.weights_by(METHODS[name], 0)
    after, masks = files_of(out), plain_masks(out)
    rounded = 0
    for layer, weight in right.items():
        written, own = after[f"{layer}.weight"], kept[f"{layer}.weight"]
        assert written.dtype == own.dtype
        assert torch.equal(written, weight.to(own.dtype))
        assert ((weight == 0).numpy() == ~masks[layer]).all()
        assert not written[torch.from_numpy(~masks[layer])].any()
        if name == "dsnot":
            assert torch.equal(written, own.masked_fill(written == 0, 0.0))
        rounded += int((written.float() != weight).sum())
    assert bool(rounded) == (name == "sparsegpt")
    assert ["rounded to the types of the model's files" in note for note in told] == (
        [True] if name == "sparsegpt" else []
    )


def test_a_narrow_dtype_changes_nothing_that_only_is_kept(tmp_path: Path) -> None:
    """Decided in bfloat16, but what stays is written as the source has it, in float32."""
    options = said(tmp_path, tiny_folder(tmp_path / "model"), dtype="bfloat16")
    out, _, _ = pruned("wanda-variant", options, tmp_path)
    before, after, masks = files_of(tmp_path / "model"), files_of(out), plain_masks(out)
    for layer, mask in masks.items():
        name = f"{layer}.weight"
        kept = torch.from_numpy(mask)
        assert torch.equal(after[name], before[name].masked_fill(~kept, 0.0))


def test_weights_that_a_type_cannot_hold_are_refused(tmp_path: Path) -> None:
    source = find_source(str(save(tmp_path / "model", tiny_model().half())))
    name, shape = next(iter(source.shapes.items()))
    masks = {n: np.packbits(np.ones(s, bool)) for n, s in source.shapes.items()}
    out = tmp_path / "out"
    out.mkdir()
    for large in (7e4, -7e4):
        changed = {name: torch.full(shape, large)}
        with pytest.raises(
            ModelError, match=rf"{name} are too large.*7e\+04.*6\.55e\+04.*bfloat16"
        ):
            write_pruned(source, masks, out, lambda _: None, changed=changed)
    assert not list(out.iterdir())
    write_pruned(source, masks, out, lambda _: None, changed={name: torch.full(shape, 6e4)})
    assert (files_of(out)[f"{name}.weight"] == 6e4).all()


def test_a_pruned_folder_can_be_pruned_again(tmp_path: Path) -> None:
    """Zeros go first; what is zero afterwards counts as dropped, whoever dropped it."""
    once, _, _ = pruned("wanda-variant", said(tmp_path, tiny_folder(tmp_path / "m")), tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    twice, facts, _ = pruned("dsnot", said(again, once, "0.25"), again)
    zeros = sum(int((tensor == 0).sum()) for tensor in files_of(twice).values())
    assert facts["dropped"] == zeros
    assert facts["dropped"] >= 0.5 * facts["weights"]


def test_the_dense_model_is_what_is_compared_with(tmp_path: Path) -> None:
    """The dense perplexity of a check is of the model as it was before the method worked."""
    options = said(tmp_path, tiny_folder(tmp_path / "model"), text_blocks=2)
    decision = opened(options, tmp_path).decide("sparsegpt")
    evaluator = opened(options, tmp_path)
    dense = evaluator.dense()["perplexity"]
    assert decision.facts["check"]["dense_perplexity"] == pytest.approx(dense, rel=1e-6)
    assert json.dumps(decision.facts)  # plain values
