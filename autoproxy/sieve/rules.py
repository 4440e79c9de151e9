"""The rules of the sieve: cheap reasons to drop a candidate, in order of their cost."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from autoproxy.language.blindness import Blindness
from autoproxy.language.expression import Expression
from autoproxy.spaces import SearchSpace


class Cost(IntEnum):
    """What a rule costs: nothing to speak of, microseconds, a probe, all masks."""

    STRUCTURE = 1
    ALGEBRA = 2
    BEHAVIOUR = 3
    IDENTITY = 4


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate goes no further, and why.

    Attributes:
        rule: Name of the rule that dropped it.
        reason: In words.
        same_as: Slot of the proposal that it was merged with; None for other rules.
    """

    rule: str
    reason: str
    same_as: int | None = None


@dataclass(slots=True)
class Context:
    """What the rules may look at: the space, the comparison, and what this run has seen.

    Attributes:
        space: Words and limits.
        blindness: What the evaluator's comparison cannot see.
        seen: For each way of being the same (see `TIERS`), the digests so far and the slot that
            had each first.
        noted: What was added to `seen` since somebody asked last, the same way.
    """

    space: SearchSpace
    blindness: Blindness
    seen: dict[str, dict[str, int]] = field(default_factory=dict)
    noted: dict[str, dict[str, int]] = field(default_factory=dict)

    def knows(self, way: str, digest: str) -> bool:
        """Return whether `digest` was seen before, without taking note of it."""
        return digest in self.seen.get(way, {})

    def first_slot(self, way: str, digest: str, slot: int) -> int | None:
        """Return the slot that had `digest` before, or None and take note of `slot`."""
        known = self.seen.setdefault(way, {})
        if digest in known:
            return known[digest]
        known[digest] = slot
        self.noted.setdefault(way, {})[digest] = slot
        return None


Judge = Callable[[Expression, int, Context], str | None]
"""(expression, slot, context) -> reason to drop it, or None to keep it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A cheap reason to drop a candidate.

    Attributes:
        name: Word under which the funnel counts it.
        cost: What it costs; dearer rules come later.
        judge: Says why to drop, or None; absent for rules that the sieve judges itself because
            they need the evaluator, a batch at a time, or what was seen before.
    """

    name: str
    cost: Cost
    judge: Judge | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A candidate that nothing spoke against: new, well formed, and worth measuring.

    Attributes:
        expression: Its canonical form, which is what is measured, stored and exported.
        key: Content hash of the canonical form.
        identity: Hash of all that the objective sees of it.
    """

    expression: Expression
    key: str
    identity: str


Verdict = Kept | Dropped
