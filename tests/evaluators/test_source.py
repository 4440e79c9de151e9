"""The files of a model, read before any weight is: what they hold, and what cannot serve."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from autoproxy.errors import ModelError
from evaluators.layers import prunable
from evaluators.models import load_model
from evaluators.source import find_source, planned_model
from tests.evaluators.families import FAMILIES, model_of_family
from tests.evaluators.tiny import edit_json, save, tiny_folder, tiny_model, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "model")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    tiny_tokenizer().save_pretrained(tmp_path / "shards")
    return tmp_path / "shards"


def refusal(folder: Path | str) -> str:
    """Return why files are refused; loading must refuse them too, so that no command takes them."""
    with pytest.raises(ModelError):
        load_model(str(folder), device="cpu", dtype="float32")
    with pytest.raises(ModelError) as caught:
        find_source(str(folder))
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_planned_is_what_is_loaded(family: str, tmp_path: Path) -> None:
    """Shapes, names and counts come from the configuration alone, and are the model's own."""
    model = model_of_family(family)
    source = find_source(str(save(tmp_path, model)))
    layers = prunable(model)
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
    assert dict(source.shapes) == shapes
    assert list(source.shapes) == list(layers)
    assert source.prunable_weights == sum(layer.weight.numel() for layer in layers.values())
    assert source.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert source.types == {
        name: value.dtype for name, value in load_file(tmp_path / "model.safetensors").items()
    }
    assert source.folder == tmp_path
    assert all(p.is_meta for p in planned_model(str(tmp_path)).parameters())


def test_shared_numbers_count_once(tmp_path: Path) -> None:
    config = tiny_model().config
    config.tie_word_embeddings = True
    tied = AutoModelForCausalLM.from_config(config)
    source = find_source(str(save(tmp_path, tied)))
    assert source.parameters == find_source(str(tiny_folder(tmp_path / "u"))).parameters - 260 * 16


def test_shards_and_bin_files_are_one_model(folder: Path, sharded: Path) -> None:
    whole, parts = find_source(str(folder)), find_source(str(sharded))
    assert len(list(sharded.glob("*.safetensors"))) > 3
    assert (parts.types, parts.shapes) == (whole.types, whole.shapes)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert find_source(str(folder)).types == whole.types


def test_a_starter_is_a_source() -> None:
    assert find_source("starter").dtype == "float16"
    assert find_source("starter-gpt2").folder.name == "starter-gpt2"


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (lost, *_) = sorted(sharded.glob("*.safetensors"))
    count = len(list(sharded.glob("*.safetensors")))
    lost.unlink()
    told = refusal(sharded)
    assert f"lacks 1 of its {count} files of weights, such as {lost.name}" in told


@pytest.mark.parametrize("size", [4, 900, -1])
def test_a_truncated_file_is_named(sharded: Path, size: int) -> None:
    path = sorted(sharded.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:size])
    told = refusal(sharded)
    assert f"{path.name} is damaged" in told
    assert "complete Hugging Face model" in told


def test_a_damaged_index_is_told(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text('{"metadata": {}}', encoding="utf-8")
    assert "cannot be loaded" in refusal(sharded)


def test_a_truncated_bin_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04nothing")
    assert "pytorch_model.bin is damaged" in refusal(folder)


def test_weights_under_another_name_are_told(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    told = refusal(folder)
    assert "has none of model.safetensors, pytorch_model.bin" in told


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8"])
def test_a_quantised_model_is_refused_wherever_it_is_asked_for(folder: Path, method: str) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})
    told = refusal(folder)
    assert "is quantised" in told
    assert "the model that it was made of" in told
    with pytest.raises(ModelError, match="is quantised"):
        planned_model(str(folder))


def test_a_type_that_cannot_be_written_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].double()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"holds lm_head.weight as float64.*float32, bfloat16"):
        find_source(str(folder))


def test_whole_numbers_beside_the_weights_do_no_harm(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = {**load_file(path), "position_ids": torch.arange(4)}
    save_file(tensors, path, metadata={"format": "pt"})
    assert "position_ids" not in find_source(str(folder)).types


def test_a_model_of_no_supported_family_is_refused(folder: Path) -> None:
    content = {"model_type": "cpmant", "hidden_size": 16, "num_hidden_layers": 1}
    content |= {"num_attention_heads": 2, "dim_head": 8, "dim_ff": 16, "vocab_size": 260}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match=r"'cpmant' has no decoder layers.*LLaMA, Qwen"):
        find_source(str(folder))


def test_a_configuration_that_makes_no_model_is_told(folder: Path) -> None:
    before = (folder / "config.json").read_text(encoding="utf-8")
    edit_json(folder / "config.json", hidden_size=-1)
    assert "cannot be found or read" in refusal(folder)
    (folder / "config.json").write_text(before, encoding="utf-8")
    edit_json(folder / "config.json", hidden_act="jump")
    with pytest.raises(ModelError, match=r"cannot be loaded: its configuration makes no.*jump"):
        find_source(str(folder))


def test_no_weights_are_read(folder: Path) -> None:
    """A file of a head alone, whose numbers were never written, will do."""
    path = folder / "model.safetensors"
    size = path.stat().st_size
    head = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    before = find_source(str(folder))
    content = path.read_bytes()[:head]
    path.write_bytes(content)
    with path.open("r+b") as file:
        file.truncate(size)  # a hole
    assert find_source(str(folder)) == before
    assert isinstance(planned_model(str(folder)), nn.Module)
    shutil.rmtree(folder)
