import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from autoproxy.errors import ConfigError
from evaluators.benchmarks import llama_subnets
from evaluators.benchmarks.llama_subnets import (
    Measured,
    Subnet,
    build_table,
    copy_weights,
    draws,
    mean_loss,
    whole_shape,
)
from evaluators.benchmarks.table import open_benchmark
from evaluators.models import load_model
from evaluators.networks.decoder import Decoder
from evaluators.text import blocks, read_text
from tests.evaluators.tables import changed, write
from tests.evaluators.tiny import VOCABULARY_SIZE, save, tiny_folder, write_texts


def _llama(**changes: Any) -> LlamaForCausalLM:
    fields = {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 24,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**fields, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


VARIETIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "other norm": {"rms_norm_eps": 1e-3},
    "other base": {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}},
    "scaled positions": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("variety", VARIETIES)
def test_the_whole_network_computes_what_transformers_does(variety: str, tmp_path: Path) -> None:
    model = _llama(**VARIETIES[variety])
    loaded = load_model(str(save(tmp_path / "m", model)), device="cpu", dtype="float32")
    shape = whole_shape(loaded)
    network = Decoder(shape).eval()
    copy_weights(loaded, network, range(4))
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        expected = model(ids).logits
        assert torch.allclose(network(ids), expected, atol=2e-5 * float(expected.abs().max()))


def _kept(model: nn.Module, subnet: Subnet) -> nn.Module:
    """Zero, in the trained model itself, what a sub-network lacks, and pass its layers by."""
    shape = subnet.shape
    stack: Any = model.model.layers
    model.model.layers = nn.ModuleList(stack[number] for number in subnet.layers)
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = number
        layer.self_attn.o_proj.weight[:, shape.heads[number] * 8 :] = 0
        layer.mlp.down_proj.weight[:, shape.ff_widths[number] :] = 0
    model.config.num_hidden_layers = len(subnet.layers)
    return model


@torch.no_grad()
def test_a_sub_network_computes_what_the_model_does_with_zeros(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", _llama())
    loaded = load_model(str(folder), device="cpu", dtype="float32")
    ids = torch.arange(40).view(2, 20)
    for subnet in islice(draws(whole_shape(loaded), seed=5), 8):
        network = Decoder(subnet.shape).eval()
        copy_weights(loaded, network, subnet.layers)
        expected = _kept(_llama(), subnet)(ids, use_cache=False).logits
        assert torch.allclose(network(ids), expected, atol=2e-5 * float(expected.abs().max()))


def test_draws_differ_keep_half_and_repeat(tmp_path: Path) -> None:
    loaded = load_model(str(save(tmp_path / "m", _llama())), device="cpu", dtype="float32")
    whole = whole_shape(loaded)
    drawn = list(islice(draws(whole, seed=0), 60))
    assert len(set(drawn)) == 60
    assert drawn[:20] == list(islice(draws(whole, seed=0), 20))
    assert drawn[:20] != list(islice(draws(whole, seed=1), 20))
    for subnet in drawn:
        shape = subnet.shape
        assert list(subnet.layers) == sorted(set(subnet.layers))
        assert 3 <= shape.depth == len(subnet.layers) <= 4
        assert all(
            2 * groups == heads for groups, heads in zip(shape.kv_heads, shape.heads, strict=True)
        )
        assert set(shape.kv_heads) <= {2, 3}
        assert set(shape.ff_widths) <= {12, 15, 18, 21, 24}
    assert {len(subnet.layers) for subnet in drawn} == {3, 4}


@pytest.fixture
def what(tmp_path: Path) -> Measured:
    """A tiny LLaMA and a short text."""
    text = write_texts(tmp_path / "texts")["validation"]
    model = str(tiny_folder(tmp_path / "tiny"))
    return Measured(model=model, texts=(text,), length=16, blocks=3)


def test_a_table_is_built_opened_and_its_networks_have_the_measured_loss(
    what: Measured, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    folder = build_table(what, tmp_path / "out", 12, lambda *numbers: told.append(numbers))
    assert told == [(n, 12) for n in range(1, 13)]
    assert not list(folder.glob("*.partial"))
    benchmark = open_benchmark("llama-subnets", folder)
    assert (benchmark.vocabulary, benchmark.length) == (VOCABULARY_SIZE, 64)
    assert benchmark.text == what.model
    loaded = load_model(what.model, device="cpu", dtype="float32")
    assert [a.config for a in benchmark.architectures] == list(
        islice(draws(whole_shape(loaded), what.seed), 12)
    )
    ids = blocks(read_text(what.texts), loaded.tokenizer, length=16, count=3, role="validation")
    for architecture in benchmark.architectures:
        network = benchmark.build(architecture, seed=4)
        with torch.no_grad():
            losses = [
                functional.cross_entropy(network(block[None])[0, :-1], block[1:]) for block in ids
            ]
        expected = -float(torch.stack(losses).mean())
        assert architecture.quality == pytest.approx(expected, rel=1e-5)
        assert benchmark.strata(architecture) == f"{len(architecture.config.layers)}x16"
        found = benchmark.model_terminals(architecture)
        assert found["params"] == sum(p.numel() for p in network.parameters())
        attention = [layer.attention for layer in network.layers]
        assert found["params_attention"] == sum(
            p.numel() for part in attention for p in part.parameters()
        )


def test_a_killed_run_goes_on_and_gives_the_same_table(
    what: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_table(what, tmp_path / "whole", 11)
    measured = 0

    def killed(network: nn.Module, ids: torch.Tensor) -> float:
        nonlocal measured
        if measured == 4:
            raise KeyboardInterrupt
        measured += 1
        return mean_loss(network, ids)

    with monkeypatch.context() as patch:
        patch.setattr(llama_subnets, "mean_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            build_table(what, tmp_path / "parts", 11)
    before = (tmp_path / "parts" / "table.csv").read_bytes()
    assert before.count(b"\n") == 5
    told: list[int] = []
    parts = build_table(what, tmp_path / "parts", 11, lambda n, _: told.append(n))
    assert told == list(range(5, 12))
    assert (parts / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()
    build_table(what, parts, 3, lambda *_: pytest.fail("there is nothing left to measure"))
    assert (parts / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()
    one, two = (open_benchmark("llama-subnets", folder) for folder in (whole, parts))
    assert one.digest == two.digest


def test_a_folder_of_something_else_is_refused(what: Measured, tmp_path: Path) -> None:
    folder = build_table(what, tmp_path / "out", 2)
    with pytest.raises(ConfigError, match="holds a table with length 16, not 17"):
        build_table(replace(what, length=17), folder, 3)
    with pytest.raises(ConfigError, match="holds a table with seed 0, not 1"):
        build_table(replace(what, seed=1), folder, 3)
    with pytest.raises(ConfigError, match="2 architectures; an order needs at least 10"):
        open_benchmark("llama-subnets", folder)
    with pytest.raises(ConfigError, match="count must be at least 1"):
        build_table(what, folder, 0)
    with pytest.raises(ConfigError, match=r"benchmark\.json cannot be read"):
        open_benchmark("llama-subnets", tmp_path)


def test_a_model_that_changed_is_refused(what: Measured, tmp_path: Path) -> None:
    folder = build_table(what, tmp_path / "out", 10)
    benchmark = open_benchmark("llama-subnets", folder / "table.csv")
    tiny_folder(Path(what.model), seed=1)
    with pytest.raises(ConfigError, match="is not the one whose sub-networks were measured"):
        benchmark.build(benchmark.architectures[0], seed=0)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"layers": "1 0"}, "column layers: '1 0'.*rising numbers from 0 to 1"),
        ({"layers": "0 7"}, "column layers: '0 7'"),
        ({"layers": ""}, "column layers"),
        ({"kv_heads": "1 3"}, "column kv_heads: '1 3'.*up to 2"),
        ({"ff_widths": "24 25"}, "column ff_widths: '24 25'.*up to 24"),
        ({"ff_widths": "24"}, "column ff_widths.*a list of 2"),
        ({"loss": "nan"}, "column loss"),
    ],
)
def test_the_table_is_read_strictly(
    cells: dict[str, str], said: str, what: Measured, tmp_path: Path
) -> None:
    rows = [
        {
            "id": f"s{n}",
            "layers": "0 1",
            "kv_heads": "1 2",
            "ff_widths": f"24 {n + 1}",
            "loss": f"{n}",
        }
        for n in range(10)
    ]
    folder = build_table(what, tmp_path / "out", 1)
    write(folder / "table.csv", changed(rows, 4, **cells))
    with pytest.raises(ConfigError, match=f"row 6, {said}"):
        open_benchmark("llama-subnets", folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "gelu"}, "its activation is 'gelu'"),
        ({"attention_bias": True}, "only some of its linear layers have biases"),
    ],
)
def test_other_varieties_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    loaded = load_model(str(save(tmp_path / "m", _llama(**changes))), device="cpu", dtype="float32")
    with pytest.raises(ConfigError, match=said):
        whole_shape(loaded)


def test_another_family_is_refused() -> None:
    loaded = load_model("starter-gpt2", device="cpu", dtype="float32")
    with pytest.raises(ConfigError, match=r"its family is 'gpt2'.*give a LLaMA"):
        whole_shape(loaded)


def test_a_model_without_enough_sub_networks_says_so(tmp_path: Path) -> None:
    model = _llama(num_hidden_layers=1, intermediate_size=2, num_key_value_heads=1)
    loaded = load_model(str(save(tmp_path / "m", model)), device="cpu", dtype="float32")
    with pytest.raises(ConfigError, match="hardly more than 2 different"):
        list(draws(whole_shape(loaded), seed=0))


def test_facts_are_plain_json(what: Measured, tmp_path: Path) -> None:
    folder = build_table(what, tmp_path / "out", 1)
    facts = json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))
    assert facts["version"] == llama_subnets.VERSION
    assert facts["texts"] == list(what.texts)
    assert len(facts["sha256"]) == 32
