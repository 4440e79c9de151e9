"""The state of a search, and the record of whole generations that it is rebuilt from."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.evaluation import Direction, Individual, Objective
from autoproxy.search.state import WINDOW, Archive, SearchState, Step

LOSS = Objective("loss", "none", Direction.MINIMIZE)


def member(slot: int, value: float = 0.0) -> Individual:
    return Individual("W", f"k{slot}", 1, value, slot)


def step(number: int = 0, island: int = 0, **changes: object) -> Step:
    plain: dict[str, object] = {
        "slot": 10 * (number + 1),
        "spent": 1.5,
        "rung": 0,
        "screened": (),
        "born": (),
        "population": (),
        "new": 0.5,
    }
    return Step(number, island, **{**plain, **changes})  # type: ignore[arg-type]


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=6))
def test_an_archive_is_a_tuple_that_others_grow_from(portions: list[list[int]]) -> None:
    """Whichever one grows, those it grew from stay as they are: against plain tuples."""
    known: list[tuple[Archive, tuple[Individual, ...]]] = [(Archive(), ())]
    slot = 0
    for portion in portions:
        archive, plain = known[(portion or [0])[0] % len(known)]  # any of the earlier ones
        new = tuple(member(slot + n) for n in range(len(portion)))
        slot += len(new)
        known.append((archive.grown(new), plain + new))
    for archive, plain in known:
        assert (tuple(archive), len(archive)) == (plain, len(plain))
        assert archive[-2:] == plain[-2:]
        assert archive == Archive(plain)
        for individual in plain:
            assert archive.of_slot(individual.slot) is individual
        for other in {m.slot for _, p in known for m in p} - {m.slot for m in plain}:
            with pytest.raises(KeyError):
                archive.of_slot(other)
        with pytest.raises(IndexError):
            archive[len(plain)]


def test_a_step_survives_json() -> None:
    changes = {"screened": (0.1, 0.30000000000000004), "born": (31,), "population": (31, 7)}
    whole = step(3, 1, **changes, seen={"key": {"ab": 30}, "order": {}})
    assert Step.from_json(3, json.loads(json.dumps(whole.to_json()))) == whole


def test_a_step_of_an_earlier_version_ended_nothing() -> None:
    """Only an end is written, so that either version reads what the other wrote of the rest."""
    assert "finished" not in step().to_json()
    assert Step.from_json(0, step().to_json()).finished is None
    ended = step(finished="the time is up")
    assert Step.from_json(0, json.loads(json.dumps(ended.to_json()))) == ended


def test_an_end_changes_nothing_but_that_it_is_the_end() -> None:
    people = {1: member(1), 2: member(2)}
    first = step(born=(1, 2), population=(2, 1), rung=1, screened=(1.0, 2.0))
    state = SearchState.start(2).after(first, people.__getitem__, LOSS)
    for island in (0, 1):
        end = state.after(state.stop(island, "the time is up"), {}.__getitem__, LOSS)
        assert end.finished == "the time is up"
        for name in ("slot", "spent", "islands", "archive", "best", "improved", "new", "rung"):
            assert getattr(end, name) == getattr(state, name), name
        assert end.screened == state.screened


def test_a_generation_changes_its_island_and_what_belongs_to_all() -> None:
    people = {n: member(n, value=v) for n, v in ((1, 0.5), (2, 0.25), (11, 0.25), (12, 0.1))}
    start = SearchState.start(2)
    one = start.after(step(born=(1, 2), population=(2,)), people.__getitem__, LOSS)
    two = one.after(step(1, 1, born=(11,), population=(11, 2)), people.__getitem__, LOSS)
    assert [i.slot for i in two.population] == [2, 11, 2]
    assert [[i.slot for i in island] for island in two.islands] == [[2], [11, 2]]
    assert (two.generation, two.slot, two.spent) == (2, 20, 3.0)
    assert two.best is people[2]  # the earlier of equals
    assert two.improved == 1.5
    assert two.new == (0.5, 0.5)
    three = two.after(step(2, spent=0.0), people.__getitem__, LOSS)
    assert (three.idle, two.idle) == (1, 0)
    cheap = three.after(step(3), people.__getitem__, LOSS)
    assert cheap.idle == 0  # something was new, though nobody was measured in full
    assert three.islands == ((), two.islands[1])


def test_the_best_is_the_objective_s() -> None:
    people = {1: member(1, 0.5), 2: member(2, 0.75)}
    gain = Objective("tau", "none", Direction.MAXIMIZE)
    for objective, slot in ((LOSS, 1), (gain, 2)):
        state = SearchState().after(step(born=(1, 2)), people.__getitem__, objective)
        assert state.best is people[slot]


def test_screened_values_are_of_one_rung_and_bounded() -> None:
    def nobody(slot: int) -> Individual:
        raise AssertionError(slot)

    one = SearchState().after(step(screened=(1.0, 2.0)), nobody, LOSS)
    assert one.after(step(1, screened=(3.0,)), nobody, LOSS).screened == (1.0, 2.0, 3.0)
    dearer = one.after(step(1, rung=1, screened=(5.0,)), nobody, LOSS)
    assert (dearer.rung, dearer.screened) == (1, (5.0,))
    # One that was under way when the rung changed says nothing of the dearer rung.
    late = dearer.after(step(2, rung=0, screened=(9.0,)), nobody, LOSS)
    assert (late.rung, late.screened) == (1, (5.0,))
    many = one.after(step(1, screened=tuple(map(float, range(WINDOW)))), nobody, LOSS)
    assert len(many.screened) == WINDOW
    assert many.screened[-1] == WINDOW - 1
