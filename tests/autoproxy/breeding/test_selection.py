"""Selection: DEAP's NSGA-II and our tournament against their definitions, written with loops."""

import random
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from deap import base, tools
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.breeding.selection import survivors, tournament
from autoproxy.evaluation import Direction, Individual, Objective

KL = Objective("kl", "nats", Direction.MINIMIZE)
CORRELATION = Objective("correlation", "none", Direction.MAXIMIZE)
OBJECTIVES = st.sampled_from([KL, CORRELATION])

values = st.sampled_from([-1.0, 0.0, 0.5, 0.5000001, 1e-300, 1e300]) | st.floats(-10, 10)
rows = st.lists(st.tuples(st.integers(1, 8), values), min_size=1, max_size=25)


def pool(drawn: Sequence[tuple[int, float]]) -> list[Individual]:
    return [
        Individual("abs(W)", f"key{slot}", complexity, value, slot)
        for slot, (complexity, value) in enumerate(drawn)
    ]


def dominates(a: Individual, b: Individual, objective: Objective) -> bool:
    if objective.better(b.value, a.value) or b.complexity < a.complexity:
        return False
    return objective.better(a.value, b.value) or a.complexity < b.complexity


def ranks(members: Sequence[Individual], objective: Objective) -> dict[str, int]:
    """Return each key's front: 0 for what nothing dominates, and so on without those."""
    found: dict[str, int] = {}
    left = list(members)
    while left:
        front = [a for a in left if not any(dominates(b, a, objective) for b in left)]
        rank = 1 + max(found.values(), default=-1)
        found.update({member.key: rank for member in front})
        left = [member for member in left if member not in front]
    return found


@given(rows, st.integers(1, 30), OBJECTIVES)
def test_nsga2_keeps_front_after_front(
    drawn: list[tuple[int, float]], count: int, objective: Objective
) -> None:
    members = pool(drawn)
    kept = survivors(members, count, objective, "nsga2")
    assert len(kept) == min(count, len(members))
    assert len({member.key for member in kept}) == len(kept)
    rank = ranks(members, objective)
    worst = max(rank[member.key] for member in kept)
    for member in members:
        if member not in kept:
            assert rank[member.key] >= worst


@given(rows, st.integers(4, 30), OBJECTIVES)
def test_nsga2_keeps_the_best_and_the_simplest_that_nothing_dominates(
    drawn: list[tuple[int, float]], count: int, objective: Objective
) -> None:
    members = pool(drawn)
    kept = survivors(members, count, objective, "nsga2")
    assert not any(
        objective.better(member.value, other.value)
        for member in members
        for other in [min(kept, key=lambda i: objective.sign * i.value)]
    )
    simplest = min(members, key=lambda i: (i.complexity, objective.sign * i.value))
    assert (simplest.complexity, simplest.value) in {(i.complexity, i.value) for i in kept}


def test_nsga2_keeps_the_spread_of_a_front_that_is_too_long() -> None:
    members = pool([(n, 10.0 - n) for n in (1, 2, 3, 4, 9)])
    kept = {member.complexity for member in survivors(members, 3, KL, "nsga2")}
    assert kept == {1, 4, 9}  # the ends, and the one with the most room about it


@given(rows, st.integers(1, 30), OBJECTIVES)
def test_best_is_by_value_then_by_complexity(
    drawn: list[tuple[int, float]], count: int, objective: Objective
) -> None:
    members = pool(drawn)
    kept = survivors(members, count, objective, "best")
    wanted = sorted(members, key=lambda i: (objective.sign * i.value, i.complexity))
    assert [(i.value, i.complexity) for i in kept] == [
        (i.value, i.complexity) for i in wanted[:count]
    ]


@given(rows, st.integers(1, 30), OBJECTIVES, st.sampled_from(["nsga2", "best"]))
def test_selection_draws_nothing(
    drawn: list[tuple[int, float]], count: int, objective: Objective, method: str
) -> None:
    members = pool(drawn)
    before = random.getstate()
    kept = survivors(members, count, objective, method)
    assert survivors(members, count, objective, method) == kept
    assert random.getstate() == before


@given(rows, st.integers(1, 9), OBJECTIVES, st.integers(0, 10**9))
def test_a_tournament_is_won_by_the_best_of_those_drawn(
    drawn: list[tuple[int, float]], size: int, objective: Objective, seed: int
) -> None:
    members = pool(drawn)
    outside = random.getstate()
    rng, control = random.Random(seed), random.Random(seed)
    winner = tournament(members, rng, size, objective)
    entered = [control.choice(members) for _ in range(size)]
    best = min(entered, key=lambda i: (objective.sign * i.value, i.complexity))
    assert (winner.value, winner.complexity) == (best.value, best.complexity)
    assert winner in entered
    assert rng.getstate() == control.getstate()
    assert random.getstate() == outside


@given(rows, st.integers(1, 9), OBJECTIVES, st.integers(0, 10**9))
def test_a_tournament_is_deaps(
    drawn: list[tuple[int, float]], size: int, objective: Objective, seed: int
) -> None:
    class Fitness(base.Fitness):
        weights = (-objective.sign, -1.0)

    members, outside = pool(drawn), random.getstate()
    entered = [SimpleNamespace(who=i, fitness=Fitness((i.value, i.complexity))) for i in members]
    random.seed(seed)  # noqa: TID251 - DEAP draws from there alone
    (theirs,) = tools.selTournament(entered, 1, size)
    random.setstate(outside)
    assert tournament(members, random.Random(seed), size, objective) is theirs.who


@pytest.mark.parametrize("objective", [KL, CORRELATION])
def test_a_large_tournament_finds_the_best_of_all(objective: Objective) -> None:
    members = pool([(n % 3 + 1, float(n % 7)) for n in range(21)])
    winner = tournament(members, random.Random(0), 2000, objective)
    assert winner.value == (0.0 if objective is KL else 6.0)
    assert winner.complexity == 1
