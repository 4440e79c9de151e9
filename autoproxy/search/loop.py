"""The loop of the search: propose, sieve, measure, select; one state after another."""

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.selection import survivors
from autoproxy.evaluation import (
    Evaluator,
    Failed,
    Individual,
    Measured,
    Outcome,
    by_block,
    content_hash,
)
from autoproxy.language.complexity import complexity
from autoproxy.language.expression import Expression
from autoproxy.search import ladder
from autoproxy.search.config import SearchConfig
from autoproxy.search.proposals import Proposal, propose
from autoproxy.search.state import SearchState
from autoproxy.sieve.rules import Dropped, Kept
from autoproxy.sieve.sieve import Sieve
from autoproxy.spaces import SearchSpace


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


class Memory(Protocol):
    """What the loop needs of the ledger: to ask before measuring, and to keep all it learns."""

    def recall(self, key: str, protocol: str, fidelity: float) -> Outcome | None:
        """Return what is known of a candidate, or None."""
        ...

    def keep(self, kept: Kept, protocol: str, fidelity: float, outcome: Outcome) -> None:
        """Store an outcome the instant it is known."""
        ...

    def note(self, fate: Fate) -> None:
        """Store what became of a proposal."""
        ...


class Search:
    """A search over one space with one evaluator.

    Args:
        space: Where to look.
        evaluator: How good a candidate is.
        memory: Where outcomes are kept and looked up.
        config: How to look.
        expired: Says whether the time is up; asked between measurements.
    """

    def __init__(
        self,
        space: SearchSpace,
        evaluator: Evaluator,
        memory: Memory,
        config: SearchConfig,
        expired: Callable[[], bool] = lambda: False,
    ) -> None:
        self._space = space
        self._evaluator = evaluator
        self._memory = memory
        self._config = config
        self._expired = expired
        self._grammar = Grammar(space)
        self._sieve = Sieve(space, evaluator, config.reject)
        self._protocol = content_hash(evaluator.protocol())

    def run(self, state: SearchState | None = None) -> Iterator[SearchState]:
        """Yield the state after each generation, until the budget is spent.

        It is deterministic: with what the memory holds it repeats itself without measuring
        anything twice, so an interrupted run is resumed by running it again.
        """
        state = state or SearchState()
        idle = 0
        while state.finished is None:
            before = len(state.archive)
            state = self._generation(state)
            idle = 0 if len(state.archive) > before else idle + 1
            if idle >= _IDLE_GENERATIONS and state.finished is None:
                state = state.finish(f"nothing new in {idle} generations")
            yield state

    def _generation(self, state: SearchState) -> SearchState:
        before = len(state.archive)
        state, kept = self._sieved(state)
        after = self._climb(state, kept)
        pool = (*after.population, *after.archive[before:])
        return replace(
            after,
            generation=state.generation + 1,
            population=survivors(
                pool, self._config.population, self._evaluator.objective, self._config.selection
            ),
        )

    def _sieved(self, state: SearchState) -> tuple[SearchState, list[tuple[Proposal, Kept]]]:
        """Propose in portions until as many candidates as a generation has came through."""
        kept: list[tuple[Proposal, Kept]] = []
        for _ in range(_PORTIONS):
            proposals = self._proposals(state)
            verdicts = self._sieve.judge([(p.slot, p.expression) for p in proposals])
            for proposal, verdict in zip(proposals, verdicts, strict=True):
                if isinstance(verdict, Dropped):
                    self._memory.note(_dropped(proposal, state.generation, verdict))
                else:
                    kept.append((proposal, verdict))
            state = replace(state, slot=state.slot + len(proposals))
            if len(kept) >= len(proposals):
                break
        return state, kept

    def _proposals(self, state: SearchState) -> list[Proposal]:
        config = self._config
        *cheap, _ = self._evaluator.fidelities
        if cheap:  # half of a small budget is left for full measurements
            affordable = int(config.evaluations / 2 / cheap[0])
            config = replace(config, first_batch=max(2, min(config.first_batch, affordable)))
        proposals = propose(
            self._grammar,
            config,
            self._evaluator.objective,
            state,
            self._sieve.novelty,
        )
        if state.slot or not self._config.seeds:
            return proposals
        known = [b for b in self._space.baselines if not self._space.violation(b.expression)]
        seeds = [Proposal(s.slot, b.expression, "seed") for s, b in zip(proposals, known)]  # noqa: B905 - the shorter list ends it
        return seeds + proposals[len(seeds) :]

    def _climb(self, state: SearchState, kept: Sequence[tuple[Proposal, Kept]]) -> SearchState:
        """Measure the batch rung by rung; what a cheap rung ranks low goes no further."""
        state = self._trusting(state)
        *cheap, _ = self._evaluator.fidelities
        waiting, paid = list(kept), 0.0
        for fidelity in cheap[state.rung : state.rung + 1]:
            state, waiting = self._screen(state, waiting, fidelity)
            paid = fidelity
        incumbent = ladder.incumbent(state, self._config, self._evaluator.objective)
        for proposal, candidate in waiting:
            if state.finished:
                break
            state, outcome, fate = self._race(state, candidate, paid, incumbent)
            self._memory.note(_fate(proposal, state.generation, candidate, outcome, fate))
            if isinstance(outcome, Measured) and fate == "measured":
                individual = _individual(proposal, candidate, outcome)
                state = replace(state, archive=(*state.archive, individual))
        return state

    def _trusting(self, state: SearchState) -> SearchState:
        """Return the state with a dearer screening rung, where the one so far misled."""
        *cheap, _ = self._evaluator.fidelities
        rung = state.rung
        while rung < len(cheap) and not ladder.trusted(state.archive, cheap[rung]):
            rung += 1
        return state if rung == state.rung else replace(state, rung=rung, screened=())

    def _race(
        self, state: SearchState, candidate: Kept, paid: float, incumbent: Individual | None
    ) -> tuple[SearchState, Outcome, str]:
        """Measure in full, block by block, unless it turns out to be worse than the incumbent."""
        sign = self._evaluator.objective.sign
        rival = by_block(incumbent.details) if incumbent else ()
        for fidelity in self._evaluator.fidelities:
            if fidelity <= paid or (fidelity < 1 and incumbent is None):
                continue
            state, outcome = self._measure(state, candidate, fidelity, paid)
            paid = fidelity
            if isinstance(outcome, Failed):
                break
            if fidelity < 1 and ladder.beaten(outcome.blocks, rival, sign):
                return state, outcome, "raced"
        return state, outcome, "measured"

    def _screen(
        self, state: SearchState, kept: Sequence[tuple[Proposal, Kept]], fidelity: float
    ) -> tuple[SearchState, list[tuple[Proposal, Kept]]]:
        """Measure at low fidelity and promote the best share of all that was screened so far."""
        sign = self._evaluator.objective.sign
        outcomes: list[tuple[Proposal, Kept, Outcome]] = []
        for proposal, candidate in kept:
            if state.finished:
                break
            state, outcome = self._measure(state, candidate, fidelity)
            outcomes.append((proposal, candidate, outcome))
            if isinstance(outcome, Measured):
                state = replace(state, screened=(*state.screened, outcome.value))
        ranked = sorted(sign * value for value in state.screened)
        bar = max(1, round(self._config.promote * len(ranked)))
        promoted = []
        for proposal, candidate, outcome in outcomes:
            rank = (
                bisect.bisect_left(ranked, sign * outcome.value)
                if isinstance(outcome, Measured)
                else len(ranked)
            )
            if rank < bar:
                promoted.append((proposal, candidate))
            else:
                fate = _fate(proposal, state.generation, candidate, outcome, "screened")
                self._memory.note(fate)
        return state, promoted

    def _measure(
        self, state: SearchState, candidate: Kept, fidelity: float, paid: float = 0.0
    ) -> tuple[SearchState, Outcome]:
        """Ask the memory, else the evaluator; the budget is charged alike, for what is new."""
        outcome = self._memory.recall(candidate.key, self._protocol, fidelity)
        if outcome is None:
            (outcome,) = self._evaluator.measure([candidate.expression], fidelity)
            self._memory.keep(candidate, self._protocol, fidelity, outcome)
        state = replace(state, spent=state.spent + fidelity - paid)
        if state.spent >= self._config.evaluations - 1e-9:
            state = state.finish("the budget of evaluations is spent")
        elif self._expired():
            state = state.finish("the time is up")
        return state, outcome


_PORTIONS = 8
"""Most portions of proposals in a generation: late in a search hardly any is new."""

_IDLE_GENERATIONS = 25
"""Generations without a new candidate after which the space is taken to be exhausted."""


def finalists(state: SearchState, count: int, sign: float) -> tuple[Individual, ...]:
    """Return the `count` best individuals by value, to be re-ranked on fresh blocks."""
    ranked = sorted(state.archive, key=lambda i: (sign * i.value, i.complexity, i.slot))
    return tuple(ranked[:count])


def confirm(evaluator: Evaluator, chosen: Sequence[Individual]) -> Mapping[str, tuple[float, ...]]:
    """Return the losses on fresh blocks of each individual, by key; the same blocks for all."""
    return {i.key: tuple(evaluator.confirm(i.expression)) for i in chosen}


def _individual(proposal: Proposal, candidate: Kept, outcome: Measured) -> Individual:
    return Individual(
        expression=candidate.expression,
        key=candidate.key,
        complexity=complexity(candidate.expression),
        value=outcome.value,
        slot=proposal.slot,
        origin=proposal.origin,
        parents=proposal.parents,
        details=outcome.details,
    )


def _dropped(proposal: Proposal, generation: int, verdict: Dropped) -> Fate:
    return Fate(
        proposal=proposal,
        generation=generation,
        expression=proposal.expression,
        key="",
        complexity=complexity(proposal.expression),
        fate="dropped",
        rule=verdict.rule,
        reason=verdict.reason,
    )


def _fate(
    proposal: Proposal, generation: int, candidate: Kept, outcome: Outcome, fate: str
) -> Fate:
    fate_of = Fate(
        proposal=proposal,
        generation=generation,
        expression=candidate.expression,
        key=candidate.key,
        complexity=complexity(candidate.expression),
        fate=fate,
    )
    if isinstance(outcome, Failed):
        return replace(fate_of, fate="failed", reason=outcome.reason)
    return replace(fate_of, fidelity=outcome.fidelity, value=outcome.value)
