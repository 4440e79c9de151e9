"""The contract of an evaluator, as tests to subclass; CONTRIBUTING.md says how."""

import json
import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import combinations

import numpy as np
import pytest
import torch

from autoproxy.evaluation import Evaluator, Failed, Fingerprint, Measured, Outcome, content_hash
from autoproxy.language.canonical import order_key
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.language.terminals import VOCABULARY

Make = Callable[[], AbstractContextManager[Evaluator]]


class EvaluatorContract:
    """Subclass it under a name that begins with `Test`, give `make` and `state`, and run it.

    Attributes:
        ALIKE: Formulas of which some give the same masks, some do not.
        BETTER: One that any sound objective prefers to `WORSE`.
        WORSE: See `BETTER`.
        LEARNT: Whether what is pruned has learnt something, so that its losses tell good from bad.
        CONSTANT: Formulas that rate every weight the same.
        INFINITE: Formulas with values that are not finite.
    """

    ALIKE = (
        "abs(W)",
        "square(W)",
        "mul(3, abs(W))",
        "mul(abs(W), y_norm)",
        "row_zscore(abs(W))",
        "minmax(abs(W))",
        "mul(abs(W), x_norm)",
        "neg(abs(W))",
    )
    BETTER = "mul(abs(W), x_norm)"
    WORSE = "neg(mul(abs(W), x_norm))"
    LEARNT = True
    CONSTANT = ("mul(0, W)", "sub(W, W)", "tanh(add(100, square(W)))")
    INFINITE = (
        "mul(1e38, mul(1e38, add(1, square(W))))",
        "sub(mul(1e38, exp(add(80, square(W)))), mul(1e38, exp(add(81, square(W)))))",
    )

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Make:
        """Return a function that makes the evaluator, anew at each call."""
        raise NotImplementedError

    def state(self, evaluator: Evaluator) -> object:
        """Return all that measuring might change, as a value that compares by content."""
        raise NotImplementedError

    def broken(self, evaluator: Evaluator) -> AbstractContextManager[object]:
        """Return a context in which measuring raises a `RuntimeError` half-way."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls, make: Make) -> Iterator[Evaluator]:
        """Give one evaluator to all tests: nothing that they do may change what it measures."""
        with make() as evaluator:
            yield evaluator

    # --- what it says of itself ------------------------------------------------------------

    def test_fidelities_rise_to_one(self, evaluator: Evaluator) -> None:
        rungs = evaluator.fidelities
        assert rungs[-1] == 1.0
        assert list(rungs) == sorted(set(rungs))
        assert all(0 < rung <= 1 for rung in rungs)

    def test_the_objective_has_a_name_and_a_unit(self, evaluator: Evaluator) -> None:
        assert evaluator.objective.name
        assert evaluator.objective.unit

    def test_it_provides_words_of_the_vocabulary(self, evaluator: Evaluator) -> None:
        assert evaluator.provides
        assert evaluator.provides <= set(VOCABULARY)

    def test_the_protocol_is_json_and_does_not_change(
        self, evaluator: Evaluator, make: Make
    ) -> None:
        before = json.dumps(evaluator.protocol(), allow_nan=False)
        list(evaluator.measure([parse(self.BETTER)], 1.0))
        assert json.loads(before) == evaluator.protocol()
        with make() as other:
            assert content_hash(other.protocol()) == content_hash(evaluator.protocol())

    # --- values ----------------------------------------------------------------------------

    def test_the_same_bits_again(self, evaluator: Evaluator, make: Make) -> None:
        expressions = [parse(text) for text in self.ALIKE]
        for fidelity in evaluator.fidelities:
            first = list(evaluator.measure(expressions, fidelity))
            assert [values_of(o) for o in evaluator.measure(expressions, fidelity)] == [
                values_of(o) for o in first
            ]
            with make() as other:
                alone = [next(iter(other.measure([e], fidelity))) for e in reversed(expressions)]
            assert [values_of(o) for o in reversed(alone)] == [values_of(o) for o in first]

    def test_one_outcome_each_with_its_fidelity(self, evaluator: Evaluator) -> None:
        expressions = [parse(text) for text in (self.BETTER, *self.INFINITE, self.WORSE)]
        for fidelity in evaluator.fidelities:
            outcomes = list(evaluator.measure(expressions, fidelity))
            kinds = [Measured, *[Failed] * len(self.INFINITE), Measured]
            assert [type(outcome) for outcome in outcomes] == kinds
            assert {o.fidelity for o in outcomes if isinstance(o, Measured)} == {fidelity}
            assert all(o.seconds >= 0 for o in outcomes)
        assert list(evaluator.measure([], 1.0)) == []
        assert list(evaluator.behaviour([])) == []

    def test_good_is_better_than_bad(self, evaluator: Evaluator) -> None:
        for fidelity in evaluator.fidelities:
            good, bad = evaluator.measure([parse(self.BETTER), parse(self.WORSE)], fidelity)
            assert isinstance(good, Measured)
            assert isinstance(bad, Measured)
            assert evaluator.objective.better(good.value, bad.value)
        losses = [math.fsum(evaluator.confirm(parse(t))) for t in (self.BETTER, self.WORSE)]
        assert losses[0] < losses[1] or not self.LEARNT

    def test_details_are_numbers(self, evaluator: Evaluator) -> None:
        (outcome,) = evaluator.measure([parse(self.BETTER)], 1.0)
        assert isinstance(outcome, Measured)
        for name, value in outcome.details.items():
            assert isinstance(name, str)
            assert isinstance(value, float)
            assert math.isfinite(value)

    # --- hopeless formulas -----------------------------------------------------------------

    def test_what_is_not_finite_fails_with_a_reason(self, evaluator: Evaluator) -> None:
        for text in self.INFINITE:
            expression = parse(text)
            (probed,) = evaluator.behaviour([expression])
            found = [probed, evaluator.identity(expression)]
            found += [
                next(iter(evaluator.measure([expression], fidelity)))
                for fidelity in evaluator.fidelities
            ]
            for outcome in found:
                assert isinstance(outcome, Failed), text
                assert "finite" in outcome.reason

    def test_what_is_constant_is_hopeless_and_never_raises(self, evaluator: Evaluator) -> None:
        for text in self.CONSTANT:
            (probed,) = evaluator.behaviour([parse(text)])
            assert isinstance(probed, Failed), text
            assert probed.reason
            (outcome,) = evaluator.measure([parse(text)], 1.0)
            assert isinstance(outcome, Measured | Failed)

    # --- sameness --------------------------------------------------------------------------

    def test_one_identity_one_value(self, evaluator: Evaluator) -> None:
        identities = {text: evaluator.identity(parse(text)) for text in self.ALIKE}
        same = 0
        for a, b in combinations(self.ALIKE, 2):
            if identities[a] != identities[b]:
                continue
            same += 1
            for fidelity in evaluator.fidelities:
                first, second = evaluator.measure([parse(a), parse(b)], fidelity)
                assert values_of(first) == values_of(second), (a, b)
            assert list(evaluator.confirm(parse(a))) == list(evaluator.confirm(parse(b)))
        assert same > 0
        assert len(set(identities.values())) > 1

    def test_it_is_as_blind_as_it_says(self, evaluator: Evaluator) -> None:
        """What the algebra takes for one order gives the same masks."""
        keys = {text: order_key(parse(text), evaluator.blindness) for text in self.ALIKE}
        pairs = [(a, b) for a, b in combinations(self.ALIKE, 2) if keys[a] == keys[b]]
        assert pairs
        for a, b in pairs:
            assert evaluator.identity(parse(a)) == evaluator.identity(parse(b)), (a, b)
            first, second = evaluator.behaviour([parse(a), parse(b)])
            assert first == second, (a, b)

    def test_behaviour_tells_apart_what_gives_other_masks(self, evaluator: Evaluator) -> None:
        """Else the search would drop the one for the other, unseen."""
        expressions = [parse(text) for text in self.ALIKE]
        probed = list(evaluator.behaviour(expressions))
        for (a, one), (b, other) in combinations(zip(self.ALIKE, probed, strict=True), 2):
            if evaluator.identity(parse(a)) != evaluator.identity(parse(b)):
                assert one != other, (a, b)

    def test_behaviour_does_not_depend_on_the_batch(self, evaluator: Evaluator) -> None:
        texts = (*self.ALIKE, *self.INFINITE, *self.CONSTANT)
        expressions = [parse(text) for text in texts]
        together = list(evaluator.behaviour(expressions))
        alone = [next(iter(evaluator.behaviour([e]))) for e in expressions]
        backwards = list(evaluator.behaviour(expressions[::-1]))[::-1]
        assert together == alone == backwards
        assert all(isinstance(b, Fingerprint) for b in together[: len(self.ALIKE)])
        assert len(set(together[: len(self.ALIKE)])) > 1

    def test_a_probe_that_is_given_up_says_a_distortion_above_the_limit(
        self, evaluator: Evaluator
    ) -> None:
        expressions = [parse(text) for text in (*self.ALIKE, self.BETTER, self.WORSE)]
        whole = evaluator.behaviour(expressions)
        for limit in (0.5, 1.0, 1.4, 3.0):
            for full, early in zip(whole, evaluator.behaviour(expressions, limit), strict=True):
                assert isinstance(full, Fingerprint)
                assert isinstance(early, Fingerprint)
                if full.distortion is None or full.distortion <= limit:
                    assert early == full
                else:
                    assert early.distortion is not None
                    assert limit < early.distortion <= full.distortion

    def test_finalists_meet_the_same_fresh_blocks(self, evaluator: Evaluator) -> None:
        good, bad = parse(self.BETTER), parse(self.WORSE)
        first = tuple(evaluator.confirm(good))
        other = tuple(evaluator.confirm(bad))
        assert len(first) == len(other) >= 1
        assert all(map(math.isfinite, (*first, *other)))
        assert tuple(evaluator.confirm(good)) == first

    # --- what is borrowed ------------------------------------------------------------------

    def test_everything_is_given_back(self, evaluator: Evaluator) -> None:
        before = self.state(evaluator), surroundings()
        use_fully(evaluator, [parse(t) for t in (*self.ALIKE, *self.INFINITE, *self.CONSTANT)])
        assert self.state(evaluator) == before[0]
        assert surroundings() == before[1]

    def test_everything_is_given_back_when_the_caller_stops(self, evaluator: Evaluator) -> None:
        before = self.state(evaluator)
        outcomes = evaluator.measure([parse(text) for text in self.ALIKE], 1.0)
        next(outcomes)
        assert self.state(evaluator) == before  # it pauses with clean hands
        del outcomes
        assert self.state(evaluator) == before

    def test_everything_is_given_back_after_an_error(self, evaluator: Evaluator) -> None:
        expression = parse(self.BETTER)
        (before,) = evaluator.measure([expression], 1.0)
        losses = tuple(evaluator.confirm(expression))
        state, around = self.state(evaluator), surroundings()
        with self.broken(evaluator):
            for fidelity in evaluator.fidelities:
                with pytest.raises(RuntimeError):
                    list(evaluator.measure([expression], fidelity))
            with pytest.raises(RuntimeError):
                list(evaluator.confirm(expression))
        assert self.state(evaluator) == state
        assert surroundings() == around
        (after,) = evaluator.measure([expression], 1.0)
        assert values_of(after) == values_of(before)
        assert tuple(evaluator.confirm(expression)) == losses


def values_of(outcome: Outcome) -> object:
    """Return all of an outcome but the time that it took."""
    if isinstance(outcome, Failed):
        return outcome.reason
    return outcome.value, outcome.fidelity, dict(outcome.details)


def surroundings() -> object:
    """Return the state of the process that an evaluator has no business to change."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - it is watched, not used
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        (kind, np.asarray(keys).tolist(), rest),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )


def use_fully(evaluator: Evaluator, expressions: list[Expression]) -> None:
    """Ask an evaluator for all that a search asks."""
    list(evaluator.behaviour(expressions))
    for expression in expressions:
        evaluator.identity(expression)
    for fidelity in evaluator.fidelities:
        outcomes = list(evaluator.measure(expressions, fidelity))
    for expression, outcome in zip(expressions, outcomes, strict=True):
        if isinstance(outcome, Measured):
            evaluator.confirm(expression)
