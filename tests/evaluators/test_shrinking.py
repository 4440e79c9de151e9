"""The shrinking evaluator: which units go, what that costs, and what is written."""

import json
import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from autoproxy.cli import main
from autoproxy.errors import ConfigError, ModelError
from autoproxy.evaluation import Failed, Measured
from autoproxy.language.blindness import Blindness
from autoproxy.language.parse import parse
from evaluators import shrinking as module
from evaluators.layers import prunable
from evaluators.models import load_model
from evaluators.shrinking import UNITS_FILE, ShrinkingEvaluator
from evaluators.statistics import collect
from evaluators.text import blocks, read_text
from evaluators.writing import read_masks
from tests.evaluators.families import model_of_family
from tests.evaluators.tiny import VOCABULARY_SIZE, hook_count, save, state, tiny_model, tiny_options
from tests.runs import flags, write_run_file

Array = NDArray[np.float64]
Make = Callable[..., ShrinkingEvaluator]
EVALUATOR = "evaluators.shrinking:ShrinkingEvaluator"
SPACES = {u: f"search_spaces.structured:{u.upper()}" for u in ("channels", "heads", "blocks")}
TAYLOR = "col_sum(abs(mul(W, g)))"
FORMULAS = {
    "channels": {
        "wanda-sp": ("col_sum(mul(abs(W), x_norm))", lambda d: (abs(d["W"]) * d["x_norm"]).sum(0)),
        "taylor": (TAYLOR, lambda d: abs(d["W"] * d["g"]).sum(0)),
        "variance": ("x_var", lambda d: d["x_var"][0]),
    },
    "heads": {
        "wanda-sp": ("col_sum(mul(abs(W), x_norm))", lambda d: (abs(d["W"]) * d["x_norm"]).sum(0)),
        "wifv": (
            "square(mul(x_var, col_sum(square(W))))",
            lambda d: (d["x_var"][0] * (d["W"] ** 2).sum(0)) ** 2,
        ),
        "taylor": (TAYLOR, lambda d: abs(d["W"] * d["g"]).sum(0)),
    },
    "blocks": {
        "magnitude": ("all_mean(abs(W))", lambda d: abs(d["W"]).mean()),
        "taylor": ("all_sum(abs(mul(W, g)))", lambda d: abs(d["W"] * d["g"]).sum()),
        "angle": ("block_angle", lambda d: d["block_angle"][0, 0]),
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mistral of four layers, of twelve query heads in six groups, and its texts."""
    folder = tmp_path_factory.mktemp("shrinking")
    tiny_options(folder)  # writes the texts
    save(folder / "deep", deep_model())
    return folder


def deep_model() -> PreTrainedModel:
    config = MistralConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=12,
        num_key_value_heads=6,
        head_dim=4,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = MistralForCausalLM(config)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.3 * torch.randn(parameter.shape, generator=draw)
            parameter.copy_(1 + noise if "norm" in name else noise)
    return model.eval()


@pytest.fixture(scope="module")
def make(folder: Path) -> Make:
    made: dict[str, ShrinkingEvaluator] = {}

    def evaluator(**changes: Any) -> ShrinkingEvaluator:
        word = json.dumps(changes, sort_keys=True)
        if word not in made:
            options = tiny_options(folder, model=str(folder / "deep"), **changes)
            cache = folder / "cache"
            made[word] = ShrinkingEvaluator.from_options(options, cache=cache, notice=refuse)
        return made[word]

    return evaluator


def refuse(notice: str) -> None:
    raise AssertionError(notice)


def unit_ratings(evaluator: ShrinkingEvaluator, folder: Path, unit: str, name: str) -> list[Array]:
    """Return the ratings of units that are compared, from statistics alone, in plain loops."""
    _, formula = FORMULAS[unit][name]
    loaded = evaluator.loaded
    text = read_text([str(folder / "texts" / "calibration.txt")])
    calibration = blocks(text, loaded.tokenizer, length=32, count=4, role="calibration", seed=0)
    wanted = ["x_norm", "x_var", "g", "block_angle"]
    found = collect(loaded, calibration, wanted)
    data = {
        layer: {
            "W": prunable(loaded.model)[layer].weight.double().numpy(),
            **{word: value.double().numpy() for word, value in values.items()},
        }
        for layer, values in found.items()
    }
    if unit == "blocks":
        means = []
        for number in range(4):
            inside = [formula(d) for n, d in data.items() if f"layers.{number}." in n]
            assert len(inside) == 7
            means.append(sum(inside) / 7)
        return [np.array(means)]
    ratings = []
    for number in range(4):
        if unit == "channels":
            ratings.append(formula(data[f"model.layers.{number}.mlp.down_proj"]))
            continue
        columns = formula(data[f"model.layers.{number}.self_attn.o_proj"])
        groups = [0.0] * 6
        for column, value in enumerate(columns):
            query_head = column // 4
            groups[query_head // 2] += value
        ratings.append(np.array(groups))
    return ratings


def lowest(ratings: Array, count: int) -> set[int]:
    return set(sorted(range(len(ratings)), key=lambda n: (ratings[n], n))[:count])


CASES = [(unit, name) for unit, formulas in FORMULAS.items() for name in formulas]


@pytest.mark.parametrize("share", ["1/4", "0.5"])
@pytest.mark.parametrize(("unit", "name"), CASES)
def test_the_least_important_units_go(
    make: Make, folder: Path, unit: str, name: str, share: str
) -> None:
    evaluator = make(unit=unit, sparsity=share)
    masks = evaluator._masks_of(parse(FORMULAS[unit][name][0]))
    assert not isinstance(masks, Failed)
    ratings = unit_ratings(evaluator, folder, unit, name)
    size = {"channels": 24, "heads": 6, "blocks": 4}[unit]
    count = math.floor(size * Fraction(share))
    assert len(masks) == len(ratings)
    for bits, rating in zip(masks.values(), ratings, strict=True):
        keep = np.unpackbits(bits)[:size]
        gone = {number for number, stays in enumerate(keep) if not stays}
        assert len(gone) == count
        assert gone == lowest(rating, count)


@pytest.mark.parametrize("unit", FORMULAS)
def test_of_equals_the_lowest_goes(make: Make, unit: str) -> None:
    evaluator = make(unit=unit, sparsity="0.5")
    text = "mul(0, block_angle)" if unit == "blocks" else "mul(0, x_norm)"
    masks = evaluator._masks_of(parse(text))
    assert not isinstance(masks, Failed)
    size = {"channels": 24, "heads": 6, "blocks": 4}[unit]
    for bits in masks.values():
        wanted = [0] * (size // 2) + [1] * (size // 2)
        assert np.unpackbits(bits)[:size].tolist() == wanted


def rebuilt(
    model: PreTrainedModel, masks: dict[str, NDArray[np.uint8]], unit: str
) -> PreTrainedModel:
    """Return a copy with zeros, put one by one, where units are dropped."""
    again: Any = AutoModelForCausalLM.from_config(model.config)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        for number, bits in enumerate(masks.values()):
            layer = again.model.layers[number]
            for index, stays in enumerate(np.unpackbits(bits)):
                if stays:
                    continue
                if unit == "channels" and index < 24:
                    layer.mlp.down_proj.weight[:, index] = 0
                elif unit == "heads" and index < 6:
                    layer.self_attn.o_proj.weight[:, 8 * index : 8 * index + 8] = 0
                elif unit == "blocks" and index < 4:
                    again.model.layers[index].mlp.down_proj.weight[:] = 0
                    again.model.layers[index].self_attn.o_proj.weight[:] = 0
    return again.eval()


def divergence(model: PreTrainedModel, other: PreTrainedModel, ids: Tensor) -> float:
    with torch.no_grad():
        p = model(ids).logits[0].double().log_softmax(-1)
        q = other(ids).logits[0].double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("unit", FORMULAS)
def test_the_value_is_the_divergence_without_the_units(make: Make, unit: str) -> None:
    evaluator = make(unit=unit, sparsity="0.5")
    expression = parse(FORMULAS[unit]["taylor"][0])
    (outcome,) = evaluator.measure([expression], 1.0)
    assert isinstance(outcome, Measured)
    masks = evaluator._masks_of(expression)
    assert not isinstance(masks, Failed)
    model = evaluator.loaded.model
    other = rebuilt(model, masks, unit)
    each = [divergence(model, other, ids.unsqueeze(0)) for ids in evaluator._validation[:3]]
    assert math.isclose(outcome.value, sum(each) / 3, rel_tol=1e-4)


def test_orders_that_must_not_merge_do_not(make: Make) -> None:
    """A sum over a head's columns, and a mean over a block's matrices, see magnitudes."""
    assert make(unit="channels", sparsity="0.5").blindness is Blindness.MATRIX
    assert make(unit="heads", sparsity="0.5").blindness is Blindness.NOTHING
    assert make(unit="blocks", sparsity="0.5").blindness is Blindness.NOTHING
    channels, heads = make(unit="channels", sparsity="0.5"), make(unit="heads", sparsity="0.5")
    pair = [parse("x_norm"), parse("pow(x_norm, 4)")]
    one, other = channels.behaviour(pair)
    assert one == other
    one, other = heads.behaviour(pair)
    assert one != other


def test_protocols_tell_units_and_shares_apart(make: Make) -> None:
    words = [
        (make(unit=unit, sparsity=share).protocol(), make(unit=unit, sparsity=share))
        for unit in FORMULAS
        for share in ("1/4", "0.5")
    ]
    assert len({json.dumps(protocol, sort_keys=True) for protocol, _ in words}) == 6
    for protocol, evaluator in words:
        assert protocol["evaluator"] == "shrinking"
        assert protocol["unit"] in protocol["condition"]
        assert protocol["group"] == ("model" if protocol["unit"] == "blocks" else "layer")
        report = evaluator.report_protocol()
        assert (report["unit"], report["condition"]) == (protocol["unit"], protocol["condition"])


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sparsity": "0.5"}, ["--unit channels", "heads", "blocks"]),
        ({"unit": "haeds", "sparsity": "0.5"}, ["did you mean 'heads'"]),
        ({"unit": "heads", "pattern": "2:4"}, ["pattern 2:4 is of weights", "--sparsity 0.25"]),
        ({"unit": "heads", "group": "matrix"}, ["group 'matrix' is of weights", "leave --group"]),
        ({"unit": "heads", "sparsity": "0.1"}, ["of 6 key-value groups is none", "1/6"]),
        ({"unit": "blocks", "sparsity": "0.2"}, ["of 4 decoder blocks is none", "1/4"]),
        ({"unit": "channels", "sparsity": "0"}, ["of 24 channels is none", "1/24"]),
        ({"unit": "channels", "sparsity": "1"}, ["sparsity must lie in [0, 1)"]),
        ({"unit": "channels", "sparsity": 0.5, "colour": "red"}, ["'colour'"]),
    ],
)
def test_what_cannot_be_is_told(make: Make, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as told:
        make(**changes)
    assert all(word in str(told.value) for word in words), told.value


def test_never_all_of_them(make: Make) -> None:
    for unit, size in (("channels", 24), ("heads", 6), ("blocks", 4)):
        evaluator = make(unit=unit, sparsity="0.999")
        text = "block_angle" if unit == "blocks" else "x_norm"
        masks = evaluator._masks_of(parse(text))
        assert not isinstance(masks, Failed)
        assert all(np.unpackbits(bits)[:size].sum() == 1 for bits in masks.values())


@pytest.mark.parametrize(
    ("unit", "text", "kind"),
    [
        ("channels", "abs(W)", "Weight"),
        ("channels", "y_norm", "PerOutput"),
        ("heads", "block_angle", "Scalar"),
        ("blocks", "x_norm", "PerInput"),
    ],
)
def test_a_formula_of_another_kind_is_told(make: Make, unit: str, text: str, kind: str) -> None:
    evaluator = make(unit=unit, sparsity="0.5")
    for ask in (
        lambda e: evaluator.behaviour([e]),
        evaluator.identity,
        lambda e: list(evaluator.measure([e], 1.0)),
    ):
        with pytest.raises(ConfigError, match=rf"kind {kind}, but --unit {unit} is rated by"):
            ask(parse(text))


def test_a_family_that_cannot_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    options = tiny_options(tmp_path, model=str(tmp_path / "gpt2"), unit="heads", sparsity="0.5")
    save(tmp_path / "gpt2", model_of_family("gpt2"))
    with pytest.raises(ModelError, match="heads of the family 'gpt2' cannot"):
        ShrinkingEvaluator.from_options(options, cache=tmp_path / "cache", notice=refuse)
    assert not (tmp_path / "cache").exists()


def test_a_share_that_no_configuration_says_is_told_with_those_that_do(tmp_path: Path) -> None:
    """LLaMA's heads must divide its width of 16."""
    options = tiny_options(tmp_path, model=str(tmp_path / "mha"), unit="heads", sparsity="1/4")
    save(tmp_path / "mha", tiny_model(gqa=False))
    with pytest.raises(ModelError, match=r"of 4 key-value groups it can keep 1 or 2\)"):
        ShrinkingEvaluator.from_options(options, cache=tmp_path / "cache", notice=refuse)


# --- what is written --------------------------------------------------------------------------


def pruned(folder: Path, out: Path, unit: str, **changes: Any) -> dict[str, Any]:
    """Write `deep` without some units by the command line; return its recipe."""
    options = tiny_options(folder, unit=unit, sparsity="0.5", **changes)
    model = options.pop("model") if "model" in changes else str(folder / "deep")
    foreign = ("validation", "validation_blocks", "confirm_blocks", "model")
    words = flags({k: v for k, v in options.items() if k not in foreign})
    asked = ("--metric", FORMULAS[unit]["taylor"][0], "--evaluator", EVALUATOR, "--check")
    code = main(
        ["prune", model, *asked, *words, "--out", str(out), "--results", str(out.parent / "res")]
    )
    assert code == 0
    recipe: dict[str, Any] = json.loads((out / "recipe.json").read_text(encoding="utf-8"))
    return recipe


CHANGES = {
    "channels": {"intermediate_size": 12},
    "heads": {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 4},
    "blocks": {"num_hidden_layers": 2},
}


@pytest.mark.parametrize("unit", CHANGES)
def test_the_folder_is_smaller_plain_and_worth_what_was_measured(
    make: Make, folder: Path, tmp_path: Path, unit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    recipe = pruned(folder, out, unit)
    assert "of the whole model" in capsys.readouterr().out
    evaluator = make(unit=unit, sparsity="0.5")
    expression = parse(FORMULAS[unit]["taylor"][0])
    (row,) = evaluator.report([expression], [0])
    assert math.isclose(recipe["check"]["pruned_perplexity"], row["perplexity"], rel_tol=1e-5)
    assert recipe["check"]["dense_perplexity"] == evaluator.dense()["perplexity"]
    assert recipe["mask_hash"] == evaluator.identity(expression)

    again = AutoModelForCausalLM.from_pretrained(out)
    assert AutoTokenizer.from_pretrained(out)("a")["input_ids"]
    dense = AutoModelForCausalLM.from_pretrained(folder / "deep")
    lost = sum(p.numel() for p in dense.parameters()) - sum(p.numel() for p in again.parameters())
    of_a_layer = {
        "channels": 4 * 12 * 3 * 16,
        "heads": 4 * 3 * (8 + 4 + 4 + 8) * 16,
        "blocks": 2 * (16 * (48 + 24 + 24 + 48) + 3 * 16 * 24 + 32),
    }
    assert recipe["dropped"] == lost == of_a_layer[unit]
    assert recipe["changes"] == CHANGES[unit]
    assert {layer["sparsity"] for layer in recipe["layers"].values()} == {0.5}

    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    source = json.loads((folder / "deep" / "config.json").read_text(encoding="utf-8"))
    assert config == {**source, **CHANGES[unit]}
    keep = read_masks(out / UNITS_FILE)
    masks = evaluator._masks_of(expression)
    assert not isinstance(masks, Failed)
    size = {"channels": 24, "heads": 6, "blocks": 4}[unit]
    for name, bits in masks.items():
        assert keep[name].tolist() == [np.unpackbits(bits)[:size].astype(bool).tolist()]
    assert len(keep) == len(masks)
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1  # all who may read, may all


def test_the_command_of_the_recipe_writes_the_same_again(folder: Path, tmp_path: Path) -> None:
    recipe = pruned(folder, tmp_path / "out", "heads")
    words = re.findall(r"'[^']*'|\S+", recipe["command"])[1:]
    words = [word.strip("'") for word in words]
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert main([*words, "--results", str(tmp_path / "res2")]) == 0
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    # safetensors writes words about a file in any order
    first, again = (read_masks(tmp_path / where / UNITS_FILE) for where in ("out", "again"))
    assert {n: m.tolist() for n, m in first.items()} == {n: m.tolist() for n, m in again.items()}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_types_of_the_files_are_kept(folder: Path, tmp_path: Path, dtype: str) -> None:
    save(tmp_path / "half", deep_model().to(getattr(torch, dtype)))
    recipe = pruned(folder, tmp_path / "out", "channels", model=str(tmp_path / "half"))
    assert recipe["dtype"] == dtype
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {p.dtype for p in again.parameters()} == {getattr(torch, dtype)}


def test_gpt2_is_shrunk_in_its_own_words(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "gpt2", model_of_family("gpt2"))
    words = {"channels": {"n_inner": 64}, "blocks": {"n_layer": 1}}
    for unit, changes in words.items():
        recipe = pruned(folder, tmp_path / unit, unit, model=str(tmp_path / "gpt2"))
        assert recipe["changes"] == changes
        loaded = load_model(str(tmp_path / unit), device="cpu", dtype="float32")
        assert loaded.unread == ()


def test_what_computes_something_else_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    cut = module.cut
    monkeypatch.setattr(module, "cut", lambda m, u, keep: cut(m, u, [~stays for stays in keep]))
    with pytest.raises(AssertionError):
        pruned(folder, tmp_path / "out", "heads")
    assert "does not compute what was measured" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_evaluator_gives_back_what_it_borrowed_for_a_report(make: Make) -> None:
    evaluator = make(unit="blocks", sparsity="0.5")
    model = evaluator.loaded.model
    before = state(model), hook_count(model)
    assert len(list(evaluator.report([parse("block_angle"), parse("block_index")], [0, 1]))) == 4
    assert (state(model), hook_count(model)) == before


# --- the command line -------------------------------------------------------------------------


@pytest.mark.parametrize("unit", SPACES)
def test_a_whole_search(tmp_path: Path, unit: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = {"space": SPACES[unit], "evaluator": EVALUATOR, "random_search": False}
    path, _ = write_run_file(tmp_path, run=run, evaluations=3.0)
    words = ["--unit", unit, "--sparsity", "0.5", "--results", str(tmp_path / "results")]
    assert main(["search", "--config", str(path), *words, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["protocol"]["unit"] == unit
    assert {"random", "magnitude"} <= {row["name"] for row in summary["baselines"]}
    assert all(row["value"] is not None for row in summary["baselines"])
    assert {"dense", "tiny-run", "random"} <= {
        row["name"] for row in summary["reports"][0]["entries"]
    }
    source = (tmp_path / "results" / "metrics" / "tiny_run.py").read_text(encoding="utf-8")
    assert "(1, 1) importance" in source if unit == "blocks" else "(1, d_in) importance" in source
    board = (tmp_path / "results" / "leaderboard.md").read_text(encoding="utf-8")
    assert f"50% of {unit}" in board


@pytest.mark.parametrize(
    ("space", "unit", "words"),
    [
        ("importance", "channels", "space 'importance' are of kind Weight, .* rates PerInput"),
        (SPACES["blocks"], "heads", "space 'blocks' are of kind Scalar, .* rates PerInput"),
        (SPACES["channels"], "blocks", "space 'channels' are of kind PerInput, .* rates Scalar"),
    ],
)
def test_a_space_of_another_kind_is_told_at_once(
    tmp_path: Path, space: str, unit: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = write_run_file(tmp_path, run={"space": space, "evaluator": EVALUATOR})
    asked = ["--unit", unit, "--sparsity", "0.5", "--results", str(tmp_path / "results")]
    assert main(["search", "--config", str(path), *asked]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not list((tmp_path / "results" / "cache").glob("*.safetensors"))


def test_units_are_not_the_pruning_evaluators(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--unit", "heads", "--metric", "abs(W)", "--out", str(tmp_path / "out")]
    assert main(["prune", str(folder / "deep"), *words]) == 2
    assert "unknown evaluator option 'unit'" in capsys.readouterr().err
    words = ["--metric", "x_norm", "--out", str(tmp_path / "out")]
    assert main(["prune", str(folder / "deep"), *words]) == 2
    assert "of kind PerInput, but pruning needs a value for each weight" in capsys.readouterr().err
