"""Several generations at once, islands, and resuming from the record of whole generations."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoproxy.breeding.constants import shape_of
from autoproxy.evaluation import Individual, Measured
from autoproxy.search import breeder
from autoproxy.search.config import SearchConfig
from autoproxy.search.loop import Search
from autoproxy.search.state import SearchState, Step
from tests.autoproxy.search.desks import ShuffledDesk
from tests.autoproxy.search.memories import DictMemory, Interrupted
from tests.autoproxy.search.test_search_repeats_itself import CONFIG, SPACE
from tests.conformance.toy import ToyEvaluator

EIGHTHS = tuple(n / 8 for n in range(1, 9))
WAYS: dict[str, dict[str, Any]] = {
    "one after another": {},
    "one ahead": {"lag": 1},
    "two islands": {"islands": 2, "lag": 1, "migration": 2},
    "three ahead of two islands": {"islands": 2, "lag": 3, "migration": 1, "lifespan": 2},
}


def search(config: SearchConfig, memory: DictMemory, **options: Any) -> SearchState:
    evaluator = options.pop("evaluator", None) or ToyEvaluator(rungs=EIGHTHS)
    *_, last = Search(SPACE, evaluator, memory, config, **options).run()
    return last


def config_of(way: str, **changes: Any) -> SearchConfig:
    return replace(CONFIG, **{"evaluations": 16.0, **WAYS[way], **changes})


def fates_of(memory: DictMemory) -> dict[int, Any]:
    """Return the fates by slot: those of a generation under way are told before others' end."""
    return {fate.proposal.slot: fate for fate in memory.fates}


@pytest.mark.parametrize("rungs", [(1.0,), (0.25, 1.0), EIGHTHS])
@pytest.mark.parametrize("evaluations", [5.0, 20.0])
def test_workers_measure_nothing_beyond_the_budget(
    rungs: tuple[float, ...], evaluations: float
) -> None:
    config = replace(CONFIG, evaluations=evaluations, batch=16, first_batch=48)
    alone, many = ToyEvaluator(rungs=rungs), ToyEvaluator(rungs=rungs)
    whole = search(config, DictMemory(), evaluator=alone)
    desk = ShuffledDesk(many, seed=0, workers=4)
    found = search(config, DictMemory(), evaluator=many, desk=desk)
    assert found == whole
    screens = {text for text, fidelity in many.measured if fidelity == rungs[0]}
    assert screens == {text for text, fidelity in alone.measured if fidelity == rungs[0]}
    if len(rungs) < 3:  # a race of many steps may end early, so it may last longer than is paid
        assert sorted(many.measured) == sorted(alone.measured)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_run(way: str, workers: int) -> None:
    alone, many = DictMemory(), DictMemory()
    whole = search(config_of(way), alone)
    evaluator = ToyEvaluator(rungs=EIGHTHS)
    desk = ShuffledDesk(evaluator, seed=workers, workers=workers)
    found = search(config_of(way), many, evaluator=evaluator, desk=desk)
    assert found == whole
    assert fates_of(many) == fates_of(alone)
    assert many.done == alone.done
    assert set(many.known) >= set(alone.known)  # what was under way at the end besides


def test_there_is_work_for_all_while_a_generation_ends() -> None:
    idle = {}
    for way in WAYS:
        evaluator = ToyEvaluator(rungs=EIGHTHS)
        desk = ShuffledDesk(evaluator, seed=0, workers=8)
        config = config_of(way, first_batch=8, evaluations=24.0)
        search(config, DictMemory(), evaluator=evaluator, desk=desk)
        idle[way] = sum(count < 4 for count in desk.waited) / len(desk.waited)
    assert idle["one after another"] > 0.2
    assert idle["one ahead"] < 0.15
    assert idle["three ahead of two islands"] < 0.05


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_parents_were_known_when_their_children_were_bred(lag: int) -> None:
    memory = DictMemory()
    state = search(replace(CONFIG, evaluations=40.0, lag=lag), memory)
    born = {individual.key: individual.generation for individual in state.archive}
    gaps = [
        fate.generation - born[parent] for fate in memory.fates for parent in fate.proposal.parents
    ]
    assert gaps
    assert min(gaps) == lag + 1


@pytest.mark.parametrize("way", WAYS)
def test_islands_take_turns_and_breed_from_their_own(way: str) -> None:
    config = config_of(way, migration=0)
    memory = DictMemory()
    state = search(config, memory)
    home = {i.key: i.generation % config.islands for i in state.archive}
    for fate in memory.fates:
        for parent in fate.proposal.parents:
            assert home[parent] == fate.generation % config.islands
    assert [step.island for step in memory.done] == [
        number % config.islands for number in range(len(memory.done))
    ]


def test_migrants_are_the_best_of_the_island_before() -> None:
    config = replace(CONFIG, evaluations=80.0, islands=3, migration=2, selection="best")
    states = list(Search(SPACE, ToyEvaluator(rungs=EIGHTHS), DictMemory(), config).run())
    came = 0
    for before, after in itertools.pairwise(states):
        island = before.generation % 3
        own = before.generation // 3 + 1
        foreign = {i.slot for i in after.islands[island] if i.generation % 3 != island}
        new = foreign - {i.slot for i in before.islands[island]}
        came += len(new)
        if own % 2:
            assert not new
        best = sorted(before.islands[island - 1], key=lambda i: i.value)[:2]
        assert new <= {i.slot for i in best}
    assert came >= 3


def test_the_old_make_room_for_the_young() -> None:
    for lifespan in (1, 3):
        config = replace(
            CONFIG, evaluations=60.0, lifespan=lifespan, selection="best", population=3, race=False
        )
        crowded = 0
        for state in Search(SPACE, ToyEvaluator(), DictMemory(), config).run():
            ages = [state.generation - 1 - i.generation for i in state.population]
            young = [i for i in state.archive if state.generation - 1 - i.generation < lifespan]
            if len(young) >= 3:
                crowded += 1
                assert max(ages) < lifespan
            else:
                assert len(state.population) == min(3, len(state.archive))
        assert crowded


def test_patience_ends_a_run_that_finds_nothing_better() -> None:
    state = search(replace(CONFIG, evaluations=500.0, patience=9.0), DictMemory())
    assert state.finished
    assert state.finished.startswith("nothing better in ")
    assert 9 <= state.spent - state.improved < 9 + 16
    assert state.best is not None
    assert all(i.value >= state.best.value for i in state.archive)


def test_children_of_two_are_mutated_besides_where_asked() -> None:
    config = replace(CONFIG, evaluations=40.0, crossover=1.0, immigrants=0.0)
    plain, mutated = DictMemory(), DictMemory()
    search(config, plain)
    search(replace(config, mutation=1.0), mutated)
    texts = [
        {f.proposal.slot: str(f.proposal.expression) for f in m.fates} for m in (plain, mutated)
    ]
    second = [f.proposal for f in mutated.fates if f.generation == 1]
    assert second
    assert all(len(p.parents) == 2 for p in second)
    assert sum(texts[0].get(p.slot) != texts[1][p.slot] for p in second) > len(second) / 2


def test_tuned_children_have_the_shape_of_their_parent() -> None:
    memory = DictMemory()
    state = search(replace(CONFIG, evaluations=40.0, tune=0.7), memory)
    texts = {i.key: i.text for i in state.archive}
    tuned = [f.proposal for f in memory.fates if f.proposal.origin == "tuned"]
    assert tuned
    for proposal in tuned:
        (parent,) = proposal.parents
        shape, numbers = shape_of(str(proposal.expression))
        assert (shape, len(numbers)) == (
            shape_of(texts[parent])[0],
            len(shape_of(texts[parent])[1]),
        )


def test_immigrants_are_called_where_nothing_is_new() -> None:
    """A space that is all but exhausted: the share of random proposals rises to a half."""
    small = replace(SPACE, terminals={"W": 1, "x_norm": 1}, max_size=5, baselines=())
    shares = {}
    for asked in (0.0, 0.01):
        memory = DictMemory()
        config = replace(CONFIG, immigrants=asked, evaluations=60.0, tries=1)
        *_, _ = Search(small, ToyEvaluator(), memory, config).run()
        stale = {s.generation + 1 for s in memory.done if s.new < 0.1}
        later = [f for f in memory.fates if f.generation in stale]
        assert len(later) > 100
        shares[asked] = sum(f.proposal.origin == "random" for f in later) / len(later)
    assert shares[0.0] == 0
    assert 0.4 < shares[0.01] < 0.6


# --- resuming from the record ------------------------------------------------------------------


class Recorded(DictMemory):
    """Gives the generations that were done back."""

    def steps(self) -> tuple[list[Step], Callable[[int], Individual]]:
        people = {f.proposal.slot: f for f in self.fates if f.fate == "measured"}

        def who(slot: int) -> Individual:
            fate = people[slot]
            (outcome,) = [o for (k, _, d), o in self.known.items() if (k, d) == (fate.key, 1.0)]
            assert isinstance(outcome, Measured)
            return Individual(
                text=str(fate.expression),
                key=fate.key,
                complexity=fate.complexity,
                value=outcome.value,
                slot=slot,
                origin=fate.proposal.origin,
                parents=fate.proposal.parents,
                details=outcome.details,
                generation=fate.generation,
            )

        return list(self.done), who


@settings(max_examples=3)
@given(
    way=st.sampled_from(sorted(WAYS)),
    pauses=st.lists(st.integers(5, 60), min_size=1, max_size=4),
    workers=st.integers(0, 3),
)
def test_a_run_goes_on_from_its_record(way: str, pauses: list[int], workers: int) -> None:
    config = config_of(way)
    alone = DictMemory()
    whole = search(config, alone)
    memory = Recorded()
    for pause in [*pauses, None]:
        before = len(memory.done)
        memory.patience, memory.fates = pause, list(fates_of(memory).values())
        evaluator = ToyEvaluator(rungs=EIGHTHS)
        desk = ShuffledDesk(evaluator, pause or 0, workers) if workers else None
        told = len(memory.fates)
        try:
            last = search(config, memory, evaluator=evaluator, desk=desk)
        except Interrupted:
            continue
        assert last == whole
        assert memory.done == alone.done
        assert fates_of(memory) == fates_of(alone)
        assert {f.generation for f in memory.fates[told:]} <= set(
            range(before, last.generation + 9)
        )
        return
    pytest.fail("it never ended")


def test_what_is_on_record_is_not_bred_again(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Recorded()
    config = replace(CONFIG, evaluations=40.0, lag=1)
    whole = search(config, memory)
    bred: list[int] = []
    breed = breeder.Breeder.breed

    def told(self: breeder.Breeder, base: SearchState) -> breeder.Brood:
        brood = breed(self, base)
        bred.append(brood.step.generation)
        return brood

    monkeypatch.setattr(breeder.Breeder, "breed", told)
    again = Recorded(known=dict(memory.known), fates=list(memory.fates), done=list(memory.done))
    assert search(config, again) == whole
    assert len(memory.done) >= 3
    assert min(bred) == len(memory.done)  # the one that the budget cut is not on record
    assert len(again.done) == len(memory.done)


# --- an end that would not repeat itself -------------------------------------------------------


def stopped(memory: Recorded, way: str, count: int, workers: int) -> SearchState:
    """Search until it was asked `count` times whether to stop; then the time is up."""
    asked = itertools.count()
    evaluator = ToyEvaluator(rungs=EIGHTHS)
    return search(
        config_of(way),
        memory,
        evaluator=evaluator,
        desk=ShuffledDesk(evaluator, count, workers) if workers else None,
        stop=lambda: "the time is up" if next(asked) >= count else None,
    )


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_time_ended_stays_ended(way: str, workers: int) -> None:
    for count in (0, 11, 20, 33, 41):
        memory = Recorded()
        last = stopped(memory, way, count, workers)
        assert last.finished == "the time is up"
        evaluator = ToyEvaluator(rungs=EIGHTHS)
        again = Recorded(dict(memory.known), list(memory.fates), done=list(memory.done))
        assert search(config_of(way), again, evaluator=evaluator) == last
        assert evaluator.measured == []
        assert again.fates == memory.fates


class Consistent(Recorded):
    """Is killed when asked to put the end on record; else it does as the ledger does."""

    kill = False

    def advance(self, step: Step) -> None:
        if self.kill and step.finished:
            raise Interrupted
        super().advance(step)

    def note(self, fate: Any) -> None:
        known = fates_of(self).get(fate.proposal.slot)
        assert known in {None, fate}, "the ledger refuses another fate for a slot"
        super().note(fate)


@pytest.mark.parametrize("workers", [0, 3])
def test_a_run_killed_at_its_end_goes_on_as_if_never_stopped(workers: int) -> None:
    """No part of a rung is told to be screened before the end is on record."""
    alone = DictMemory()
    whole = search(config_of("one after another"), alone)
    for count in (0, 11, 20, 33):
        memory = Consistent()
        memory.kill = True
        with pytest.raises(Interrupted):
            stopped(memory, "one after another", count, workers)
        memory.kill = False
        assert search(config_of("one after another"), memory) == whole
        assert fates_of(memory) == fates_of(alone)
