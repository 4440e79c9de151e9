"""What a run's events say of its merges: who was taken for whom, and how much was new."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from scipy import stats

from autoproxy.ledger.records import Event

MERGING: Mapping[str, str] = MappingProxyType(
    {
        "repeat": "key",
        "same-algebra": "order",
        "same-order": "fingerprint",
        "same-mask": "mask",
    }
)
"""The rules that merge, by cost, each with the tier that it is of (`repeat` is of `text`, too)."""

_ILL_FORMED = frozenset({"limits", "varies"})
_SLOT = re.compile(r" as slot (\d+)$")


def merged_with(event: Event) -> int | None:
    """Return the slot of the proposal that this one was merged with, or None if it was not.

    >>> values = dict(run="r", key="", text="W", origin="random", parents=(), fate="dropped")
    >>> numbers = dict(fidelity=None, value=None, complexity=1, generation=0)
    >>> told = "the same value as slot 7"
    >>> merged_with(Event(slot=9, rule="repeat", reason=told, **values, **numbers))
    7
    """
    if event.rule in MERGING and event.same_as is not None:
        return event.same_as
    # Events of earlier versions say it in words alone.
    found = _SLOT.search(event.reason or "") if event.rule in MERGING else None
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Freshness:
    """How many of a generation's proposals were new.

    Attributes:
        generation: Of the run.
        proposed: Proposals.
        new: For each tier, how many were well formed and neither this tier nor one before it
            merged them.
        kept: How many nothing spoke against, so that they were measured.
    """

    generation: int
    proposed: int
    new: Mapping[str, int]
    kept: int

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "generation": self.generation,
            "proposed": self.proposed,
            "new": dict(self.new),
            "kept": self.kept,
        }


def freshness(events: Iterable[Event]) -> list[Freshness]:
    """Return how many proposals of each generation were new, in the order of generations."""
    by_generation: dict[int, list[Event]] = {}
    for event in events:
        by_generation.setdefault(event.generation, []).append(event)
    return [_freshness(number, by_generation[number]) for number in sorted(by_generation)]


def _freshness(generation: int, events: list[Event]) -> Freshness:
    left = sum(event.rule not in _ILL_FORMED for event in events)
    new = {}
    for rule, tier in MERGING.items():
        left -= sum(event.rule == rule for event in events)
        new[tier] = left
    kept = sum(event.fate != "dropped" for event in events)
    return Freshness(generation, len(events), new, kept)


def rate_interval(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate of which `count` cases were seen (Clopper-Pearson).

    Args:
        count: Cases seen.
        of: How many were looked at; with none, the rate may be anything.

    >>> low, high = rate_interval(0, 100)
    >>> low, round(high, 3)
    (0.0, 0.036)
    """
    if of == 0:
        return 0.0, 1.0
    found = stats.binomtest(count, of).proportion_ci(confidence_level=0.95, method="exact")
    return float(found.low), float(found.high)
