"""What becomes of proposals, and the memory that keeps it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from autoproxy.evaluation import Failed, Individual, Measured, Outcome
from autoproxy.language.complexity import complexity
from autoproxy.language.expression import Expression
from autoproxy.search.proposals import Proposal
from autoproxy.search.state import Step
from autoproxy.sieve.rules import Dropped, Kept


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one proposal; a row of the run's record.

    Attributes:
        proposal: What was proposed, and where it came from.
        generation: When.
        expression: Its canonical form where it was kept, else as it was proposed.
        key: Content hash of the canonical form; empty for what was dropped.
        complexity: Of `expression`.
        fate: `measured` (in full), `screened` (stopped after the cheap rung), `raced` (stopped by
            the test between blocks), `failed` or `dropped`.
        rule: The rule that dropped it.
        reason: Why it was dropped or failed.
        fidelity: Of the dearest measurement.
        value: Of the dearest measurement.
        same_as: Slot of the proposal that it repeats, where it was dropped for that.
    """

    proposal: Proposal
    generation: int
    expression: Expression
    key: str
    complexity: int
    fate: str
    rule: str | None = None
    reason: str | None = None
    fidelity: float | None = None
    value: float | None = None
    same_as: int | None = None


class Outcomes(Protocol):
    """What is asked before measuring, and keeps every outcome."""

    def recall(self, key: str, protocol: str, fidelity: float) -> Outcome | None:
        """Return what is known of a candidate, or None."""
        ...

    def keep(self, kept: Kept, protocol: str, fidelity: float, outcome: Outcome) -> None:
        """Store an outcome the instant it is known."""
        ...


class Memory(Outcomes, Protocol):
    """What the loop needs of the ledger: to ask before measuring, and to keep all it learns."""

    def note(self, fate: Fate) -> None:
        """Store what became of a proposal, at once or before `settle` or `advance` returns."""
        ...

    def settle(self) -> None:
        """Store what became of all proposals so far."""
        ...

    def advance(self, step: Step) -> None:
        """Store that a generation is done, and what it changed."""
        ...

    def steps(self) -> tuple[Sequence[Step], Callable[[int], Individual]]:
        """Return the generations that are done already, and who was measured in which slot."""
        ...


def individual_of(
    proposal: Proposal, candidate: Kept, outcome: Measured, generation: int
) -> Individual:
    """Return who was measured in full."""
    return Individual(
        text=str(candidate.expression),
        key=candidate.key,
        complexity=complexity(candidate.expression),
        value=outcome.value,
        slot=proposal.slot,
        origin=proposal.origin,
        parents=proposal.parents,
        details=outcome.details,
        generation=generation,
    )


def dropped(proposal: Proposal, generation: int, verdict: Dropped) -> Fate:
    """Return the fate of a proposal that the sieve dropped."""
    return Fate(
        proposal=proposal,
        generation=generation,
        expression=proposal.expression,
        key="",
        complexity=complexity(proposal.expression),
        fate="dropped",
        rule=verdict.rule,
        reason=verdict.reason,
        same_as=verdict.same_as,
    )


def fate_of(
    proposal: Proposal, generation: int, candidate: Kept, outcome: Outcome, fate: str
) -> Fate:
    """Return the fate of a candidate: `fate`, or that it failed."""
    known = Fate(
        proposal=proposal,
        generation=generation,
        expression=candidate.expression,
        key=candidate.key,
        complexity=complexity(candidate.expression),
        fate=fate,
    )
    if isinstance(outcome, Failed):
        return replace(known, fate="failed", reason=outcome.reason)
    return replace(known, fidelity=outcome.fidelity, value=outcome.value)
