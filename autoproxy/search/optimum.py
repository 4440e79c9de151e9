"""The best of many formulas, each measured as far as it takes to know that it is not the best."""

import bisect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autoproxy.evaluation import Direction, Evaluator, Failed, Measured, Outcome, content_hash
from autoproxy.language.canonical import key
from autoproxy.language.expression import Expression
from autoproxy.search.enumeration import Formula
from autoproxy.search.fate import Outcomes
from autoproxy.sieve.rules import Kept


@dataclass(frozen=True, slots=True)
class Standing:
    """A formula that was measured in full."""

    formula: Formula
    value: float


@dataclass(slots=True)
class Measuring:
    """Measures formulas on the rungs of an evaluator, and leaves those early that cannot matter.

    A formula is left after its first blocks if they alone, and the least that others could have,
    are worse than the bar in full: the worst of the `keep` best so far and of `rivals`. That is no
    guess, so the best `keep`, and how many are better than each rival, are exact. It takes an
    evaluator that says in `least_block` the least value that a block can have, where small values
    are good; with others every formula is measured in full.

    Args:
        evaluator: Measures.
        outcomes: Where outcomes are kept and looked up.
        full: How many are measured in full at most, the best at the cheapest rung; None for all.
        keep: How many of the best are wanted exactly.
        rivals: Values whose place among the formulas is wanted exactly.
        tell: Told the stage, how many formulas of how many are done, and the best one so far.

    Attributes:
        best: Formulas measured in full that no other was known to shut out, best first.
        masks: How many formulas have different identities.
        measured: How many formulas were measured up to each fidelity, and no further.
        screened: How many went no further for their rank at the cheapest rung; 0 where exact.
        failed: How many failed, by reason.
    """

    evaluator: Evaluator
    outcomes: Outcomes
    full: int | None = None
    keep: int = 10
    rivals: Sequence[float] = ()
    tell: Callable[[str, int, int, Standing | None], None] = lambda *_: None
    best: list[Standing] = field(init=False, default_factory=list)
    masks: int = field(init=False, default=0)
    measured: Counter[float] = field(init=False, default_factory=Counter)
    screened: int = field(init=False, default=0)
    failed: Counter[str] = field(init=False, default_factory=Counter)
    _protocol: str = field(init=False)
    _sign: float = field(init=False)
    _identities: set[str] = field(init=False, default_factory=set)
    _signed: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._protocol = content_hash(self.evaluator.protocol())
        self._sign = self.evaluator.objective.sign

    def run(self, formulas: Sequence[Formula]) -> None:
        """Measure formulas, those first whose fingerprints look best; fill the attributes."""
        queue: Sequence[tuple[Formula, Kept | None]]
        queue = [(formula, None) for formula in sorted(formulas, key=_promise)]
        if self.full is not None and len(queue) > self.full:
            queue = self._screen([formula for formula, _ in queue])
        for done, (formula, known) in enumerate(queue):
            self.tell("measuring", done, len(queue), self.best[0] if self.best else None)
            kept = known or self._new(formula)
            if kept is not None:
                self._climb(formula, kept)

    def better(self, value: float) -> int:
        """Return how many formulas that were measured in full are better than a value."""
        return bisect.bisect_left(self._signed, self._sign * value)

    @property
    def left(self) -> int:
        """How many formulas were left early, since their first blocks shut them out."""
        below = sum(count for fidelity, count in self.measured.items() if fidelity < 1)
        return below - self.screened

    @property
    def bar(self) -> float:
        """The value that formulas were left early for being worse than; infinite for none."""
        if self._floor is None or len(self.best) < self.keep:
            return math.inf
        return max([self.best[self.keep - 1].value, *self.rivals])

    def outcome(self, expression: Expression, fidelity: float, identity: str = "") -> Outcome:
        """Return what an expression is worth, measured now or at any time before."""
        digest = key(expression)
        known = self.outcomes.recall(digest, self._protocol, fidelity)
        if known is None:
            (known,) = self.evaluator.measure([expression], fidelity)
            kept = Kept(expression, digest, identity)
            self.outcomes.keep(kept, self._protocol, fidelity, known)
        return known

    @property
    def rungs(self) -> tuple[float, ...]:
        """The fidelities that are used: each at least twice the one before it, or the last."""
        if self._floor is None:
            return (1.0,)
        chosen: list[float] = []
        for fidelity in self.evaluator.fidelities:
            if not chosen or fidelity >= 2 * chosen[-1] or fidelity == 1:
                chosen.append(fidelity)
        return tuple(chosen)

    @property
    def _floor(self) -> float | None:
        """The least value of a block, where knowing it can show that a formula is not the best."""
        if self.evaluator.objective.direction is Direction.MAXIMIZE:
            return None
        found: float | None = getattr(self.evaluator, "least_block", None)
        return found

    def _new(self, formula: Formula) -> Kept | None:
        """Return a formula with its identity, or None if that fails or is known."""
        identity = self.evaluator.identity(formula.expression)
        if isinstance(identity, Failed):
            self.failed[identity.reason] += 1
            return None
        if identity in self._identities:
            return None
        self._identities.add(identity)
        self.masks += 1
        return Kept(formula.expression, key(formula.expression), identity)

    def _screen(self, queue: Sequence[Formula]) -> list[tuple[Formula, Kept]]:
        """Return those formulas that are best at the cheapest rung, with their identities."""
        cheapest = self.evaluator.fidelities[0]
        ranked: list[tuple[float, int, Formula, Kept]] = []
        for done, formula in enumerate(queue):
            self.tell("screening", done, len(queue), None)
            kept = self._new(formula)
            if kept is None:
                continue
            outcome = self.outcome(formula.expression, cheapest, kept.identity)
            if isinstance(outcome, Failed):
                self.failed[outcome.reason] += 1
            else:
                ranked.append((self._sign * outcome.value, done, formula, kept))
        ranked.sort(key=lambda row: row[:2])
        self.screened = max(0, len(ranked) - (self.full or 0))
        self.measured[cheapest] += self.screened
        return [(formula, kept) for _, _, formula, kept in ranked[: self.full]]

    def _climb(self, formula: Formula, kept: Kept) -> None:
        """Measure a formula rung by rung, until it cannot matter any more."""
        for fidelity in self.rungs:
            outcome = self.outcome(formula.expression, fidelity, kept.identity)
            if isinstance(outcome, Failed):
                self.failed[outcome.reason] += 1
                return
            if fidelity == 1:
                self._rank(Standing(formula, outcome.value))
            elif not self._out(outcome):
                continue
            self.measured[fidelity] += 1
            return

    def _out(self, outcome: Measured) -> bool:
        """Return whether the blocks measured so far are too bad for any others to make good."""
        least = outcome.value * outcome.fidelity + (self._floor or 0.0) * (1 - outcome.fidelity)
        return least > self.bar * (1 + ROUNDING)

    def _rank(self, standing: Standing) -> None:
        bisect.insort(self._signed, self._sign * standing.value)
        self.best.append(standing)
        self.best.sort(key=self._rank_of)
        del self.best[self.keep :]

    def _rank_of(self, standing: Standing) -> tuple[float, int, str]:
        return self._sign * standing.value, standing.formula.size, str(standing.formula.expression)


ROUNDING = 1e-6
"""By how much, relatively, a sum of blocks may be off."""


def _promise(formula: Formula) -> tuple[float, int, int, str]:
    """Return a key that puts first what is likely good, and of equals the simplest."""
    expression = formula.expression
    return formula.distortion or 0.0, formula.size, expression.size, str(expression)
