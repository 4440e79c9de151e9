"""The search: what decides it, what it may spend, and that replay ends where it would have."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoproxy.breeding import variation
from autoproxy.breeding.grammar import Grammar
from autoproxy.evaluation import Direction, Failed, Fingerprint, Individual, Objective, Outcome
from autoproxy.language.canonical import canonical, key
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.types import Kind
from autoproxy.search import loop, proposals
from autoproxy.search.config import SearchConfig
from autoproxy.search.loop import Search, finalists
from autoproxy.search.proposals import Parents, Proposer
from autoproxy.search.state import Archive, SearchState
from autoproxy.sieve.rules import Dropped
from autoproxy.sieve.sieve import Sieve
from autoproxy.spaces import Baseline, SearchSpace
from tests.autoproxy.search.memories import DictMemory, Interrupted, without_time
from tests.conformance.toy import ToyEvaluator

SPACE = SearchSpace(
    name="small",
    root=Kind.WEIGHT,
    terminals={"W": 3, "x_norm": 3, "y_norm": 1, "g": 1},
    primitives={"mul": 3, "add": 1, "div": 1, "abs": 2, "sqrt": 1, "pow": 1, "row_mean": 1},
    constants=(0.5, 2.0),
    exponents=(0.5, -1.0, 3.0),
    max_size=12,
    max_depth=6,
    baselines=(
        Baseline("magnitude", "abs(W)", "here"),
        Baseline("wanda", "mul(abs(W), x_norm)", "here"),
        Baseline("too-large", "add(" * 20 + "W" + ", W)" * 20, "here"),
    ),
)
CONFIG = SearchConfig(
    seed=0,
    islands=1,
    lag=0,
    lifespan=0,
    tune=0.0,
    evaluations=14.0,
    population=6,
    batch=8,
    first_batch=16,
    crossover=0.5,
    immigrants=0.1,
    tournament=3,
    tries=4,
    selection="nsga2",
    promote=0.4,
    finalists=3,
    seeds=False,
)


def search(
    config: SearchConfig = CONFIG,
    memory: DictMemory | None = None,
    evaluator: ToyEvaluator | None = None,
    **options: Any,
) -> SearchState:
    """Run a whole search on the toy and return its last state."""
    loop_ = Search(SPACE, evaluator or ToyEvaluator(), memory or DictMemory(), config, **options)
    *_, last = loop_.run()
    return last


# --- what decides a run ------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["evolve", "random"])
@pytest.mark.parametrize("selection", ["nsga2", "best"])
def test_the_same_seed_gives_the_same_archive(strategy: str, selection: str) -> None:
    config = replace(CONFIG, strategy=strategy, selection=selection)
    first, second = DictMemory(), DictMemory()
    random.seed(1)  # noqa: TID251 - the surroundings must not matter
    one = search(config, first)
    random.seed(2)  # noqa: TID251
    torch.manual_seed(3)
    assert search(config, second) == one
    assert second.fates == first.fates
    assert len(one.archive) > 3


def test_another_seed_gives_another_archive() -> None:
    texts = [
        tuple(str(i.expression) for i in search(replace(CONFIG, seed=seed)).archive)
        for seed in range(4)
    ]
    assert len(set(texts)) == 4


def test_every_kind_of_birth_happens() -> None:
    memory = DictMemory()
    search(replace(CONFIG, evaluations=60, seeds=True), memory)
    origins = Counter(fate.proposal.origin for fate in memory.fates)
    assert set(origins) >= {"seed", "random", "crossover", *proposals.MUTATIONS}


def test_the_surroundings_are_left_alone() -> None:
    before = random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002
    search()
    after = random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert after == before


def test_states_can_be_gone_on_with_from_any_generation_of_the_same_loop() -> None:
    """The loop is a generator: whoever holds it may stop between generations and go on."""
    whole = list(Search(SPACE, ToyEvaluator(), DictMemory(), CONFIG).run())
    paused = Search(SPACE, ToyEvaluator(), DictMemory(), CONFIG).run()
    assert [next(paused), *paused] == whole
    generations = [state.generation for state in whole]
    assert generations == list(range(1, len(whole) + 1))
    for before, after in itertools.pairwise(whole):
        assert after.archive[: len(before.archive)] == tuple(before.archive)
        assert after.slot > before.slot
        assert before.finished is None
    assert whole[-1].finished


# --- what becomes of proposals -----------------------------------------------------------------


def test_every_slot_has_one_fate_until_the_end() -> None:
    memory = DictMemory()
    state = search(memory=memory)
    slots = [fate.proposal.slot for fate in memory.fates]
    assert len(set(slots)) == len(slots)
    before_last = {f.proposal.slot for f in memory.fates if f.generation < state.generation - 1}
    assert before_last == set(range(max(before_last) + 1))
    measured = [fate for fate in memory.fates if fate.fate == "measured"]
    assert [(f.key, f.value) for f in measured] == [(i.key, i.value) for i in state.archive]
    for fate in memory.fates:
        assert (fate.rule is not None) == (fate.fate == "dropped")
        assert (fate.reason is not None) == (fate.fate in {"dropped", "failed"})
        assert fate.fate == "dropped" or fate.key == key(fate.expression)


def test_what_is_measured_is_canonical_new_and_of_the_space() -> None:
    state = search(replace(CONFIG, evaluations=30))
    keys = [individual.key for individual in state.archive]
    assert len(set(keys)) == len(keys)
    for individual in state.archive:
        assert individual.expression == canonical(individual.expression)
        assert kind_of(individual.expression) is Kind.WEIGHT
        assert SPACE.violation(individual.expression) is None


def test_parents_were_measured_before_their_children() -> None:
    state = search(replace(CONFIG, evaluations=40))
    seen: set[str] = set()
    by_slot = sorted(state.archive, key=lambda individual: individual.slot)
    bred = 0
    for individual in by_slot:
        assert set(individual.parents) <= seen
        bred += bool(individual.parents)
        seen.add(individual.key)
    assert bred > 3


def test_a_failure_is_told_and_never_enters_the_population(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_on_inputs(self: ToyEvaluator, expressions: Any, fidelity: float) -> Any:
        for expression in expressions:
            if "x_norm" in str(expression):
                yield Failed("its output is not finite")
            else:
                yield from measure(self, [expression], fidelity)

    measure = ToyEvaluator.measure
    monkeypatch.setattr(ToyEvaluator, "measure", fail_on_inputs)
    memory = DictMemory()
    state = search(memory=memory)
    failed = [fate for fate in memory.fates if fate.fate == "failed"]
    assert failed
    assert all("x_norm" in str(f.expression) and f.value is None for f in failed)
    assert {f.reason for f in failed} == {"its output is not finite"}
    assert not any("x_norm" in str(i.expression) for i in (*state.archive, *state.population))


# --- the ladder and the budget -----------------------------------------------------------------


@pytest.mark.parametrize("evaluations", [1.0, 3.0, 7.5, 20.0])
@pytest.mark.parametrize("strategy", ["evolve", "random"])
def test_the_budget_is_kept_and_charged(evaluations: float, strategy: str) -> None:
    evaluator = ToyEvaluator()
    state = search(replace(CONFIG, evaluations=evaluations, strategy=strategy), evaluator=evaluator)
    charged = sum(dict(evaluator.measured).values())  # of each candidate, its dearest measurement
    assert state.spent == pytest.approx(charged)
    # The last measurement may be a full one; no other may begin once the budget is spent.
    assert evaluations <= charged < evaluations + 1
    assert state.finished == "the budget of evaluations is spent"


def test_one_rung_costs_one_each() -> None:
    evaluator = ToyEvaluator(rungs=(1.0,))
    state = search(replace(CONFIG, evaluations=9), evaluator=evaluator)
    assert state.spent == len(evaluator.measured) == len(state.archive) == 9
    assert state.screened == ()


class Contrary(ToyEvaluator):
    """Wants the loss to be large."""

    objective = Objective("loss", "output squared", Direction.MAXIMIZE)


@pytest.mark.parametrize("kind", [ToyEvaluator, Contrary])
def test_the_cheap_rung_lets_the_best_share_through(kind: type[ToyEvaluator]) -> None:
    memory = DictMemory()
    evaluator = kind()
    search(replace(CONFIG, evaluations=30), memory, evaluator)
    cheap = {text: n for n, (text, fidelity) in enumerate(evaluator.measured) if fidelity < 1}
    for number, (text, fidelity) in enumerate(evaluator.measured):
        if fidelity == 1:
            assert cheap[text] < number  # nobody skips it
    first = [f for f in memory.fates if f.generation == 0 and f.fate in {"screened", "measured"}]
    low = {f.key: memory.known[f.key, loop.content_hash(evaluator.protocol()), 0.25] for f in first}
    values = {key: kind.objective.sign * outcome_value(low[key]) for key in low}
    bar = sorted(values.values())[max(1, round(CONFIG.promote * len(values))) - 1]
    for fate in first:
        assert (fate.fate == "measured") == (values[fate.key] <= bar), str(fate.expression)


@pytest.mark.parametrize("kind", [ToyEvaluator, Contrary])
def test_the_best_of_all_generations_stay(kind: type[ToyEvaluator]) -> None:
    config = replace(CONFIG, selection="best", evaluations=40)
    states = list(Search(SPACE, kind(), DictMemory(), config).run())
    assert len(states) > 3
    for state in states:
        signed = sorted(kind.objective.sign * i.value for i in state.archive)
        kept = sorted(kind.objective.sign * i.value for i in state.population)
        assert kept == signed[: config.population]


def test_the_front_of_all_generations_stays() -> None:
    """By `nsga2` nobody of the population is beaten in value and complexity by one who left."""
    config = replace(CONFIG, evaluations=40)
    for state in Search(SPACE, ToyEvaluator(), DictMemory(), config).run():
        staying = {i.key for i in state.population}
        for left in (i for i in state.archive if i.key not in staying):
            assert not all(
                left.value <= i.value and left.complexity <= i.complexity for i in state.population
            )
        best = state.best
        assert best is None or best.value in {i.value for i in state.population}


def test_recalled_values_are_charged_as_if_measured() -> None:
    memory = DictMemory()
    cold = search(memory=memory)
    evaluator = ToyEvaluator()
    warm = search(memory=DictMemory(known=dict(memory.known)), evaluator=evaluator)
    assert warm == cold
    assert evaluator.measured == []


def test_the_clock_ends_a_run_at_a_slot() -> None:
    asked = itertools.count()
    evaluator = ToyEvaluator()
    state = search(evaluator=evaluator, stop=lambda: "the time is up" if next(asked) >= 4 else None)
    assert state.finished == "the time is up"
    assert len(evaluator.measured) == 5


def test_a_space_with_nothing_more_to_say_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(SPACE, terminals={"W": 1}, primitives={"abs": 1}, max_size=2, baselines=())
    found = Search(bare, ToyEvaluator(), DictMemory(), replace(CONFIG, evaluations=1e6)).run()
    *_, last = found
    assert last.finished
    assert "nothing new" in last.finished
    assert {str(i.expression) for i in last.archive} <= {"W", "abs(W)"}


def test_what_a_cheap_rung_stops_is_new_all_the_same() -> None:
    """One candidate a generation: few of a hundred are measured in full, and the search goes on."""
    config = replace(CONFIG, batch=1, promote=0.01, evaluations=30.0)
    memory = DictMemory()
    state = search(config, memory)
    assert state.finished == "the budget of evaluations is spent"
    full = {f.generation for f in memory.fates if f.fate == "measured"}
    gaps = [later - sooner for sooner, later in itertools.pairwise(sorted(full))]
    assert max(gaps) > loop._IDLE_GENERATIONS


# --- strategies --------------------------------------------------------------------------------


def test_random_search_uses_no_breeding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("random search must not breed")

    ways = {name for name in vars(proposals) if getattr(variation, name, None)} - {"sprout"}
    assert ways >= {"cross", "mutate", "MUTATIONS"}
    for name in (*ways, "tournament"):
        monkeypatch.setattr(proposals, name, refuse)
    memory = DictMemory()
    state = search(replace(CONFIG, strategy="random", evaluations=20), memory)
    assert {fate.proposal.origin for fate in memory.fates} == {"random"}
    assert all(individual.parents == () for individual in state.archive)
    with pytest.raises(AssertionError, match="must not breed"):
        search()


def test_random_search_proposes_whatever_was_found_before() -> None:
    """Its draws do not depend on values: another evaluator, the same first proposals."""
    config = replace(CONFIG, strategy="random", evaluations=30)
    first, second = DictMemory(), DictMemory()
    search(config, first)
    search(config, second, Contrary())
    texts = [{f.proposal.slot: f.proposal.expression for f in m.fates} for m in (first, second)]
    both = set(texts[0]) & set(texts[1])
    assert len(both) > 40
    assert all(texts[0][slot] == texts[1][slot] for slot in both)


def test_hand_made_metrics_start_only_where_asked() -> None:
    memory = DictMemory()
    search(replace(CONFIG, seeds=True), memory)
    seeds = [f.proposal for f in memory.fates if f.proposal.origin == "seed"]
    # The one that is too large for the space is left out.
    assert {str(p.expression) for p in seeds} == {"abs(W)", "mul(abs(W), x_norm)"}
    assert {p.slot for p in seeds} == {0, 1}
    without = DictMemory()
    search(memory=without)
    assert all(fate.proposal.origin != "seed" for fate in without.fates)


def test_evolution_finds_what_the_toy_rewards() -> None:
    """With the same budget it beats random search in most seeds; it would not by luck."""
    wins = 0
    for seed in range(5):
        config = replace(CONFIG, seed=seed, evaluations=40, selection="best")
        bred = search(config).best
        drawn = search(replace(config, strategy="random")).best
        assert bred
        assert drawn
        wins += bred.value <= drawn.value
    assert wins >= 4


def test_a_slot_draws_again_until_its_proposal_is_new() -> None:
    shares = []
    for tries in (1, 12):
        memory = DictMemory()
        search(replace(CONFIG, tries=tries, evaluations=30), memory)
        rules = Counter(fate.rule for fate in memory.fates)
        shares.append((rules["repeat"] + rules["same-algebra"]) / len(memory.fates))
    assert shares[1] < shares[0] / 2


def test_immigrants_and_children_come_in_the_share_that_is_asked() -> None:
    for immigrants, crossover in ((0.0, 1.0), (1.0, 1.0), (0.0, 0.0)):
        memory = DictMemory()
        config = replace(CONFIG, immigrants=immigrants, crossover=crossover, evaluations=40)
        search(config, memory)
        later = [fate.proposal for fate in memory.fates if fate.generation > 1]
        assert len(later) > 10
        for proposal in later:
            if immigrants:
                assert (proposal.origin, proposal.parents) == ("random", ())
            else:
                # Two parents are never one and the same.
                assert len(set(proposal.parents)) == (2 if crossover else 1)


@pytest.mark.parametrize("depth", [2, 3, 64])
def test_any_depth_that_a_space_may_have_is_drawn_from(depth: int) -> None:
    proposer = Proposer(Grammar(replace(SPACE, max_depth=depth)), CONFIG, ToyEvaluator.objective)
    drawn = [p.expression for p in proposer.propose(range(60), Parents(), str)]
    assert max(e.depth for e in drawn) == min(depth, 6)
    assert all(parse(str(e)) == e for e in drawn)


def test_a_population_of_one_formula_breeds_with_itself() -> None:
    """Where repetitions are let through, a population may end as copies of its best."""
    twins = tuple(Individual("abs(W)", "same", 2, 0.5, slot) for slot in range(3))
    config = replace(CONFIG, same="nothing", crossover=1.0, immigrants=0.0)
    proposer = Proposer(Grammar(SPACE), config, ToyEvaluator.objective)
    born = proposer.propose(range(10, 40), Parents(twins), str)
    assert {proposal.parents for proposal in born} == {("same", "same")}
    assert all(kind_of(proposal.expression) is Kind.WEIGHT for proposal in born)


# --- the sieve, as the search meets it ---------------------------------------------------------


class Stub(ToyEvaluator):
    """Sees in a formula what a table says."""

    seen: Mapping[str, tuple[str, str]] = {
        "abs(W)": ("order 1", "masks 1"),
        "abs(g)": ("order 2", "masks 1"),
        "mul(W, g)": ("order 1", "masks 2"),
        "add(W, g)": ("order 3", "masks 3"),
    }

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def behaviour(self, expressions: Any, reject: float = math.inf) -> Any:
        return [Fingerprint(self.seen[str(e)][0]) for e in expressions]

    def identity(self, expression: Any) -> str:
        self.asked.append(str(expression))
        return self.seen[str(expression)][1]


def test_what_does_the_same_is_dropped_by_the_cheapest_rule_that_sees_it() -> None:
    stub = Stub()
    texts = [*Stub.seen, "abs(neg(W))", "x_norm", "mul(2, abs(W))"]
    verdicts = Sieve(SPACE, stub).judge([(n, parse(text)) for n, text in enumerate(texts)])
    rules = [v.rule if isinstance(v, Dropped) else v.identity for v in verdicts]
    assert rules[:4] == ["masks 1", "same-mask", "same-order", "masks 3"]
    assert rules[4:] == ["repeat", "limits", rules[6]]
    assert rules[6] in {"repeat", "same-algebra"}
    assert stub.asked == ["abs(W)", "abs(g)", "add(W, g)"]  # masks only for what is left


# --- replay ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed() -> tuple[SearchState, DictMemory, list[tuple[str, float]]]:
    memory, evaluator = DictMemory(), ToyEvaluator()
    state = search(memory=memory, evaluator=evaluator)
    return state, memory, evaluator.measured


def test_interrupted_after_any_measurement_it_ends_the_same(
    undisturbed: tuple[SearchState, DictMemory, list[tuple[str, float]]],
) -> None:
    state, whole, measured = undisturbed
    for count in range(1, len(measured)):
        memory = DictMemory(patience=count)
        first = ToyEvaluator()
        with pytest.raises(Interrupted):
            search(memory=memory, evaluator=first)
        second = ToyEvaluator()
        replayed = DictMemory(known=dict(memory.known))
        assert search(memory=replayed, evaluator=second) == state
        # Nothing twice, nothing else, in the order that it would have had.
        assert first.measured + second.measured == measured
        assert replayed.fates == whole.fates
        assert replayed.fates[: len(memory.fates)] == memory.fates
        assert without_time(replayed.known) == without_time(whole.known)


@settings(max_examples=4)
@given(pauses=st.lists(st.integers(1, 6), min_size=2, max_size=12), seed=st.integers(0, 9))
def test_interrupted_again_and_again_it_ends_the_same(pauses: list[int], seed: int) -> None:
    config = replace(CONFIG, seed=seed)
    whole, memory = DictMemory(), DictMemory()
    state = search(config, whole)
    for pause in pauses:
        memory = DictMemory(known=memory.known, patience=pause)
        try:
            assert search(config, memory) == state
        except Interrupted:
            continue
        break
    assert search(config, DictMemory(known=memory.known)) == state
    assert without_time(memory.known) == without_time(whole.known)


def test_an_evaluator_that_breaks_loses_nothing() -> None:
    """A bug or a full memory card is no outcome: it goes up, and what was measured stays."""

    class Breaking(ToyEvaluator):
        def measure(self, expressions: Any, fidelity: float) -> Any:
            if len(self.measured) == 7:
                raise MemoryError
            return super().measure(expressions, fidelity)

    memory = DictMemory()
    with pytest.raises(MemoryError):
        search(memory=memory, evaluator=Breaking())
    assert len(memory.known) == 7
    evaluator = ToyEvaluator()
    whole = search()
    assert search(memory=DictMemory(known=memory.known), evaluator=evaluator) == whole
    assert len(evaluator.measured) == len(set(evaluator.measured))


def test_what_another_run_measured_changes_time_and_nothing_else() -> None:
    other = DictMemory()
    search(replace(CONFIG, seed=5), other)
    search(replace(CONFIG, seed=6), DictMemory(known=other.known))
    evaluator = ToyEvaluator()
    memory = DictMemory(known=dict(other.known))
    assert search(memory=memory, evaluator=evaluator) == search()
    assert memory.recalled > 0


# --- the end -----------------------------------------------------------------------------------


def individual(value: float, complexity: int = 1, slot: int = 0) -> Individual:
    return Individual("W", f"{value}{slot}", complexity, value, slot)


def test_finalists_are_the_best_by_value_then_the_simplest_then_the_first() -> None:
    archive = (
        individual(0.5, complexity=3, slot=0),
        individual(0.2, complexity=9, slot=1),
        individual(0.5, complexity=2, slot=2),
        individual(0.5, complexity=2, slot=3),
        individual(0.9, slot=4),
    )
    state = SearchState(archive=Archive(archive))
    assert [i.slot for i in finalists(state, 3, 1.0)] == [1, 2, 3]
    assert [i.slot for i in finalists(state, 2, -1.0)] == [4, 2]
    assert finalists(SearchState(), 3, 1.0) == ()


def outcome_value(outcome: Outcome) -> float:
    assert not isinstance(outcome, Failed)
    return outcome.value
