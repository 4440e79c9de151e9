"""The ledger as the search sees it, with the counts that a view shows."""

import math
import time
from collections import Counter
from collections.abc import Callable

from autoproxy.evaluation import Individual, Outcome
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import Evaluation, Event
from autoproxy.search.fate import Fate
from autoproxy.search.state import Step
from autoproxy.sieve.rules import Kept

PROMPT = 0.05
"""Seconds that what became of a proposal may wait to be stored, so that others come along."""


class LedgerMemory:
    """Keeps a run's outcomes in the ledger the instant they are known, and its fates soon after.

    Args:
        ledger: Where they are kept.
        run: Name of the run that the fates belong to.
        protocol: Content hash of the protocol that it measures under.
    """

    def __init__(self, ledger: Ledger, run: str, protocol: str) -> None:
        self._ledger = ledger
        self._run = run
        self._protocol = protocol
        self.funnel: Counter[str] = Counter()
        self.recalled = 0
        self.spent = 0.0
        self.before = 0.0  # of it, by whole generations that were on record at the start
        self._paid: dict[str, tuple[float, ...]] = {}
        self._waiting: list[Event] = []
        self._settled = -math.inf  # when that was empty

    def recall(self, key: str, protocol: str, fidelity: float) -> Outcome | None:
        """Return what any run has learnt of a candidate under this protocol, or None."""
        outcome = self._ledger.recall(key, protocol, fidelity)
        self.recalled += outcome is not None
        if outcome is not None:
            self._pay(key, fidelity)
        return outcome

    def keep(self, kept: Kept, protocol: str, fidelity: float, outcome: Outcome) -> None:
        """Store an outcome."""
        self._pay(kept.key, fidelity)
        self._ledger.remember(
            Evaluation(
                key=kept.key,
                protocol=protocol,
                fidelity=fidelity,
                text=str(kept.expression),
                identity=kept.identity,
                outcome=outcome,
            )
        )

    def _pay(self, key: str, fidelity: float) -> None:
        """Count what is spent: of a candidate that is measured further, what is new.

        Where repetitions are let through, several candidates have one key, each on its rung.
        """
        rungs = self._paid.get(key, ())
        below = max((rung for rung in rungs if rung < fidelity), default=0.0)
        left = list(rungs)
        if below:
            left.remove(below)
        self._paid[key] = (*left, fidelity)
        self.spent += fidelity - below

    def note(self, fate: Fate) -> None:
        """Store what became of a proposal, with others within `PROMPT` seconds.

        What a process that is killed takes along is bred again, to the same: outcomes, which are
        dear, do not wait.
        """
        self.funnel["proposed"] += 1
        self.funnel[fate.rule or fate.fate] += 1
        self._waiting.append(
            Event(
                run=self._run,
                slot=fate.proposal.slot,
                key=fate.key,
                text=str(fate.expression),
                origin=fate.proposal.origin,
                parents=fate.proposal.parents,
                fate=fate.fate,
                rule=fate.rule,
                reason=fate.reason,
                fidelity=fate.fidelity,
                value=fate.value,
                complexity=fate.complexity,
                generation=fate.generation,
                same_as=fate.same_as,
            )
        )
        if time.monotonic() - self._settled > PROMPT:
            self.settle()

    def settle(self) -> None:
        """Store at once what became of all proposals so far."""
        if self._waiting:
            self._ledger.append(*self._waiting)
            self._waiting.clear()
        self._settled = time.monotonic()

    def advance(self, step: Step) -> None:
        """Store that a generation is done, and what it changed."""
        self.settle()
        self._ledger.add_step(self._run, step.generation, step.to_json())

    def steps(self) -> tuple[list[Step], Callable[[int], Individual]]:
        """Return the generations that are done already, and who was measured in which slot."""
        steps = [Step.from_json(*row) for row in self._ledger.steps(self._run)]
        self.spent = self.before = sum(step.spent for step in steps)
        whole = None if steps and steps[-1].finished else len(steps)  # at the end all stays
        self.funnel = Counter(self._ledger.funnel(self._run, whole))
        self.funnel["proposed"] = self.funnel.total()
        known = self._ledger.measured(self._run, self._protocol) if steps else []
        people = {individual.slot: individual for individual in known}
        return steps, people.__getitem__
