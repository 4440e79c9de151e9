"""What is written of a pruned model: every family, type, form of file, pattern and group."""

import json
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from autoproxy.cli import main
from autoproxy.errors import ModelError
from evaluators import writing
from evaluators.source import find_source
from evaluators.writing import read_masks, write_masks
from tests.evaluators.families import FAMILIES, config_of, model_of_family
from tests.evaluators.tiny import edit_json, save, tiny_model, tiny_tokenizer, write_texts

Written = Callable[..., Path]


@pytest.fixture
def prune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Written:
    """Return the command: it prunes a folder by magnitude and returns the folder written."""
    text = write_texts(tmp_path / "texts")["calibration"]

    def call(source: Path, *words: object, out: str = "pruned") -> Path:
        given = ["prune", source, "--metric", "abs(W)", "--calibration", text, "--length", "16"]
        given += ["--calibration-blocks", "2", "--results", tmp_path / "results"]
        code = main([*map(str, given), *map(str, words), "--out", str(tmp_path / out)])
        assert code == 0, capsys.readouterr().err
        return tmp_path / out

    return call


def tokens() -> Tensor:
    return torch.randint(2, 250, (2, 20), generator=torch.Generator().manual_seed(5))


def matrix(model: PreTrainedModel, name: str) -> Tensor:
    """Return the live weight that a layer's name stands for, (out, in), found by hand."""
    owner, _, last = name.rpartition(".")
    fused = dict(model.named_parameters()).get(owner)  # (expert, out, in)
    if fused is not None:
        return fused.detach()[int(last)]
    module = model.get_submodule(name)
    weight = module.get_parameter("weight").detach()
    return weight.T if isinstance(module, Conv1D) else weight


def plain_masks(folder: Path) -> dict[str, np.ndarray]:
    """Read masks by numpy and the format of safetensors alone, as its description says."""
    content = (folder / "masks.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    head, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    shapes = json.loads(head["__metadata__"]["autoproxy_masks"])["shapes"]
    masks = {}
    for name, (rows, columns) in shapes.items():
        start, end = head[name]["data_offsets"]
        bits = np.unpackbits(np.frombuffer(body[start:end], np.uint8))[: rows * columns]
        masks[name] = bits.reshape(rows, columns).astype(bool)
    assert set(head) == {*masks, "__metadata__"}
    return masks


def files_of(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a folder's weights."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        found |= load_file(path)
    for path in folder.glob("pytorch_model*.bin"):
        found |= torch.load(path)
    return found


# --- families -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_logits_of_the_masked_model(
    family: str, prune: Written, tmp_path: Path
) -> None:
    folder = prune(save(tmp_path / "model", model_of_family(family)))
    again, report = AutoModelForCausalLM.from_pretrained(
        folder, experts_implementation="eager", dtype="auto", output_loading_info=True
    )
    assert not any(report.values())
    masked = model_of_family(family)
    dense = masked(tokens()).logits
    masks = plain_masks(folder)
    for name, mask in masks.items():
        weight = matrix(masked, name)
        importance = weight.abs().numpy()
        dropped = weight.shape[1] // 2
        assert (mask == (importance > np.sort(importance, axis=1)[:, dropped - 1, None])).all()
        weight[torch.from_numpy(~mask)] = 0.0
        written = matrix(again, name)
        assert torch.equal(written != 0, torch.from_numpy(mask))  # exactly the zeros
    assert torch.equal(again(tokens()).logits, masked(tokens()).logits)
    assert not torch.allclose(dense, masked(tokens()).logits)
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    assert list(recipe["layers"]) == list(masks)
    assert recipe["dropped"] == sum(int((~mask).sum()) for mask in masks.values())
    assert recipe["weights"] == sum(mask.size for mask in masks.values())
    assert recipe["parameters"] == sum(p.numel() for p in masked.parameters())


# --- files and types ----------------------------------------------------------------------------


def mixed(name: str, value: Tensor) -> Tensor:
    """Return norms as float32, one matrix as float16, the rest as bfloat16."""
    kind = torch.float32 if "norm" in name or "ln_" in name else torch.bfloat16
    return value.to(torch.float16 if "down_proj" in name or "mlp.c_proj.w" in name else kind)


def source_of(form: str, folder: Path) -> Path:
    """Write a small model in one form of files."""
    model = tiny_model()
    match form:
        case "float32":
            return save(folder, model)
        case "float16" | "bfloat16":
            return save(folder, model.to(getattr(torch, form)))
        case "tied":
            config = config_of("qwen2")
            config.tie_word_embeddings = True
            return save(folder, AutoModelForCausalLM.from_config(config).half())
        case "shards":
            model.half().save_pretrained(folder, max_shard_size="5KB")
            tiny_tokenizer().save_pretrained(folder)
            return folder
    save(folder, gpt2() if form == "headless" else model)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if form == "bin":
        torch.save({n: t.bfloat16() for n, t in tensors.items()}, folder / "pytorch_model.bin")
        return folder
    cut = "transformer." if form == "headless" else ""
    kept = {n.removeprefix(cut): mixed(n, t).contiguous() for n, t in tensors.items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def gpt2() -> PreTrainedModel:
    config = config_of("gpt2")
    assert isinstance(config, GPT2Config)
    return AutoModelForCausalLM.from_config(config)


FORMS = ["float32", "float16", "bfloat16", "mixed", "headless", "shards", "tied", "bin"]


@pytest.mark.parametrize("form", FORMS)
def test_all_but_the_dropped_weights_is_as_in_the_source(
    form: str, prune: Written, tmp_path: Path
) -> None:
    """Every tensor of the source is there, of its type, bit for bit, or zero where dropped."""
    source = source_of(form, tmp_path / "model")
    folder = prune(source)
    before, after = files_of(source), files_of(folder)
    if form == "headless":
        before = {f"transformer.{name}": value for name, value in before.items()}
    assert before.keys() == after.keys()
    masks = plain_masks(folder)
    for name, old in before.items():
        mask = masks.get(name.removesuffix(".weight"))
        new = after[name]
        assert new.dtype == old.dtype, name
        if mask is None:
            assert torch.equal(new, old), name
        else:
            kept = torch.from_numpy(mask.T if form == "headless" else mask)
            assert torch.equal(new, old.masked_fill(~kept, 0.0)), name
    total = sum(value.numel() for name, value in before.items() if name != "lm_head.weight")
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["parameters"] >= total
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"].keys() == after.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in after.values())


def test_large_models_are_written_in_several_files(
    prune: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of("mixed", tmp_path / "model")
    whole = files_of(prune(source, out="whole"))
    monkeypatch.setattr(writing, "SHARD_BYTES", 5_000)
    folder = prune(source, out="parts")
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    assert not (folder / "model.safetensors").exists()
    parts = files_of(folder)
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    one = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    other = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(one(tokens()).logits, other(tokens()).logits)


def test_what_belongs_to_the_tokenizer_goes_along_unchanged(prune: Written, tmp_path: Path) -> None:
    source = source_of("float16", tmp_path / "model")
    for name in ("chat_template.jinja", "LICENSE", "spiece.model"):
        (source / name).write_text(f"this is {name}", encoding="utf-8")
    for name in ("README.md", "optimizer.pt", "pytorch_model.safetensors.tmp"):
        (source / name).write_text("stays behind", encoding="utf-8")
    folder = prune(source)
    for path in source.glob("tokenizer*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    for name in ("chat_template.jinja", "LICENSE", "spiece.model"):
        assert (folder / name).read_text(encoding="utf-8") == f"this is {name}"
    assert not (folder / "README.md").exists()
    assert not (folder / "optimizer.pt").exists()


@pytest.mark.parametrize("has", [True, False])
def test_settings_of_generation_are_those_of_the_source(
    has: bool, prune: Written, tmp_path: Path
) -> None:
    """Even those that the library refuses to save, as LLaMA 2 had; none where there are none."""
    source = source_of("float16", tmp_path / "model")
    path = source / "generation_config.json"
    path.unlink()
    content = '{"do_sample": false, "temperature": 0.9, "top_p": 0.6}'
    if has:
        path.write_text(content, encoding="utf-8")
    folder = prune(source)
    written = folder / "generation_config.json"
    assert written.exists() == has
    assert not has or written.read_text(encoding="utf-8") == content


def test_the_configuration_stays_the_source_s_and_names_no_sparsity(
    prune: Written, tmp_path: Path
) -> None:
    source = source_of("float16", tmp_path / "model")
    edit_json(source / "config.json", sparsity_config={"format": "dense"}, torch_dtype="float16")
    before = json.loads((source / "config.json").read_text(encoding="utf-8"))
    after = json.loads((prune(source) / "config.json").read_text(encoding="utf-8"))
    assert "sparsity_config" not in after
    del before["sparsity_config"]
    assert after == before


def test_all_who_may_read_the_folder_may_read_the_weights(prune: Written, tmp_path: Path) -> None:
    folder = prune(source_of("float16", tmp_path / "model"))
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1


def test_a_pruned_folder_can_be_pruned_again(prune: Written, tmp_path: Path) -> None:
    """Its masks are no weights of it, and zeros that stay say so."""
    once = prune(source_of("float16", tmp_path / "model"), out="once")
    twice = prune(once, "--sparsity", "0.25", out="twice")
    for name, mask in plain_masks(twice).items():
        weight = matrix(AutoModelForCausalLM.from_pretrained(twice, dtype="auto"), name).numpy()
        rows, columns = mask.shape
        assert ((~mask).sum(axis=1) == columns // 4).all()
        assert not weight[~mask].any()
        assert ((weight == 0).sum(axis=1) == columns // 2).all()
        assert (weight[mask] == 0).sum() == rows * columns // 4  # kept zeros
    again = prune(once, "--sparsity", "0.5", out="same")
    assert (again / "masks.safetensors").read_bytes() == (once / "masks.safetensors").read_bytes()
    assert (again / "model.safetensors").read_bytes() == (once / "model.safetensors").read_bytes()


def test_parts_that_the_model_has_no_use_for_are_left_out_and_told(
    prune: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = source_of("float16", tmp_path / "model")
    weights = source / "model.safetensors"
    extra = {**load_file(weights), "model.layers.2.extra_head.weight": torch.ones(2, 2).half()}
    save_file(extra, weights, metadata={"format": "pt"})
    folder = prune(source)
    assert "model.layers.2.extra_head.weight" not in files_of(folder)
    told = " ".join(capsys.readouterr().err.split())
    assert "1 tensors of the files (such as model.layers.2.extra_head.weight)" in told


# --- patterns and groups ------------------------------------------------------------------------


def groups_of(weights: Mapping[str, Tensor], group: str) -> list[list[tuple[str, int, int]]]:
    """Return the places (layer, row, column) that are compared with one another, in order."""
    kind, _, size = group.partition(":")
    sets: dict[object, list[tuple[str, int, int]]] = {}
    for name, weight in weights.items():
        for row in range(weight.shape[0]):
            for column in range(weight.shape[1]):
                home: object = {
                    "row": (name, row),
                    "matrix": name,
                    "layer": name.split(".")[2],
                    "model": 0,
                    "columns": (name, column // int(size or 1)),
                    "block": (name, row, column // int(size or 1)),
                }[kind]
                sets.setdefault(home, []).append((name, row, column))
    return list(sets.values())


@pytest.mark.parametrize(
    ("words", "group", "share"),
    [
        (["--sparsity", "0.3"], "row", "0.3"),
        (["--sparsity", "0.3", "--group", "matrix"], "matrix", "0.3"),
        (["--sparsity", "0.7", "--group", "layer"], "layer", "0.7"),
        (["--sparsity", "0.7", "--group", "model"], "model", "0.7"),
        (["--sparsity", "0.6", "--group", "columns:8"], "columns:8", "0.6"),
        (["--pattern", "2:4"], "block:4", "1/2"),
        (["--pattern", "1:4"], "block:4", "3/4"),
        (["--pattern", "4:8"], "block:8", "1/2"),
        (["--sparsity", "0"], "row", "0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_every_pattern_and_group(
    prune: Written, tmp_path: Path, words: list[str], group: str, share: str
) -> None:
    """Dropped are the smallest of each group, told by sorting a list of every weight."""
    folder = prune(save(tmp_path / "model", tiny_model()), *words)
    masks, dense = plain_masks(folder), tiny_model()
    weights = {name: matrix(dense, name) for name in masks}
    for places in groups_of(weights, group):
        ranked = sorted(places, key=lambda at: abs(float(weights[at[0]][at[1], at[2]])))
        dropped = math.floor(len(places) * Fraction(share))
        kept = [bool(masks[name][row, column]) for name, row, column in ranked]
        assert kept == [False] * dropped + [True] * (len(places) - dropped)
    again = AutoModelForCausalLM.from_pretrained(folder)
    for name, mask in masks.items():
        assert torch.equal(matrix(again, name), weights[name] * torch.from_numpy(mask))


# --- masks --------------------------------------------------------------------------------------


def test_masks_of_any_width_come_back(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    shapes = {f"l.{n}": (n, m) for n, m in ((1, 1), (3, 5), (7, 8), (16, 24), (9, 31))}
    masks = {name: draw.random(shape) < 0.5 for name, shape in shapes.items()}
    path = tmp_path / "masks.safetensors"
    write_masks(path, {name: np.packbits(mask) for name, mask in masks.items()}, shapes)
    for found in (read_masks(path), plain_masks(tmp_path)):
        assert found.keys() == masks.keys()
        assert all((np.asarray(found[name]) == mask).all() for name, mask in masks.items())
    assert all(mask.dtype is torch.bool for mask in read_masks(path).values())


@pytest.mark.parametrize("what", ["another", "cut", "missing"])
def test_a_file_without_masks_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    save_file({"x": torch.ones(2)}, path)
    if what == "cut":
        path.write_bytes(path.read_bytes()[:20])
    if what == "missing":
        path.unlink()
    with pytest.raises(ModelError, match="holds no masks" if what == "another" else "cannot be"):
        read_masks(path)


def test_the_widest_type_holds_every_other(tmp_path: Path) -> None:
    assert find_source(str(source_of("mixed", tmp_path / "mixed"))).dtype == "float32"
    assert find_source(str(source_of("bfloat16", tmp_path / "b"))).dtype == "bfloat16"
    assert find_source(str(source_of("float16", tmp_path / "h"))).dtype == "float16"
