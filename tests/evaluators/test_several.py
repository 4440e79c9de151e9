"""Several conditions: each is what it is alone, and the value is the mean log-ratio to Wanda."""

import math
from pathlib import Path
from typing import Any

import pytest

from autoproxy.errors import ConfigError
from autoproxy.evaluation import Failed, Measured
from autoproxy.language.blindness import Blindness
from autoproxy.language.parse import parse
from evaluators.pruning import PruningEvaluator
from evaluators.several import SeveralEvaluator, merged
from tests.evaluators.tiny import tiny_options

TEXTS = ("abs(W)", "mul(square(W), x_norm)", "mul(abs(W), g_norm)")


def several(folder: Path, *conditions: str, **changes: Any) -> SeveralEvaluator:
    options = tiny_options(folder, condition=list(conditions), **changes)
    return SeveralEvaluator.from_options(options, cache=folder / "cache", notice=print)


def kl(folder: Path, text: str, fidelity: float, **changes: Any) -> float:
    options = tiny_options(folder, **changes)
    alone = PruningEvaluator.from_options(options, cache=folder / "cache", notice=print)
    (outcome,) = alone.measure([parse(text)], fidelity)
    assert isinstance(outcome, Measured)
    return outcome.value


@pytest.mark.parametrize("fidelity", [1 / 3, 1.0])
def test_the_value_is_the_mean_log_ratio_to_wanda(tmp_path: Path, fidelity: float) -> None:
    evaluator = several(tmp_path, "sparsity=0.5", "pattern=2:4", "sparsity=0.3 group=matrix")
    changes: list[dict[str, str]] = [
        {"sparsity": "0.5"},
        {"pattern": "2:4"},
        {"sparsity": "0.3", "group": "matrix"},
    ]
    for text in TEXTS:
        (outcome,) = evaluator.measure([parse(text)], fidelity)
        assert isinstance(outcome, Measured)
        ratios = []
        for number, change in enumerate(changes, 1):
            own = kl(tmp_path, text, fidelity, **change)
            assert outcome.details[f"kl_{number}"] == own
            ratios.append(math.log(own / kl(tmp_path, "mul(abs(W), x_norm)", fidelity, **change)))
        assert outcome.value == pytest.approx(sum(ratios) / 3, abs=1e-12)


def test_wanda_itself_is_zero(tmp_path: Path) -> None:
    evaluator = several(tmp_path, "sparsity=0.5", "pattern=2:4")
    (outcome,) = evaluator.measure([parse("mul(abs(W), x_norm)")], 1.0)
    assert isinstance(outcome, Measured)
    assert outcome.value == 0.0


def test_what_one_condition_sees_all_see(tmp_path: Path) -> None:
    """Masks per row alike, over the matrix not: two candidates."""
    evaluator = several(tmp_path, "group=row", "group=matrix")
    one, other = parse("abs(W)"), parse("div(abs(W), row_sum(abs(W)))")
    rows, matrix = evaluator.conditions
    assert rows.identity(one) == rows.identity(other)
    assert matrix.identity(one) != matrix.identity(other)
    assert evaluator.identity(one) != evaluator.identity(other)
    assert evaluator.blindness is Blindness.MATRIX


def test_what_fails_in_one_fails(tmp_path: Path) -> None:
    evaluator = several(tmp_path, "sparsity=0.5", "pattern=2:4")
    (fingerprint,) = evaluator.behaviour([parse("sub(W, W)")])
    assert isinstance(fingerprint, Failed)


def test_the_losses_of_the_finals_are_those_of_each_condition(tmp_path: Path) -> None:
    evaluator = several(tmp_path, "sparsity=0.5", "pattern=2:4")
    expression = parse("abs(W)")
    parts = [loss for part in evaluator.conditions for loss in part.confirm(expression)]
    assert list(evaluator.confirm(expression)) == parts
    assert len(parts) == 4


def test_the_protocol_holds_those_of_the_conditions(tmp_path: Path) -> None:
    evaluator = several(tmp_path, "sparsity=0.5", "pattern=2:4")
    protocol = evaluator.protocol()
    assert protocol["conditions"] == [c.protocol() for c in evaluator.conditions]
    assert protocol["condition"] == "50%+2:4"


def test_a_pattern_takes_the_place_of_a_sparsity() -> None:
    assert merged({"sparsity": "0.5"}, "pattern=2:4") == {"pattern": "2:4"}
    assert merged({"pattern": "2:4", "seed": 1}, "sparsity=0.6") == {"seed": 1, "sparsity": "0.6"}
    assert merged({}, "length=32 text='a b.txt',c.txt") == {
        "length": 32,
        "text": ["a b.txt", "c.txt"],
    }


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        (["sparsity=0.5"], "two or more"),
        (["sparsity=0.5", "sparsity=0.5"], "the same"),
        (["sparsity=0.5", "pattern"], "NAME=VALUE"),
        (["sparsity=0.5", ""], "NAME=VALUE"),
        (["sparsity=0.5", "sparsty=0.6"], "sparsity"),
        (["sparsity=0.5", "text='a"], "cannot be read"),
        (["sparsity=0.5", "sparsity=0.6 validation_blocks=2"], "validation blocks"),
    ],
)
def test_conditions_that_cannot_be(tmp_path: Path, conditions: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        several(tmp_path, *conditions)


def test_parts_of_one_value_are_one_under_every_condition(tmp_path: Path) -> None:
    evaluator = several(tmp_path, "sparsity=0.5 seed=1", "pattern=2:4")
    texts = ("x_norm", "neg(neg(x_norm))", "sqrt(x_norm)", "col_norm(W)")
    first, again, *others = evaluator.values([parse(text) for text in texts])
    assert first == again
    assert len({first, *others}) == 3
    (alone, _), (whole, _) = (
        e.values([parse("x_norm"), parse("W")]) for e in (evaluator.conditions[0], evaluator)
    )
    assert alone != whole


@pytest.mark.parametrize("role", ["validation", "calibration"])
def test_a_search_is_not_scored_on_the_report_text_of_another_condition(
    tmp_path: Path, role: str
) -> None:
    texts = tiny_options(tmp_path)
    report, own = texts["text"][0], texts[role][0]
    words = rf"condition 1's report text .* and the condition 2's {role} text .* overlap"
    with pytest.raises(ConfigError, match=words):
        several(tmp_path, f"text={report}", f"{role}={report} text={own} sparsity=0.4")
    several(tmp_path, "sparsity=0.5", "sparsity=0.4")  # the same texts in both are as ever


def test_conditions_of_one_model_share_its_dense_copy(tmp_path: Path) -> None:
    evaluator = several(tmp_path, "sparsity=0.5", "sparsity=0.4")
    list(evaluator.measure([parse("abs(W)")], 1.0))
    one, other = (condition._spare for condition in evaluator.conditions)
    assert one is other
    assert one


def test_streaming_is_refused_as_in_any_search(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stream is for `autoproxy prune` alone"):
        several(tmp_path, "sparsity=0.5", "sparsity=0.4", stream=True)


def test_memory_is_looked_at_before_a_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.room.free_memory", lambda: 1000)
    with pytest.raises(ConfigError, match="are free; what helps"):
        several(tmp_path, "sparsity=0.5", "sparsity=0.4")
