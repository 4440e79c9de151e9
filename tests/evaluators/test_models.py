"""Loading models: what is found in them, their digest, and words for people when they fail."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

from autoproxy.errors import ConfigError, ModelError
from evaluators.layers import decoder_layers, prunable, weights_of
from evaluators.models import LoadedModel, load_model
from tests.evaluators.tiny import edit_json, state, tiny_folder, tiny_model, tiny_tokenizer

KINDS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("saved") / "tiny")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def refusal(source: str | Path, device: str = "cpu", dtype: str = "float32") -> str:
    with pytest.raises(ConfigError) as caught:
        load_model(str(source), device=device, dtype=dtype)
    return str(caught.value)


def test_a_folder_loads_ready_to_be_measured(saved: Path) -> None:
    loaded = load_model(str(saved) + "/", device="cpu", dtype="float32")
    assert (loaded.name, loaded.family, loaded.max_length) == ("tiny", "llama", 64)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("Ab é")) == "Ab é"
    assert state(loaded.model) == state(tiny_model())


@pytest.mark.parametrize(("said", "longest"), [({}, sys.maxsize), ({"seq_length": 2048}, 2048)])
def test_a_model_may_have_no_longest_sequence(said: dict[str, int], longest: int) -> None:
    model = BloomForCausalLM(BloomConfig(vocab_size=9, hidden_size=4, n_layer=1, n_head=1, **said))
    loaded = LoadedModel(model, None, "tiny", "0" * 32, "bloom")
    assert loaded.max_length == longest


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_have_the_type_that_is_asked_for(saved: Path, dtype: str) -> None:
    loaded = load_model(str(saved), device="cpu", dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert loaded.sha256 != load_model(str(saved), device="cpu", dtype="float32").sha256


@pytest.mark.parametrize("gqa", [True, False])
def test_prunable_lists_the_layers_of_each_decoder_layer_in_order(gqa: bool) -> None:
    model = tiny_model(gqa=gqa)
    layers = prunable(model)
    assert list(layers) == [f"model.layers.{i}.{kind}" for i in range(2) for kind in KINDS]
    assert all(layers[name].module is model.get_submodule(name) for name in layers)
    assert tuple(layers["model.layers.0.self_attn.k_proj"].weight.shape) == (8 if gqa else 16, 16)


def test_weights_are_live_and_without_gradients() -> None:
    model = tiny_model().requires_grad_(requires_grad=True)
    weights = weights_of(prunable(model))
    name = "model.layers.1.mlp.up_proj"
    assert not any(weight.requires_grad for weight in weights.values())
    weights[name].zero_()
    assert not model.get_submodule(name).weight.any()


def test_decoder_layers_are_all_of_them() -> None:
    model = tiny_model()
    assert list(decoder_layers(model)) == list(model.model.layers)


# --- the digest ------------------------------------------------------------------------------


def test_the_digest_is_equal_for_a_reload_and_a_copy(saved: Path, folder: Path) -> None:
    digests = {load_model(str(f), device="cpu", dtype="float32").sha256 for f in (saved, folder)}
    assert digests == {load_model(str(saved), device="cpu", dtype="float32").sha256}
    assert len(digests.pop()) == 32


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.down_proj.weight"])
def test_one_bit_changes_the_digest(folder: Path, name: str) -> None:
    before = load_model(str(folder), device="cpu", dtype="float32").sha256
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(torch.int32).view(-1)[-1] ^= 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(folder), device="cpu", dtype="float32").sha256 != before


def test_what_the_configuration_changes_changes_the_digest(folder: Path) -> None:
    # The same weights compute something else: statistics of one would be read for the other.
    before = load_model(str(folder), device="cpu", dtype="float32")
    edit_json(folder / "config.json", rms_norm_eps=0.5)
    after = load_model(str(folder), device="cpu", dtype="float32")
    ids = torch.arange(8).unsqueeze(0)
    assert not torch.equal(before.model(ids).logits, after.model(ids).logits)
    assert before.sha256 != after.sha256


# --- words for people ------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert "there is no folder" in message
    assert "nowhere" in message


def test_a_folder_without_a_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_truncated_weights_are_refused(folder: Path, share: float) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    assert "cannot be loaded" in refusal(folder)


def test_weights_that_lack_a_tensor_are_refused(folder: Path) -> None:
    # The library fills in random numbers and says so in a log.
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.1.mlp.down_proj.weight" in refusal(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "cannot be loaded" in refusal(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "no-such-model"}'])
def test_a_broken_configuration_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content, encoding="utf-8")
    assert "tiny" in refusal(folder)


def test_a_model_without_marked_decoder_layers_is_refused() -> None:
    config = GPT2Config(vocab_size=260, n_embd=8, n_layer=1, n_head=1, n_positions=16)
    model = GPT2LMHeadModel(config)
    model.transformer.h = torch.nn.ModuleList([torch.nn.Identity()])
    with pytest.raises(ModelError, match="'gpt2' has no decoder layers"):
        prunable(model)


def test_an_unknown_type_names_the_nearest(saved: Path) -> None:
    assert "did you mean 'float32'" in refusal(saved, dtype="float23")
    assert "known: bfloat16, float16, float32" in refusal(saved, dtype="int8")


def test_an_unknown_device_says_what_there_is(saved: Path) -> None:
    for device in ("gpu", "meta", "mps"):
        assert "write cpu, cuda or cuda:0" in refusal(saved, device=device)


def test_a_cuda_device_beyond_those_there_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "there are 2 CUDA devices; write cuda:0 to cuda:1" in refusal(saved, device="cuda:9")


def test_a_cuda_device_that_is_not_there_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "use --device cpu" in refusal(saved, device="cuda:0")


# --- what cannot be pruned alone -------------------------------------------------------------


def test_a_layer_that_shares_its_weight_with_the_head_is_refused() -> None:
    model = tiny_model()
    down = model.model.layers[1].mlp.up_proj
    model.lm_head.weight = down.weight
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj shares its weight with lm_head"):
        prunable(model)


def test_two_layers_that_share_one_weight_are_refused() -> None:
    model = tiny_model()
    first, second = (layer.mlp.gate_proj for layer in model.model.layers)
    second.weight = first.weight
    with pytest.raises(ModelError, match="shares its weight with"):
        prunable(model)


def test_an_embedding_that_is_tied_to_the_head_is_no_obstacle() -> None:
    model = tiny_model()
    model.lm_head.weight = model.get_input_embeddings().weight
    assert len(prunable(model)) == 14


def test_a_model_without_linear_layers_is_refused() -> None:
    model = tiny_model()
    for layer in model.model.layers:
        layer.self_attn = layer.mlp = torch.nn.Identity()
    with pytest.raises(ModelError, match="no linear layer"):
        prunable(model)


def test_the_tokenizer_has_a_number_for_every_byte() -> None:
    tokenizer = tiny_tokenizer()
    text = "".join(chr(code) for code in (*range(32, 127), 0xE9, 0x20AC))
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(text.encode())
    assert max(ids) < 256
