"""The ladder: rungs that may rank, the race between blocks, and what it leaves out."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.evaluation import Direction, Individual, Objective
from autoproxy.search.config import SearchConfig
from autoproxy.search.ladder import PAIRS, agreement, beaten, incumbent, trusted
from autoproxy.search.loop import Search
from autoproxy.search.state import SearchState
from search_spaces.importance import SPACE
from tests.autoproxy.search.memories import DictMemory
from tests.conformance.toy import ToyEvaluator

EIGHTHS = tuple(number / 8 for number in range(1, 9))
CONFIG = SearchConfig(
    seed=1,
    evaluations=60,
    islands=1,
    lag=0,
    lifespan=0,
    tune=0.0,
    population=4,
    first_batch=24,
    batch=12,
    promote=0.5,
    reject=0.0,
)
SMALL = Objective("loss", "nats", Direction.MINIMIZE)


def individual(blocks: Sequence[float], slot: int = 0) -> Individual:
    details = {f"block_{number}": value for number, value in enumerate(blocks, 1)}
    return Individual("W", f"k{slot}", 1, sum(blocks) / len(blocks), slot, details=details)


def ranks(values: Sequence[float]) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


@given(st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=3, max_size=12))
def test_agreement_is_the_correlation_of_ranks(table: list[list[int]]) -> None:
    archive = [individual([float(v) for v in row]) for row in table]
    found = agreement(archive, 0.5)
    early = ranks([sum(row[:2]) for row in table])
    full = ranks([sum(row) for row in table])
    middle = (len(table) - 1) / 2
    products = [(a - middle) * (b - middle) for a, b in zip(early, full, strict=True)]
    scale = [sum((r - middle) ** 2 for r in rank) for rank in (early, full)]
    if 0 in scale:
        assert found is None
    else:
        assert found == pytest.approx(sum(products) / (scale[0] * scale[1]) ** 0.5, abs=1e-9)


def test_a_rung_is_judged_only_after_enough_pairs() -> None:
    misled = [individual([-i, 3.0 * i], slot=i) for i in range(PAIRS)]
    assert trusted(misled[:-1], 0.5)
    assert not trusted(misled, 0.5)
    assert trusted(misled, 1.0)
    assert trusted([replace(i, details={}) for i in misled], 0.5)  # nothing by blocks


def test_the_race_is_wilcoxons_test() -> None:
    """By counting all signs: the chance that the sum of positive ranks is as large or larger."""
    draw = random.Random(0)
    for _ in range(300):
        count = draw.randint(1, 8)
        theirs = [draw.gauss(0, 1) for _ in range(8)]
        mine = [value + draw.gauss(0.4, 1) for value in theirs[:count]]
        gaps = [a - b for a, b in zip(mine, theirs, strict=False)]
        order = ranks([abs(gap) for gap in gaps])
        seen = sum(rank + 1 for rank, gap in zip(order, gaps, strict=True) if gap > 0)
        sums = [
            sum(rank + 1 for rank, sign in zip(order, signs, strict=True) if sign)
            for signs in itertools.product((False, True), repeat=count)
        ]
        chance = sum(total >= seen - 1e-9 for total in sums) / len(sums)
        by = theirs
        assert beaten(mine, by, 1.0) == (count >= 4 and chance < 0.1)
        flipped = [-value for value in theirs]
        assert beaten([-value for value in mine], flipped, -1.0) == beaten(mine, by, 1.0)


def test_nobody_and_equals_beat_nobody() -> None:
    same = [1.0] * 8
    assert not beaten([9.0] * 8, (), 1.0)
    assert not beaten([1.0] * 8, same, 1.0)


def test_the_incumbent_is_the_middle_of_a_full_population() -> None:
    members = tuple(individual([float(v)] * 8, slot=v) for v in (1, 3, 2, 0))
    found = incumbent(members, CONFIG, SMALL)
    assert found is not None
    assert found.value == 2.0
    assert incumbent(members[:-1], CONFIG, SMALL) is None
    assert incumbent(members, replace(CONFIG, race=False), SMALL) is None


def run(config: SearchConfig, evaluator: ToyEvaluator, memory: DictMemory) -> SearchState:
    *_, state = Search(SPACE, evaluator, memory, config).run()
    return state


def test_the_race_stops_only_those_who_are_beaten_and_charges_what_they_cost() -> None:
    evaluator, memory = ToyEvaluator(rungs=EIGHTHS), DictMemory()
    state = run(CONFIG, evaluator, memory)
    raced = [fate for fate in memory.fates if fate.fate == "raced"]
    assert raced
    keys = {individual.key for individual in state.archive}
    for fate in raced:
        assert fate.fidelity is not None
        assert 0.5 <= fate.fidelity < 1
        assert fate.key not in keys
    deepest = dict(evaluator.measured)
    assert state.spent == pytest.approx(sum(deepest.values()))
    assert {d for d in deepest.values() if d < 1} >= {fate.fidelity for fate in raced}


def test_a_race_that_is_replayed_ends_alike() -> None:
    memory = DictMemory()
    cold = run(CONFIG, ToyEvaluator(rungs=EIGHTHS), memory)
    evaluator = ToyEvaluator(rungs=EIGHTHS)
    warm = run(CONFIG, evaluator, DictMemory(known=dict(memory.known)))
    assert warm == cold
    assert evaluator.measured == []


def test_without_a_race_everybody_promoted_is_measured_in_full() -> None:
    memory = DictMemory()
    state = run(replace(CONFIG, race=False), ToyEvaluator(rungs=EIGHTHS), memory)
    assert not [fate for fate in memory.fates if fate.fate == "raced"]
    assert len(state.archive) == sum(fate.fate == "measured" for fate in memory.fates)


class Misleading(ToyEvaluator):
    """Its first blocks say the contrary of all of them."""

    def _loss(self, masks: dict[str, object], number: int) -> float:  # type: ignore[override]
        loss = super()._loss(masks, number)  # type: ignore[arg-type]
        return -loss if number < 2 else 3 * loss


def test_a_rung_that_misleads_screens_no_longer() -> None:
    evaluator, memory = Misleading(rungs=EIGHTHS), DictMemory()
    state = run(replace(CONFIG, evaluations=80, race=False), evaluator, memory)
    assert len(state.archive) >= PAIRS
    assert state.rung >= 2
    late = [f.fidelity for f in memory.fates if f.fate == "screened" and f.generation > 4]
    assert late
    assert min(fidelity or 0 for fidelity in late) > EIGHTHS[1]
