"""What a report knows of a run: its summary, and every formula that it measured."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoproxy.evaluation import Direction, Objective, content_hash
from autoproxy.export.formula import infix_of
from autoproxy.ledger.measured import Archive
from autoproxy.ledger.records import Event


@dataclass(frozen=True, slots=True)
class Run:
    """One run that is done, as its folder holds it.

    Attributes:
        name: Of the run.
        summary: See `autoproxy.commands.summary.summarise`.
        manifest: Configuration, versions, commit and machine.
        archive: What it measured; empty where the run is from before archives were kept.
        random: What random search measured at the same budget, where it was asked for.
    """

    name: str
    summary: Mapping[str, Any]
    manifest: Mapping[str, Any]
    archive: Archive
    random: Archive

    @property
    def objective(self) -> Objective:
        """What its values mean."""
        said = self.summary["objective"]
        return Objective(said["name"], said["unit"], Direction(said["direction"]))

    @property
    def protocol(self) -> str:
        """Hash of all that determines a value; runs that share it can be drawn together."""
        return content_hash(self.summary["protocol"])

    @property
    def whole(self) -> tuple[Event, ...]:
        """Formulas that were measured in full, in order."""
        return tuple(event for event in self.archive.events if event.fate == "measured")

    @property
    def baselines(self) -> list[Mapping[str, Any]]:
        """Hand-made metrics that have a value on the search text, the best first."""
        return [row for row in self.summary["baselines"] if row["value"] is not None]


def formula_of(entry: Mapping[str, Any]) -> str:
    """Return the formula of a row of a board as people write it.

    It is empty where there is none: of the dense model, and of methods, whose text is their name.

    >>> formula_of({"text": "abs(W)", "complexity": 2}), formula_of({"text": "x", "complexity": 0})
    ('abs(W)', '')
    """
    return infix_of(entry["text"]) if entry["text"] and entry["complexity"] else ""


@dataclass(frozen=True, slots=True)
class Improvement:
    """The best value so far, when a formula was better than all before it.

    Attributes:
        spent: Full evaluations that the run had spent.
        value: Best so far.
        text: The formula.
    """

    spent: float
    value: float
    text: str


def progress(events: Sequence[Event], objective: Objective) -> Iterator[Improvement]:
    """Yield each improvement of a run, and last where it ended.

    What is spent is the sum of the fidelities that formulas were measured at, in the order of
    their proposals: a formula that climbs the ladder pays for each block once. Those that were
    about to climb when the budget ended are missing at the end.

    >>> from autoproxy.evaluation import Direction
    >>> def event(slot, fate, fidelity, value):
    ...     where = ("run", slot, "", "abs(W)", "random", ())
    ...     return Event(*where, fate, None, None, fidelity, value, 2, 0)
    >>> events = [event(0, "measured", 1.0, 0.5), event(1, "screened", 0.25, 0.1)]
    >>> kl = Objective("kl", "nats", Direction.MINIMIZE)
    >>> [(step.spent, step.value) for step in progress(events, kl)]
    [(1.0, 0.5), (1.25, 0.5)]
    """
    spent = itertools.accumulate(event.fidelity or 0.0 for event in events)
    best: Event | None = None
    total = 0.0
    for total, event in zip(spent, events, strict=True):
        if event.fate != "measured" or event.value is None:
            continue
        if best is None or best.value is None or objective.better(event.value, best.value):
            best = event
            yield Improvement(total, event.value, event.text)
    if best is not None and best.value is not None:
        yield Improvement(total, best.value, best.text)


def lineage(events: Sequence[Event], key: str) -> list[Event]:
    """Return a formula and all its ancestors that were measured in full, the eldest first."""
    by_key = {event.key: event for event in reversed(events) if event.fate == "measured"}
    found: dict[str, Event] = {}
    waiting = [key]
    while waiting:
        event = by_key.get(waiting.pop())
        if event is not None and event.key not in found:
            found[event.key] = event
            waiting += event.parents
    return sorted(found.values(), key=lambda event: event.slot)
