"""Progress and lineage, against slow and obvious ways to get them."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from autoproxy.evaluation import Direction, Objective
from autoproxy.ledger.records import Event
from autoproxy.report.data import lineage, progress

FATES = ("measured", "screened", "raced", "failed")


def event(
    slot: int, fate: str, fidelity: float, value: float, parents: tuple[str, ...] = ()
) -> Event:
    return Event(
        run="run",
        slot=slot,
        key=f"key-{slot}",
        text="abs(W)",
        origin="random",
        parents=parents,
        fate=fate,
        rule=None,
        reason=None,
        fidelity=fidelity,
        value=value,
        complexity=2,
        generation=0,
    )


@st.composite
def archives(draw: st.DrawFn) -> list[Event]:
    """Return events in order, whose parents came before them."""
    events: list[Event] = []
    for slot in range(draw(st.integers(0, 12))):
        fate = draw(st.sampled_from(FATES))
        fidelity = 1.0 if fate == "measured" else draw(st.sampled_from((0.25, 0.5)))
        value = draw(st.integers(-4, 4)) / 2
        parents = draw(st.lists(st.sampled_from([e.key for e in events] or ["?"]), max_size=2))
        events.append(event(slot, fate, fidelity, value, tuple(parents)))
    return events


@given(events=archives(), direction=st.sampled_from(Direction))
def test_progress_is_the_best_so_far_after_each_improvement(
    events: list[Event], direction: Direction
) -> None:
    steps = list(progress(events, Objective("value", "", direction)))
    best = min if direction is Direction.MINIMIZE else max
    known = []
    for number in range(1, len(events) + 1):
        so_far = [e.value for e in events[:number] if e.fate == "measured"]
        if so_far and (not known or best(so_far) != known[-1][1]):
            known.append((sum(e.fidelity for e in events[:number]), best(so_far)))
    if known:
        known.append((sum(e.fidelity for e in events), known[-1][1]))
    assert [(step.spent, step.value) for step in steps] == known


def ancestors(events: Sequence[Event], key: str) -> set[str]:
    """Return a formula and all its ancestors, by going back again and again."""
    found = {key}
    for _ in events:
        found |= {p for e in events if e.key in found and e.fate == "measured" for p in e.parents}
    return found & {e.key for e in events if e.fate == "measured"}


@given(events=archives(), data=st.data())
def test_lineage_is_all_ancestors_that_were_measured_in_full(
    events: list[Event], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from([e.key for e in events] or ["none"]))
    found = lineage(events, key)
    assert {e.key for e in found} == ancestors(events, key)
    assert [e.slot for e in found] == sorted(e.slot for e in found)
