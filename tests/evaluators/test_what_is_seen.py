"""What evaluators see of two formulas: magnitudes where they count, and the share that differs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoproxy.evaluation import Evaluator, Failed, Fingerprint
from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import order_key
from autoproxy.language.parse import parse
from autoproxy.language.types import Kind
from autoproxy.sieve.rules import Dropped
from autoproxy.sieve.sieve import Sieve
from autoproxy.spaces import SearchSpace
from evaluators.masks import unpack
from evaluators.prediction import PredictionEvaluator
from evaluators.prediction_config import PredictionConfig
from evaluators.pruning import PruningEvaluator
from evaluators.several import SeveralEvaluator
from evaluators.shrinking import ShrinkingEvaluator
from search_spaces.importance import SPACE
from tests.autoproxy.sieve.test_sieve import EVERYTHING, names, numbered
from tests.conformance.toy import ToyEvaluator
from tests.evaluators.tables import starter_rows, write
from tests.evaluators.tiny import tiny_options

FIRST, BY_LAYER = "abs(W)", "mul(abs(W), square(all_norm(g)))"
BY_ROW = "mul(abs(W), square(row_norm(g)))"
"""One formula, and others that order a row alike and give layers or rows another weight."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seen")


@pytest.fixture(scope="module")
def made(folder: Path) -> Callable[..., Any]:
    def make(kind: Any = PruningEvaluator, **changes: Any) -> Any:
        options = tiny_options(folder, **{"sparsity": "0.5", **changes})
        if "condition" in changes:
            del options["sparsity"]
        return kind.from_options(options, cache=folder / "cache", notice=print)

    return make


def digest(evaluator: Evaluator, text: str) -> str:
    (found,) = evaluator.behaviour([parse(text)])
    assert isinstance(found, Fingerprint), found
    return found.digest


def judged(evaluator: Evaluator, *texts: str, space: SearchSpace = EVERYTHING) -> list[str]:
    return names(Sieve(space, evaluator).judge(numbered(*texts)))


# --- orders, or magnitudes ----------------------------------------------------------------------


def test_within_rows_the_weight_of_layers_and_rows_is_not_seen(made: Callable[..., Any]) -> None:
    with made() as evaluator:
        assert evaluator.blindness is Blindness.ROW
        assert digest(evaluator, FIRST) == digest(evaluator, BY_LAYER) == digest(evaluator, BY_ROW)
        assert judged(evaluator, FIRST, BY_LAYER, BY_ROW) == ["kept", "repeat", "repeat"]


@pytest.mark.parametrize("group", ["layer", "model"])
def test_how_sparsity_is_given_out_is_no_distortion(group: str, made: Callable[..., Any]) -> None:
    """Else good formulas, which drop unlike shares of unlike matrices, would be called hopeless."""
    with made(group=group) as evaluator:
        one, other, wanda, by_layer = (
            evaluator.behaviour([parse(text)])[0]
            for text in (FIRST, BY_LAYER, "abs(W) * x_norm", "abs(W) * x_norm / all_mean(x_norm)")
        )
        assert one.digest != other.digest
        assert one.distortion == pytest.approx(other.distortion, rel=1e-6)
        assert wanda.digest != by_layer.digest
        assert wanda.distortion == pytest.approx(1.0)
        assert by_layer.distortion == pytest.approx(1.0)
        assert one.distortion > 1.0


@pytest.mark.parametrize("group", ["row", "matrix"])
def test_an_allocation_by_the_metric_sees_the_weight_of_layers(
    group: str, made: Callable[..., Any]
) -> None:
    with made(allocation="metric", group=group) as evaluator:
        assert evaluator.blindness is Blindness.WHOLE
        seen = [digest(evaluator, text) for text in (FIRST, BY_LAYER, BY_ROW)]
        assert len(set(seen)) == 3
        keys = [order_key(parse(text), Blindness.WHOLE) for text in (FIRST, BY_LAYER, BY_ROW)]
        assert len(set(keys)) == 3
        assert judged(evaluator, FIRST, BY_LAYER, BY_ROW) == ["kept"] * 3
        assert len({evaluator.identity(parse(t)) for t in (FIRST, BY_LAYER, BY_ROW)}) == 3
        # What rises everywhere keeps the order of all weights of the model, and so all masks.
        assert judged(evaluator, FIRST, "square(W)") == ["kept", "repeat"]
        assert evaluator.difference(parse(FIRST), parse("square(W)")) == 0.0


def test_an_allocation_that_asks_others_leaves_rows_alone(made: Callable[..., Any]) -> None:
    for allocation in ("owl", "alpha"):
        with made(allocation=allocation) as evaluator:
            assert evaluator.blindness is Blindness.ROW
            assert evaluator.difference(parse(FIRST), parse(BY_LAYER)) == 0.0


def test_one_of_several_conditions_that_sees_them_is_enough(made: Callable[..., Any]) -> None:
    conditions = ["sparsity=0.5", "sparsity=0.5 allocation=metric"]
    with made(SeveralEvaluator, condition=conditions) as evaluator:
        assert evaluator.blindness is Blindness.WHOLE
        assert judged(evaluator, FIRST, BY_LAYER, BY_ROW) == ["kept"] * 3
        first, second = evaluator.conditions
        pair = parse(FIRST), parse(BY_LAYER)
        assert first.difference(*pair) == 0.0
        assert evaluator.difference(*pair) == second.difference(*pair) > 0.0


HEADS = ("col_sum(abs(W))", "square(col_sum(abs(W)))", "mul(2, col_sum(abs(W)))")
"""The second orders inputs like the first; sums of some inputs are another question."""


def test_sums_over_a_head_see_magnitudes(made: Callable[..., Any]) -> None:
    with made(ShrinkingEvaluator, unit="heads") as evaluator:
        space = SearchSpace(
            "heads", Kind.PER_INPUT, {"W": 1}, SPACE.primitives, (1.0,), (1.0,), 9, 5
        )
        assert evaluator.blindness is Blindness.NOTHING
        verdicts = Sieve(space, evaluator).judge(numbered(*HEADS))
        for verdict in verdicts[1:]:  # by what is computed, never by algebra
            assert not isinstance(verdict, Dropped) or verdict.rule in {"same-order", "same-mask"}
        # Among inputs alone they are one.
    with made(ShrinkingEvaluator, unit="channels") as evaluator:
        assert judged(evaluator, *HEADS, space=space) == ["kept", "repeat", "repeat"]


def test_the_fingerprint_of_heads_is_the_order_of_their_sums(made: Callable[..., Any]) -> None:
    texts = (*HEADS, "col_max(W)", "col_norm(W)", "neg(col_norm(W))", "exp(mul(9, col_max(W)))")
    with made(ShrinkingEvaluator, unit="heads") as evaluator:
        digests = {text: digest(evaluator, text) for text in texts}
        identities = {text: evaluator.identity(parse(text)) for text in texts}
    alike = {(a, b) for a in texts for b in texts if digests[a] == digests[b]}
    assert all(identities[a] == identities[b] for a, b in alike)
    assert len(set(digests.values())) > 1


@pytest.fixture(scope="module")
def predicting(folder: Path) -> PredictionEvaluator:
    path = write(folder / "table.csv", starter_rows())
    options = {"labels": 10, "validation_labels": 5, "unlabelled": 1, "sequences": 1, "tokens": 8}
    config = PredictionConfig.from_options({"table": str(path), **options})
    evaluator = PredictionEvaluator(config, cache=folder / "cache")
    evaluator.prepare(frozenset({"W"}))
    return evaluator


def test_predictions_are_compared_over_networks_whichever_way_is_up(
    predicting: PredictionEvaluator,
) -> None:
    assert predicting.blindness is Blindness.WHOLE
    assert digest(predicting, "params") == digest(predicting, "neg(params)")
    keys = [
        order_key(parse(text), Blindness.WHOLE)
        for text in ("params", "sqrt(params)", "mul(params, n_layers)", "div(params, n_layers)")
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3  # the number of layers differs from network to network


# --- the share that differs -----------------------------------------------------------------------


def test_the_difference_of_two_importances_is_the_share_of_weights(
    made: Callable[..., Any],
) -> None:
    one, other = parse("abs(W)"), parse("mul(abs(W), x_norm)")
    with made() as evaluator:
        model = evaluator.loaded.model
        masks = [evaluator.decide(formula).masks for formula in (one, other)]
        weights = {name: model.get_parameter(f"{name}.weight") for name in masks[0]}
        differing = sum(
            int((unpack(masks[0][n], w) != unpack(masks[1][n], w)).sum())
            for n, w in weights.items()
        )
        share = evaluator.difference(one, other)
        assert share == evaluator.difference(other, one)
        assert share == differing / sum(weight.numel() for weight in weights.values())
        assert 0 < share < 0.5
        assert evaluator.difference(one, one) == 0.0
        assert (share > 0) == (evaluator.identity(one) != evaluator.identity(other))


def test_what_has_no_masks_differs_from_all_that_has(made: Callable[..., Any]) -> None:
    endless = parse("mul(1e38, mul(1e38, add(1, square(W))))")
    with made() as evaluator:
        assert isinstance(evaluator.identity(endless), Failed)
        assert evaluator.difference(endless, parse("W")) == 1.0
        assert evaluator.difference(parse("W"), endless) == 1.0
        assert evaluator.difference(endless, endless) == 0.0


def test_predictions_differ_on_networks_that_no_fingerprint_sees(
    predicting: PredictionEvaluator,
) -> None:
    texts = ("params", "layers_sum(all_norm(W))", "neg(params)", "n_layers")
    everyone = [*predicting.search.tolist(), *predicting.unseen.tolist()]
    assert len(everyone) > len(predicting._probed)
    found = predicting.scorer().scores([parse(text) for text in texts], everyone)
    scores = [np.asarray(score) for score in found]
    for a, text in zip(scores, texts, strict=True):
        for b, other in zip(scores, texts, strict=True):
            ways = [
                sum(np.sign(a[i] - a[j]) != way * np.sign(b[i] - b[j]) for i, j in _pairs(len(a)))
                for way in (1, -1)
            ]
            share = predicting.difference(parse(text), parse(other))
            assert share == pytest.approx(min(ways) / len(_pairs(len(a))))
    assert predicting.difference(parse("params"), parse("neg(params)")) == 0.0
    assert predicting.difference(parse("params"), parse("n_layers")) > 0.0


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(i)]


def test_an_evaluator_need_not_tell_it() -> None:
    assert not hasattr(ToyEvaluator, "difference")
