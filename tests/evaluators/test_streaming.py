"""Pruning with one decoder layer in memory: the files of the ordinary way, in little memory."""

import gc
import json
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from autoproxy.cli import main
from autoproxy.errors import ConfigError
from evaluators import room, streaming, writing
from evaluators.layers import decoder_layers
from evaluators.models import load_model
from evaluators.pruning import PruningEvaluator
from evaluators.statistics import FLOWING, WALKED, collect
from evaluators.streaming import Shelf, load_streamed, losses_on
from tests.evaluators.families import config_of, model_of_family
from tests.evaluators.tiny import edit_json, save, tiny_model, tiny_tokenizer, write_texts
from tests.saying import Run, refused

Files = dict[str, bytes]
Pruned = Callable[..., tuple[Files, dict[str, Any]]]


@pytest.fixture
def prune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Pruned:
    """Return the command, which returns the files written, and apart from them the recipe."""
    texts = write_texts(tmp_path / "texts")

    def call(source: Path, *words: object) -> tuple[Files, dict[str, Any]]:
        out = unused(tmp_path)
        given = ["prune", source, "--calibration", texts["calibration"], "--length", "16"]
        given += ["--calibration-blocks", "3", "--results", tmp_path / "results", "--out", out]
        if "--check" in words:
            given += ["--text", texts["text"], "--text-blocks", "2"]
        code = main([*map(str, given), *map(str, words)])
        assert code == 0, capsys.readouterr().err
        files = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
        assert len(files) == len(list(out.iterdir()))  # no folder is left in it
        return files, json.loads(files.pop("recipe.json"))

    return call


def both(prune: Pruned, source: Path, *words: object) -> dict[str, Any]:
    """Prune in both ways, see that they agree in every byte, and return the recipe."""
    files, recipe = prune(source, *words)
    streamed, said = prune(source, *words, "--stream")
    assert streamed.keys() == files.keys()
    assert all(streamed[name] == content for name, content in files.items())
    assert " --stream" in said.pop("command")
    del recipe["command"]
    assert said == recipe
    return said


# --- the same files -----------------------------------------------------------------------------

ALL = "abs(W) * h_inv * g_region * y_norm + x_norm + block_angle + block_index"
"""Statistics of inputs, outputs, second moments, regional gradients and whole decoder layers."""


FIVE = ["llama", "gpt2", "opt", "mixtral", "gemma2"]
STORED_OTHERWISE = ["gemma3", "phi3", "gpt-neox", "qwen2-moe"]


@pytest.mark.parametrize("family", [*FIVE, *STORED_OTHERWISE])
def test_families_give_the_files_of_the_ordinary_way(
    family: str, prune: Pruned, tmp_path: Path
) -> None:
    source = save(tmp_path / "model", model_of_family(family))
    assert both(prune, source, "--metric", ALL)["dropped"] > 0


@pytest.mark.parametrize("family", FIVE)
def test_families_do_sequentially_in_bfloat16(family: str, prune: Pruned, tmp_path: Path) -> None:
    source = save(tmp_path / "model", model_of_family(family).bfloat16())
    words = ["--mode", "sequential", "--dtype", "bfloat16", "--metric", ALL]
    both(prune, source, *words, *(["--check"] if family in {"gpt2", "mixtral"} else []))


def test_perplexities_are_those_of_the_dense_and_of_the_written(
    prune: Pruned, tmp_path: Path
) -> None:
    source = save(tmp_path / "model", model_of_family("gemma2"))
    check = both(prune, source, "--metric", "abs(W)", "--check")["check"]
    assert check["dense_perplexity"] != check["pruned_perplexity"]


@pytest.mark.parametrize(
    "words",
    [
        ["--sparsity", "0.3", "--group", "matrix"],
        ["--sparsity", "0.7", "--group", "layer"],
        ["--sparsity", "0.6", "--group", "columns:8", "--mode", "sequential"],
        ["--pattern", "2:4"],
        ["--allocation", "owl"],
        ["--allocation", "alpha", "--mode", "sequential"],
        ["--dtype", "bfloat16", "--seed", "2"],
    ],
    ids="-".join,
)
def test_every_group_pattern_and_allocation_does(
    words: list[str], prune: Pruned, tmp_path: Path
) -> None:
    source = save(tmp_path / "model", model_of_family("llama"))
    both(prune, source, "--metric", "abs(W) * x_norm + noise", *words)


def test_an_allocation_of_a_file_does(prune: Pruned, tmp_path: Path) -> None:
    source = save(tmp_path / "model", model_of_family("llama"))
    path = tmp_path / "shares.json"
    path.write_text('{"sparsity": "1/2", "sparsities": [0.25, 0.75]}', encoding="utf-8")
    recipe = both(prune, source, "--metric", "abs(W)", "--allocation", path)
    shares = {name.split(".")[2]: layer["sparsity"] for name, layer in recipe["layers"].items()}
    assert shares == {"0": 0.25, "1": 0.75}


def half(name: str) -> bool:
    return "norm" not in name


def source_of(form: str, folder: Path) -> Path:
    """Write a small model in one form of files."""
    if form == "tied":
        config = config_of("qwen2")
        config.tie_word_embeddings = True
        return save(folder, AutoModelForCausalLM.from_config(config).half())
    if form == "shards":  # so small that every matrix of a decoder layer is in a file of its own
        model_of_family("mixtral").save_pretrained(folder, max_shard_size="5KB")
        tiny_tokenizer().save_pretrained(folder)
        assert len(list(folder.glob("model-*"))) > 10
        return folder
    save(folder, model_of_family("gpt2") if form == "headless" else tiny_model())
    path = folder / "model.safetensors"
    held: dict[str, Tensor] = load_file(path)
    if form == "headless":  # as GPT-2 is on the hub
        held = {name.removeprefix("transformer."): value for name, value in held.items()}
    if form == "mixed":
        held = {n: value.half() if half(n) else value for n, value in held.items()}
    if form == "unread":
        held["model.layers.2.extra_head.weight"] = torch.ones(2, 2)
    save_file(held, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("form", ["tied", "shards", "headless", "mixed", "unread"])
def test_every_form_of_files_does(form: str, prune: Pruned, tmp_path: Path) -> None:
    source = source_of(form, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    both(prune, source, "--metric", "abs(W) * x_norm", "--mode", "sequential")
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_what_files_hold_in_vain_is_known(tmp_path: Path) -> None:
    """Of a decoder layer that there is none of, and of one that there is."""
    source = save(tmp_path / "model", tiny_model())
    path = source / "model.safetensors"
    extra = {f"model.layers.{number}.extra.weight": torch.ones(2) for number in (1, 2)}
    save_file({**load_file(path), **extra}, path, metadata={"format": "pt"})
    streamed = load_streamed(str(source), device="cpu", dtype="float32", hashed=False)
    whole = load_model(str(source), device="cpu", dtype="float32")
    assert streamed.unread == whole.unread == tuple(extra)


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
def test_files_of_several_shards_are_cut_alike(
    family: str, prune: Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (writing, streaming):
        monkeypatch.setattr(module, "SHARD_BYTES", 20_000)
    source = save(tmp_path / "model", model_of_family(family))
    both(prune, source, "--metric", "abs(W)")
    assert len(list(tmp_path.glob("out-*/model-*.safetensors"))) > 6  # three of each way


# --- one decoder layer at a time ----------------------------------------------------------------


def there(model: PreTrainedModel) -> list[int]:
    """Return which decoder layers have any parameter in memory."""
    layers = enumerate(decoder_layers(model))
    return [number for number, layer in layers if not all(p.is_meta for p in layer.parameters())]


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_decoder_layer_is_there_for_its_block_and_as_it_was(family: str, tmp_path: Path) -> None:
    source = str(save(tmp_path / "model", model_of_family(family)))
    shelf = Shelf(source, device="cpu", dtype="float32")
    whole = load_model(source, device="cpu", dtype="float32").model
    assert there(shelf.model) == []
    for number in (1, 0, 1):  # what was written to it before is lost
        with shelf.resident(number) as layers:
            assert there(shelf.model) == [number]
            part, other = decoder_layers(shelf.model)[number], decoder_layers(whole)[number]
            same_tensors(part, other)
            assert layers
            for layer in layers.values():
                assert not layer.parameter.requires_grad
                layer.weight.zero_()
    assert there(shelf.model) == []


def same_tensors(one: nn.Module, other: nn.Module) -> None:
    for (name, value), expected in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(value, expected), name


def test_a_layer_is_let_go_when_the_block_fails(tmp_path: Path) -> None:
    source = save(tmp_path / "model", tiny_model())
    shelf = Shelf(str(source), device="cpu", dtype="float32")
    with pytest.raises(ZeroDivisionError), shelf.resident(0):
        raise ZeroDivisionError
    assert there(shelf.model) == []


@pytest.mark.parametrize("mode", ["oneshot", "sequential"])
def test_no_two_decoder_layers_are_there_while_masks_are_made(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody holds the weights of the one before when the next is read."""
    source = save(tmp_path / "model", model_of_family("llama"))
    seen: list[list[int]] = []
    read = Shelf._read

    before: list[weakref.ref[nn.Parameter]] = []

    def watch(shelf: Shelf, number: int) -> None:
        assert not any(parameter() is not None for parameter in before)
        read(shelf, number)
        seen.append(there(shelf.model))
        before[:] = map(weakref.ref, decoder_layers(shelf.model)[number].parameters())

    monkeypatch.setattr(Shelf, "_read", watch)
    texts = write_texts(tmp_path / "texts")
    out = tmp_path / "out"
    words = ["prune", source, "--metric", "abs(W) * g_region", "--mode", mode, "--stream"]
    words += ["--calibration", texts["calibration"], "--length", "16", "--out", out]
    assert main([*map(str, words), "--results", str(tmp_path / "r")]) == 0
    assert seen == [[0], [1]] * 3  # hash, masks, writing


def test_the_hash_is_that_of_the_whole_model(tmp_path: Path) -> None:
    """Also of eleven decoder layers, whose order by name is not that by number."""
    config = config_of("llama")
    config.num_hidden_layers = 11
    source = str(save(tmp_path / "model", AutoModelForCausalLM.from_config(config)))
    for dtype in ("float32", "bfloat16"):
        streamed = load_streamed(source, device="cpu", dtype=dtype)
        assert streamed.sha256 == load_model(source, device="cpu", dtype=dtype).sha256


def test_losses_are_those_of_the_whole_model(tmp_path: Path) -> None:
    source = str(save(tmp_path / "model", model_of_family("gemma2")))
    blocks = torch.randint(0, 250, (3, 20), generator=torch.Generator().manual_seed(1))
    streamed = load_streamed(source, device="cpu", dtype="float32", hashed=False)
    whole = load_model(source, device="cpu", dtype="float32")
    assert losses_on(streamed, blocks) == losses_on(whole, blocks)


def test_every_statistic_that_it_has_is_that_of_the_whole_model(tmp_path: Path) -> None:
    """Those that no formula of the tests above reads included."""
    source = str(save(tmp_path / "model", model_of_family("mixtral")))
    blocks = torch.randint(0, 250, (3, 20), generator=torch.Generator().manual_seed(1))
    names = FLOWING | WALKED
    whole = collect(load_model(source, device="cpu", dtype="float32"), blocks, names)
    held = streaming.StreamedCalibrated(
        load_streamed(source, device="cpu", dtype="float32", hashed=False),
        lambda seed: blocks,
        cache=tmp_path,
        limit=None,
        notice=lambda text: None,
    )
    found = {}
    for inside, statistics in held.layer_by_layer(0, names):
        found |= {name: statistics[name] for name in inside}
    assert found.keys() == whole.keys()
    for layer, values in whole.items():
        assert found[layer].keys() == values.keys() == names
        assert all(torch.equal(found[layer][name], value) for name, value in values.items())


class Peak:
    """The most anonymous memory of this process while a block ran, above what it had before."""

    def __enter__(self) -> Self:
        self._before = self.most = self._now()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.most -= self._before

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.most = max(self.most, self._now())

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read memory from")
def test_memory_does_not_grow_with_the_model(run: Run, tmp_path: Path) -> None:
    """But by the masks: sixteen decoder layers more are 113 MB of float32, and 3.5 of masks."""
    small, large = (llama_of(tmp_path / str(layers), layers) for layers in (2, 18))
    given = ["--metric", "abs(W) * x_norm", "--length", 16, "--calibration-blocks", 2]
    given += ["--results", tmp_path / "results"]

    def peak(source: Path, *words: str) -> int:
        gc.collect()
        streaming._give_back_memory()  # what the time before left would hide what this one needs
        with Peak() as found:
            said = run("prune", source, *given, *words, "--out", unused(tmp_path))
        assert said.code == 0, said.err
        return found.most

    def needed(source: Path, *words: str) -> int:
        # The least of three: what else this process does meanwhile (the system gives huge pages to
        # what tests before left of the heap, threads of theirs end) can add to a peak alone.
        return min(peak(source, *words) for _ in range(3))

    peak(small, "--stream")  # what is loaded and compiled once
    least, streamed = needed(small, "--stream"), needed(large, "--stream")
    ordinary = needed(large)
    more = 16 * 4 * (4 * 384**2 + 3 * 384 * 1024)
    assert streamed - least < 0.2 * more
    assert ordinary - least > 0.75 * more


def unused(folder: Path) -> Path:
    """Return a folder inside it that there is none of yet."""
    return folder / f"out-{len(list(folder.iterdir()))}"


def llama_of(folder: Path, layers: int) -> Path:
    """Write a LLaMA in bfloat16 whose decoder layers have 1.8 million weights each."""
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=6,
        max_position_embeddings=64,
    )
    return save(folder, AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("words", "helps"),
    [
        (["--metric", "abs(W)"], True),
        (["--metric", "abs(W) * g"], False),
        (["--metric", "abs(W)", "--group", "model"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_is_advised_where_it_would_do(
    words: list[str], helps: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "free_memory", lambda: 1000)
    said = run("prune", "starter", *words, "--out", tmp_path / "out", "--results", tmp_path / "r")
    refused(said, "of memory at least")
    assert ("--stream" in said.err) == helps


# --- what it refuses ----------------------------------------------------------------------------


@pytest.fixture
def refusal(run: Run, tmp_path: Path) -> "Refusal":
    """Return the command that is refused in one message, and leaves nothing."""

    def call(source: object, *words: str) -> str:
        out = tmp_path / "out"
        said = run("prune", source, "--stream", *words, "--out", out, "--results", tmp_path / "r")
        refused(said)
        assert not out.exists()
        return " ".join(said.err.split())

    return call


Refusal = Callable[..., str]


def test_methods_with_an_algorithm_are_refused(refusal: Refusal) -> None:
    said = refusal("starter", "--baseline", "sparsegpt")
    assert "sparsegpt is a method of its own" in said
    assert "without --stream" in said


@pytest.mark.parametrize("metric", ["abs(W) * g", "abs(W) * g_norm", "abs(W) * sqrt(g_abs)"])
def test_gradients_of_the_whole_model_are_refusal(metric: str, refusal: Refusal) -> None:
    said = refusal("starter", "--metric", metric)
    assert "gradients through the whole model" in said
    assert "g_region" in said
    assert "without --stream" in said


@pytest.mark.parametrize(
    "words", [["--group", "model"], ["--allocation", "metric"]], ids=lambda words: words[1]
)
def test_what_compares_the_whole_model_is_refusal(words: list[str], refusal: Refusal) -> None:
    said = refusal("starter", "--metric", "abs(W)", *words)
    assert "compared over the whole model" in said
    assert "prune without --stream" in said


def test_units_are_not_dropped_so(refusal: Refusal) -> None:
    words = ["--evaluator", "shrinking", "--unit", "heads", "--metric", "col_sum(abs(W))"]
    assert "leave --stream away" in refusal("starter", *words)


def test_a_search_does_not_stream(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`autoproxy prune` alone"):
        PruningEvaluator.from_options({"stream": True}, cache=tmp_path, notice=lambda text: None)


def test_other_checkpoints_are_refusal(refusal: Refusal, tmp_path: Path) -> None:
    source = save(tmp_path / "model", tiny_model())
    path = source / "model.safetensors"
    torch.save(load_file(path), source / "pytorch_model.bin")
    path.unlink()
    said = refusal(source, "--metric", "abs(W)")
    assert "pytorch_model.bin" in said
    assert "safetensors first" in said


def test_names_on_a_hub_are_refusal(
    refusal: Refusal,
) -> None:
    said = refusal("nobody/nothing", "--metric", "abs(W)")
    assert "hf download nobody/nothing" in said


def test_files_that_lack_weights_are_refusal(refusal: Refusal, tmp_path: Path) -> None:
    """Those of the last decoder layer, which is read last."""
    source = save(tmp_path / "model", tiny_model())
    path = source / "model.safetensors"
    held = load_file(path)
    del held["model.layers.1.mlp.up_proj.weight"]
    save_file(held, path, metadata={"format": "pt"})
    said = refusal(source, "--metric", "abs(W)")
    assert "lacks weights: model.layers.1.mlp.up_proj.weight" in said


def test_another_shape_than_the_configuration_s_is_refusal(
    refusal: Refusal, tmp_path: Path
) -> None:
    source = save(tmp_path / "model", tiny_model())
    path = source / "model.safetensors"
    held = load_file(path)
    held["model.layers.1.mlp.up_proj.weight"] = torch.ones(3, 16)
    save_file(held, path, metadata={"format": "pt"})
    said = refusal(source, "--metric", "abs(W)")
    assert "does not fit its config.json: model.layers.1.mlp.up_proj.weight is (3, 16)" in said


def test_quantised_models_are_refusal(refusal: Refusal, tmp_path: Path) -> None:
    source = save(tmp_path / "model", tiny_model())
    edit_json(source / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "is quantised" in refusal(source, "--metric", "abs(W)")


def test_a_metric_that_fails_is_told(refusal: Refusal, tmp_path: Path) -> None:
    source = save(tmp_path / "model", tiny_model(seed=1))
    path = source / "model.safetensors"
    held = load_file(path)
    held["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(held, path, metadata={"format": "pt"})
    said = refusal(source, "--metric", "abs(W)")
    assert "not finite on model.layers.0.mlp.up_proj" in said


def test_parts_of_transformers_that_are_otherwise_are_told(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_another_version(model: object, tensors: object) -> None:
        raise AssertionError

    name = "convert_and_load_state_dict_in_model"
    monkeypatch.setattr(streaming.core_model_loading, name, of_another_version)
    said = refusal("starter", "--metric", "abs(W)")
    assert "written for 5.23" in said
    assert "prune without --stream" in said
