"""Events, read for their merges: with whom, how much was new, and how sure a rate is."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autoproxy.ledger.merges import MERGING, freshness, merged_with, rate_interval
from autoproxy.ledger.records import Event

KEPT = Event(
    run="run",
    slot=0,
    key="k",
    text="W",
    origin="random",
    parents=(),
    fate="measured",
    rule=None,
    reason=None,
    fidelity=1.0,
    value=0.5,
    complexity=1,
    generation=0,
)


def dropped(rule: str, reason: str = "the same value as slot 12", generation: int = 0) -> Event:
    return dataclasses.replace(
        KEPT, fate="dropped", rule=rule, reason=reason, generation=generation
    )


def test_the_slot_is_read_from_the_end_of_the_reason() -> None:
    assert merged_with(dropped("repeat")) == 12
    assert merged_with(dropped("same-mask", "slot 3 says: the same masks as slot 40")) == 40
    assert merged_with(dropped("hopeless", "as flat as slot 12")) is None
    assert merged_with(dropped("repeat", "something else")) is None
    assert merged_with(KEPT) is None
    assert merged_with(dataclasses.replace(KEPT, fate="failed", reason="as slot 1")) is None


def test_a_slot_that_is_written_down_counts_more_than_words() -> None:
    assert merged_with(dataclasses.replace(dropped("repeat"), same_as=5)) == 5
    assert merged_with(dataclasses.replace(dropped("repeat"), same_as=0)) == 0
    assert merged_with(dataclasses.replace(dropped("hopeless"), same_as=5)) is None


def test_what_is_new_is_counted_tier_by_tier_in_each_generation() -> None:
    rules = ["limits", "varies", "repeat", "repeat", "repeat", "same-algebra", "hopeless"]
    rules += ["distorting", "same-order", "same-order", "same-mask"]
    events = [dropped(rule, generation=3) for rule in rules]
    fates = ("measured", "raced", "screened", "failed")
    events += [dataclasses.replace(KEPT, fate=fate, generation=3) for fate in fates]
    events += [dataclasses.replace(KEPT, generation=1), dropped("repeat", generation=1)]
    first, third = freshness(iter(events))
    assert (first.generation, first.proposed, first.kept) == (1, 2, 1)
    assert dict(first.new) == {"key": 1, "order": 1, "fingerprint": 1, "mask": 1}
    assert (third.generation, third.proposed, third.kept) == (3, 15, 4)
    # 15 less two ill formed; of those hopeless or distorting nothing older was the same.
    assert dict(third.new) == {"key": 10, "order": 9, "fingerprint": 7, "mask": 6}
    assert third.to_json() == {
        "generation": 3,
        "proposed": 15,
        "new": {"key": 10, "order": 9, "fingerprint": 7, "mask": 6},
        "kept": 4,
    }
    assert freshness([]) == []


@given(st.lists(st.sampled_from([*MERGING, "limits", "hopeless", None]), max_size=30))
def test_each_tier_leaves_no_more_than_the_one_before(rules: list[str | None]) -> None:
    events = [dropped(rule) if rule else KEPT for rule in rules]
    for one in freshness(events):
        counts = [one.proposed, *one.new.values(), one.kept]
        assert counts == sorted(counts, reverse=True)
        assert one.new["mask"] - one.kept == rules.count("hopeless")


@pytest.mark.parametrize(("count", "of"), [(0, 30), (1, 30), (7, 100), (30, 30)])
def test_the_interval_is_that_of_the_beta_distribution(count: int, of: int) -> None:
    low, high = rate_interval(count, of)
    assert low == pytest.approx(stats.beta.ppf(0.025, count, of - count + 1) if count else 0.0)
    assert high == pytest.approx(
        stats.beta.ppf(0.975, count + 1, of - count) if count < of else 1.0
    )


def test_of_nothing_nothing_is_known() -> None:
    assert rate_interval(0, 0) == (0.0, 1.0)
