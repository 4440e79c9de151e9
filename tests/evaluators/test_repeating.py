"""From a report's protocol back to options: they give the same protocol, whatever was asked."""

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.evaluation import content_hash
from autoproxy.language.parse import parse
from evaluators.allocation import allocation_json
from evaluators.masks import Unstructured, amount_of, parse_pattern
from evaluators.prediction import PredictionEvaluator
from evaluators.protocols import PROTOCOLS
from evaluators.pruning import PruningEvaluator
from evaluators.several import SeveralEvaluator
from evaluators.shrinking import ShrinkingEvaluator
from tests.evaluators.tiny import tiny_options

KINDS: Mapping[str, Any] = {
    "pruning": PruningEvaluator,
    "shrinking": ShrinkingEvaluator,
    "prediction": PredictionEvaluator,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repeating")
    options = tiny_options(folder)
    more = folder / "texts" / "more.txt"
    more.write_text(Path(options["calibration"][0]).read_text(encoding="utf-8")[::-1], "utf-8")
    shares = [Fraction(1, 4), Fraction(3, 4)]
    content = {**allocation_json(shares, Fraction(1, 2))}
    (folder / "layers.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def opened(kind: str, options: Mapping[str, Any], folder: Path) -> Any:
    return KINDS[kind].from_options(options, cache=folder / "cache", notice=lambda _: None)


def placed(options: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that find the model and the allocation where they were."""
    places = {name: asked[name] for name in ("model", "allocation") if name in asked}
    return {**options, **places}


def repeated(kind: str, asked: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """See that the protocol comes back; return the options that it was made of again."""
    protocol = opened(kind, asked, folder).report_protocol()
    as_kept = json.loads(json.dumps(protocol))  # as `reports.jsonl` has it
    assert protocol["evaluator"] == kind
    options = KINDS[kind].options_of(as_kept)
    again = opened(kind, placed(options, asked), folder)
    assert again.report_protocol() == protocol
    assert content_hash(again.report_protocol()) == content_hash(as_kept)
    return dict(options)


NAMED = {"windows": "anywhere", "special_tokens": False, "text_blocks": 3}
TOPICS = {"calibration": ["topics:calibration"], "text": ["topics:test"]}
PRUNED = {
    "as it comes": {},
    "sparsity": {"sparsity": "0.7"},
    "no round share": {"sparsity": "1/3"},
    "many digits": {"sparsity": "0.123456789"},
    "nothing": {"sparsity": "0"},
    "2:4": {"pattern": "2:4"},
    "2:4 with a group": {"pattern": "4:8", "group": "matrix"},
    "matrix": {"group": "matrix"},
    "layer": {"group": "layer"},
    "model": {"group": "model"},
    "columns": {"group": "columns:8"},
    "sequential": {"mode": "sequential"},
    "owl": {"allocation": "owl", "sparsity": "0.6"},
    "alpha": {"allocation": "alpha"},
    "metric": {"allocation": "metric"},
    "a file": {"allocation": "layers.json"},
    "other blocks": {"length": 16, "calibration_blocks": 2, "text_blocks": 7},
    "all blocks": {"text_blocks": "all"},
    "usual blocks": {**TOPICS, "length": 64, "text_blocks": None},
    "usual length": {"length": None},
    "other type": {"dtype": "bfloat16"},
    "other joins": {"calibration_join": "spaces", "text_join": "newlines"},
    "special tokens": {"special_tokens": True},
    "windows": {"windows": "anywhere"},
    "topics": TOPICS,
    "named": {"protocol": "wanda-2048", **NAMED, "mode": "oneshot"},
    "named, its blocks": {"protocol": "gblm", "windows": "grid", "text_blocks": "all"},
    "named, its group": {"protocol": "ria", **NAMED, "dtype": "float32"},
    "named, 2:4": {"protocol": "ria", **NAMED, "pattern": "2:4"},
    "named, 2:4, other group": {"protocol": "ria", **NAMED, "pattern": "2:4", "group": "row"},
    "named, all its own": {"protocol": "pruner-zero"},
}


@pytest.mark.parametrize("case", PRUNED)
def test_pruning(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    asked = {**tiny_options(folder), **PRUNED[case]}
    asked = {name: value for name, value in asked.items() if value is not None}
    options = repeated("pruning", asked, folder)
    assert "seed" not in options  # each row has its own


def test_several_calibration_files_come_apart(folder: Path) -> None:
    files = [str(folder / "texts" / name) for name in ("calibration.txt", "more.txt")]
    options = repeated("pruning", tiny_options(folder, calibration=files), folder)
    assert options["calibration"] == files


@pytest.mark.parametrize("model", ["starter", "llama", "starter-gpt2"])
def test_starter_models_go_by_their_names(model: str, tmp_path: Path) -> None:
    asked = {"model": model, "length": 16, "calibration_blocks": 1, "text_blocks": 1}
    protocol = opened("pruning", asked, tmp_path).report_protocol()
    options = PruningEvaluator.options_of(protocol)
    again = opened("pruning", options, tmp_path)
    assert again.report_protocol() == protocol


def test_what_the_tables_have_in_common(folder: Path) -> None:
    """Each named protocol, with texts at hand in place of those that none of us can reach."""
    for name, held in PROTOCOLS.items():
        own = {"protocol": name, **NAMED}
        options = repeated("pruning", {**tiny_options(folder), **own}, folder)
        assert options["protocol"] == name
        assert held["length"] != options["length"]  # a departure, which is kept


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "channels"},
        {"unit": "channels", "sparsity": "1/24"},
        {"unit": "channels", "sparsity": "0.25", "dtype": "bfloat16", "windows": "anywhere"},
        {"unit": "blocks"},
        {"unit": "heads"},
        {"unit": "blocks", "protocol": "ria", **NAMED, "group": "row", "mode": "oneshot"},
    ],
    ids=str,
)
def test_shrinking(changes: dict[str, Any], folder: Path) -> None:
    options = repeated("shrinking", {**tiny_options(folder), **changes}, folder)
    assert options["unit"] == changes["unit"]


def test_each_of_several_conditions_is_repeated_alone(folder: Path) -> None:
    asked = {
        **tiny_options(folder),
        "condition": ["sparsity=0.6", "pattern=2:4", "sparsity=2/3 mode=sequential"],
    }
    evaluator = SeveralEvaluator.from_options(asked, cache=folder / "cache", notice=lambda _: None)
    for condition in evaluator.conditions:
        protocol = condition.report_protocol()
        options = placed(PruningEvaluator.options_of(protocol), asked)
        assert opened("pruning", options, folder).report_protocol() == protocol


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"objective": "tau", "labels": 20, "validation_labels": 5, "unlabelled": 4},
        {"labels": 1000, "validation_labels": 1000, "seed": 3},
        {"limit": 60, "sequences": 1, "tokens": 32, "rows": 7, "control": "noise"},
        {"rows": 0, "resamples": 200, "draw": 4, "validation_labels": 0},
        {"benchmark": "starter-varied", "labels": 30, "max_tied": 0.01},
    ],
    ids=str,
)
def test_prediction(asked: dict[str, Any], tmp_path: Path) -> None:
    protocol = opened("prediction", asked, tmp_path).report_protocol()
    options = PredictionEvaluator.options_of(json.loads(json.dumps(protocol)))
    again = opened("prediction", options, tmp_path)
    assert again.report_protocol() == protocol
    assert again.config.max_tied == asked.get("max_tied", 1.0)
    assert again.unseen.tolist() == opened("prediction", asked, tmp_path).unseen.tolist()


@given(st.fractions(0, 1, max_denominator=10**6).filter(lambda share: share < 1))
def test_a_condition_says_its_share_exactly(share: Fraction) -> None:
    """Two shares that drop other counts somewhere never share a protocol."""
    pattern = Unstructured(share)
    (said,) = amount_of(str(pattern)).values()
    assert parse_pattern(said, None) == pattern


def test_equal_protocols_mean_equal_values(folder: Path) -> None:
    """What comes back measures the same bits, not only the same words."""
    asked = tiny_options(folder, sparsity="1/3", calibration_blocks=2)
    first = opened("pruning", asked, folder)
    options = placed(PruningEvaluator.options_of(first.report_protocol()), asked)
    again = opened("pruning", options, folder / "elsewhere")
    formula = parse("abs(W) * x_norm")
    (one,), (other,) = (list(e.report([formula], [2])) for e in (first, again))
    assert one == other


def test_a_report_on_predictions_needs_no_search_before_it(tmp_path: Path) -> None:
    """Whoever repeats a row opens the evaluator and asks for a report, and for nothing else."""
    asked = {"limit": 12, "labels": 4, "validation_labels": 3, "resamples": 100, "jobs": 1}
    asked |= {"objective": "tau"}
    formulas = [parse("layers_sum(all_sum(abs(mul(W, g))))"), parse("layers_mean(all_norm(x))")]
    searched, fresh = (opened("prediction", asked, tmp_path / name) for name in ("a", "b"))
    searched.prepare(frozenset({"W", "g", "x"}))
    first = list(searched.report(formulas, [0]))
    assert list(fresh.report(formulas, [0])) == first
    assert all(values["tied"] < 1 for values in first)  # an order, and not none at all
