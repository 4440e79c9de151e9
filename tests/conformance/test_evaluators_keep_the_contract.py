"""Every evaluator of ours keeps the contract; and the contract catches those that break it."""

import functools
import gc
import itertools
import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest
import torch

from autoproxy.evaluation import Evaluator, Failed, Measured, Outcome
from autoproxy.language.blindness import Blindness
from autoproxy.language.expression import Expression
from evaluators import scoring
from evaluators.prediction import PredictionEvaluator
from evaluators.pruning import PruningEvaluator
from evaluators.several import SeveralEvaluator
from evaluators.shrinking import ShrinkingEvaluator
from tests.conformance.evaluator_contract import EvaluatorContract, Make
from tests.conformance.toy import ToyEvaluator
from tests.evaluators.tables import starter_rows, write
from tests.evaluators.tiny import hook_count, save, state, tiny_model, tiny_options


class PruningContract(EvaluatorContract):
    """The pruning evaluator on a tiny LLaMA, under the condition that a subclass asks for."""

    LEARNT = False
    KIND: type[PruningEvaluator] = PruningEvaluator
    condition: dict[str, str]

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory: pytest.TempPathFactory) -> Make:
        folder = tmp_path_factory.mktemp("pruning")
        options = tiny_options(folder, **cls.condition)
        return functools.partial(
            cls.KIND.from_options, options, cache=folder / "cache", notice=refuse
        )

    def state(self, evaluator: Evaluator) -> object:
        assert isinstance(evaluator, PruningEvaluator)
        model = evaluator.loaded.model
        flags = [parameter.requires_grad for parameter in model.parameters()]
        places = [parameter.data_ptr() for parameter in model.parameters()]
        return state(model), hook_count(model), flags, places, model.training

    def broken(self, evaluator: Evaluator) -> AbstractContextManager[object]:
        assert isinstance(evaluator, PruningEvaluator)
        last = evaluator.loaded.model.get_submodule("model.layers")[-1]  # type: ignore[index]
        return mock.patch.object(last, "forward", side_effect=RuntimeError("out of memory"))


class TestPruningHalfOfEachRow(PruningContract):
    condition = {"sparsity": "0.5", "group": "row"}  # noqa: RUF012


class TestPruningHalfOfEachMatrix(PruningContract):
    condition = {"sparsity": "0.5", "group": "matrix"}  # noqa: RUF012


class TestPruningHalfOfEachBlockOfColumns(PruningContract):
    condition = {"sparsity": "0.5", "group": "columns:8"}  # noqa: RUF012


class TestPruningHalfOfEachDecoderLayer(PruningContract):
    condition = {"sparsity": "0.5", "group": "layer"}  # noqa: RUF012


class TestPruningHalfOfTheModel(PruningContract):
    condition = {"sparsity": "0.5", "group": "model"}  # noqa: RUF012


class TestPruningBehindThePruned(PruningContract):
    condition = {"sparsity": "0.5", "mode": "sequential"}  # noqa: RUF012


class TestPruningByOutliers(PruningContract):
    condition = {"sparsity": "0.5", "allocation": "owl"}  # noqa: RUF012


class TestPruningAllottedByTheMetric(PruningContract):
    condition = {"sparsity": "0.5", "allocation": "metric"}  # noqa: RUF012


class TestPruningTwoOfFour(PruningContract):
    condition = {"pattern": "2:4"}  # noqa: RUF012


class ShrinkingContract(PruningContract):
    KIND = ShrinkingEvaluator
    ALIKE = (
        "x_norm",
        "mul(1, x_norm)",
        "mul(2, square(x_norm))",
        "square(x_norm)",
        "col_sum(abs(W))",
        "mul(x_var, col_sum(square(W)))",
        "neg(col_sum(mul(abs(W), x_norm)))",
    )
    BETTER = "col_sum(mul(abs(W), x_norm))"
    WORSE = "neg(col_sum(mul(abs(W), x_norm)))"
    CONSTANT = ("mul(0, x_norm)", "sub(x_norm, x_norm)", "tanh(add(100, square(x_norm)))")
    INFINITE = (
        "mul(1e38, mul(1e38, add(1, square(x_norm))))",
        "sub(mul(1e38, exp(add(80, x_norm))), mul(1e38, exp(add(81, x_norm))))",
    )


class TestShrinkingChannels(ShrinkingContract):
    condition = {"unit": "channels", "sparsity": "0.5"}  # noqa: RUF012


class TestShrinkingHeads(ShrinkingContract):
    """On a model whose first group of each layer says little, so that there is a right answer."""

    condition = {"unit": "heads", "sparsity": "0.5"}  # noqa: RUF012

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory: pytest.TempPathFactory) -> Make:
        folder = tmp_path_factory.mktemp("heads")
        model = tiny_model()
        for layer in model.model.layers:
            layer.self_attn.v_proj.weight[:4] *= 0.05
        options = tiny_options(folder, **cls.condition)
        save(folder / "tiny", model)
        return functools.partial(
            ShrinkingEvaluator.from_options, options, cache=folder / "cache", notice=refuse
        )


class TestShrinkingBlocks(ShrinkingContract):
    ALIKE = (
        "block_change",
        "mul(1, block_change)",
        "square(block_change)",
        "block_angle",
        "neg(block_angle)",
        "all_mean(abs(W))",
        "neg(block_index)",
    )
    BETTER = "block_change"
    WORSE = "neg(block_change)"
    CONSTANT = (
        "mul(0, block_change)",
        "sub(block_change, block_change)",
        "tanh(add(100, block_angle))",
    )
    INFINITE = (
        "mul(1e38, mul(1e38, add(1, block_change)))",
        "sub(mul(1e38, exp(add(80, block_index))), mul(1e38, exp(add(81, block_index))))",
    )
    condition = {"unit": "blocks", "sparsity": "0.5"}  # noqa: RUF012


class TestSeveralConditions(EvaluatorContract):
    """Half of each row, and 2:4, on one tiny LLaMA."""

    LEARNT = False

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory: pytest.TempPathFactory) -> Make:
        folder = tmp_path_factory.mktemp("several")
        options = tiny_options(folder, condition=["sparsity=0.5", "pattern=2:4"])
        return functools.partial(
            SeveralEvaluator.from_options, options, cache=folder / "cache", notice=refuse
        )

    def state(self, evaluator: Evaluator) -> object:
        assert isinstance(evaluator, SeveralEvaluator)
        one, other = evaluator.conditions
        assert one.loaded is other.loaded
        return state(one.loaded.model), hook_count(one.loaded.model)

    def broken(self, evaluator: Evaluator) -> AbstractContextManager[object]:
        assert isinstance(evaluator, SeveralEvaluator)
        layers = evaluator.conditions[0].loaded.model.get_submodule("model.layers")
        return mock.patch.object(layers[-1], "forward", side_effect=RuntimeError("out of memory"))  # type: ignore[index]


class TestPrediction(EvaluatorContract):
    """Orders of tiny decoders whose qualities grow with their size.

    A formula and its negative are one candidate of one value, but each keeps its own sign among
    the details, which the contract would take for a difference; `test_prediction_evaluator.py`
    has them.
    """

    ALIKE = (
        "n_layers",
        "square(n_layers)",
        "mul(3, params)",
        "params",
        "add(params, 1)",
        "layers_sum(all_norm(g))",
        "log(layers_sum(all_norm(g)))",
        "layers_mean(erank(W))",
    )
    BETTER = "mul(n_layers, width)"
    WORSE = "layers_mean(all_mean(W))"
    CONSTANT = (
        "mul(0, params)",
        "sub(layers_sum(all_norm(W)), layers_sum(all_norm(W)))",
        "tanh(add(100, square(layers_mean(all_mean(W)))))",
    )
    INFINITE = (
        "layers_sum(mul(1e38, mul(1e38, add(1, all_sum(square(W))))))",
        "layers_min(sub(mul(1e38, exp(add(80, all_max(W)))), mul(1e38, exp(add(81, all_max(W))))))",
    )

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory: pytest.TempPathFactory) -> Make:
        folder = tmp_path_factory.mktemp("prediction")
        table = write(folder / "table.csv", starter_rows())
        options = {"table": str(table), "objective": "tau", "sequences": 1, "tokens": 10}

        def made() -> PredictionEvaluator:
            evaluator = PredictionEvaluator.from_options(
                {**options, "unlabelled": 6}, cache=folder / "cache", notice=refuse
            )
            evaluator.prepare(frozenset({"W", "g"}))
            return evaluator

        return made

    def state(self, evaluator: Evaluator) -> object:
        assert isinstance(evaluator, PredictionEvaluator)
        split = evaluator.search, evaluator.validation, evaluator.unseen
        return evaluator.benchmark, evaluator.quality.tolist(), [part.tolist() for part in split]

    def broken(self, evaluator: Evaluator) -> AbstractContextManager[object]:
        return mock.patch.object(scoring, "combine", side_effect=RuntimeError("out of memory"))


class TestToy(EvaluatorContract):
    """The toy that the search's tests run on: their results hold for real evaluators too."""

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Make:
        return ToyEvaluator

    def state(self, evaluator: Evaluator) -> object:
        assert isinstance(evaluator, ToyEvaluator)
        return {
            name: {word: tensor.tolist() for word, tensor in values.items()}
            for name, values in evaluator.layers.items()
        }

    def broken(self, evaluator: Evaluator) -> AbstractContextManager[object]:
        return mock.patch.object(ToyEvaluator, "_loss", side_effect=RuntimeError("no"))


def refuse(notice: str) -> None:
    raise AssertionError(f"nothing was to be mended, but: {notice}")


# --- the contract bites ------------------------------------------------------------------------


class Drifting(ToyEvaluator):
    """Gives another value at each call."""

    count = itertools.count()

    def _loss(self, masks: Any, number: int) -> float:
        return super()._loss(masks, number) + 1e-9 * next(self.count)


class Swapped(ToyEvaluator):
    """Gives outcomes in another order."""

    def measure(self, expressions: Any, fidelity: float) -> Iterator[Outcome]:
        yield from list(super().measure(expressions, fidelity))[::-1]


class Upside(ToyEvaluator):
    """Keeps what it should drop."""

    def _masks(self, expression: Expression) -> Any:
        masks = super()._masks(expression)
        return masks if isinstance(masks, Failed) else {k: ~mask for k, mask in masks.items()}


class Raising(ToyEvaluator):
    """Raises where a formula is not finite."""

    def _masks(self, expression: Expression) -> Any:
        masks = super()._masks(expression)
        if isinstance(masks, Failed):
            raise ValueError(masks.reason)  # noqa: TRY004 - what it is here to do wrong
        return masks


class Numbering(ToyEvaluator):
    """Hands out a number for a failure."""

    def measure(self, expressions: Any, fidelity: float) -> Iterator[Outcome]:
        for outcome in super().measure(expressions, fidelity):
            yield Measured(1e9, fidelity) if isinstance(outcome, Failed) else outcome


class Careless(ToyEvaluator):
    """Leaves pruned weights behind when it is stopped or fails."""

    def measure(self, expressions: Any, fidelity: float) -> Iterator[Outcome]:
        for expression in expressions:
            before = self.layers["first"]["W"].clone()
            self.layers["first"]["W"].mul_(1.0001)
            yield from super().measure([expression], fidelity)
            self.layers["first"]["W"].copy_(before)


class Seeding(ToyEvaluator):
    """Draws from a generator that is not its own."""

    def behaviour(self, expressions: Any, reject: float = math.inf) -> Any:
        torch.rand(1)
        return super().behaviour(expressions)


class Shuffling(ToyEvaluator):
    """Confirms on other blocks each time."""

    def confirm(self, expression: Expression) -> tuple[float, ...]:
        return super().confirm(expression)[next(self.turns) % 2 :]

    turns = itertools.count()


class Blinder(ToyEvaluator):
    """Says that it cannot see what it sees."""

    def _masks(self, expression: Expression) -> Any:
        masks = super()._masks(expression)
        if "y_norm" in str(expression) and not isinstance(masks, Failed):
            masks["first"] = ~masks["first"]
        return masks


class Batching(ToyEvaluator):
    """Lets the first formula of a batch decide for all."""

    def behaviour(self, expressions: Any, reject: float = math.inf) -> Any:
        found = super().behaviour(expressions)
        return [found[0] if i == 6 else f for i, f in enumerate(found)]


class Forgetful(ToyEvaluator):
    """Puts what does not determine a value into its protocol."""

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), "now": random.SystemRandom().random(), "pid": os.getpid()}


class Downward(ToyEvaluator):
    """Has its dearest rung first."""

    fidelities = (1.0, 0.25)

    def __init__(self) -> None:
        super().__init__()
        self.fidelities = (1.0, 0.25)


class Coarse(ToyEvaluator):
    """Takes all masks for one."""

    def identity(self, expression: Expression) -> str | Failed:
        found = super().identity(expression)
        return found if isinstance(found, Failed) else "same"


BROKEN: dict[type[ToyEvaluator], str] = {
    Drifting: "test_the_same_bits_again",
    Swapped: "test_the_same_bits_again",
    Upside: "test_good_is_better_than_bad",
    Raising: "test_what_is_not_finite_fails_with_a_reason",
    Numbering: "test_what_is_not_finite_fails_with_a_reason",
    Careless: "test_everything_is_given_back_when_the_caller_stops",
    Seeding: "test_everything_is_given_back",
    Shuffling: "test_finalists_meet_the_same_fresh_blocks",
    Blinder: "test_it_is_as_blind_as_it_says",
    Batching: "test_behaviour_does_not_depend_on_the_batch",
    Forgetful: "test_the_protocol_is_json_and_does_not_change",
    Downward: "test_fidelities_rise_to_one",
    Coarse: "test_one_identity_one_value",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda kind: kind.__name__)
def test_the_contract_catches(broken: type[ToyEvaluator]) -> None:
    contract = TestToy()
    test: Callable[..., None] = getattr(contract, BROKEN[broken])
    wanted = test.__func__.__code__.co_varnames[1 : test.__func__.__code__.co_argcount]  # type: ignore[attr-defined]
    given = {"evaluator": broken(), "make": broken}
    with pytest.raises((AssertionError, ValueError)):
        test(**{name: given[name] for name in wanted})
    gc.collect()  # a generator that was stopped half-way


def test_whoever_compares_matrices_is_not_blind_to_rows() -> None:
    """The two conditions of the pruning evaluator differ in what the algebra may drop."""
    contract = TestToy()

    class Overstating(ToyEvaluator):
        blindness = Blindness.NOTHING

    with pytest.raises(AssertionError):
        contract.test_it_is_as_blind_as_it_says(Overstating())
