"""Breeding one generation after another: proposals, the sieve, and what came through it."""

from collections.abc import Callable
from dataclasses import dataclass

from autoproxy.breeding.grammar import Grammar
from autoproxy.evaluation import Evaluator, Fitting, Individual
from autoproxy.search import ladder
from autoproxy.search.config import SearchConfig
from autoproxy.search.fate import Fate, dropped
from autoproxy.search.proposals import Parents, Proposal, Proposer
from autoproxy.search.state import SearchState, Step
from autoproxy.sieve.rules import Dropped, Kept
from autoproxy.sieve.sieve import REPEATS, Sieve
from autoproxy.spaces import SearchSpace

PORTIONS = 8
"""Most portions of proposals in a generation: late in a search hardly any is new."""

KNOWN = 500
"""How many of the latest measured ones say whether a rung ranks well, and tune numbers."""


@dataclass(frozen=True, slots=True)
class Brood:
    """What was bred from one state.

    Attributes:
        step: What the generation changes, so far as it is known.
        kept: Its candidates, in the order of their slots.
        screened: Earlier values of the rung that screens it.
        rival: Whom its candidates race against, or None.
    """

    step: Step
    kept: list[tuple[Proposal, Kept]]
    screened: tuple[float, ...]
    rival: Individual | None


class Breeder:
    """Breeds the generations of a search, each from the state that it is given.

    Args:
        space: Where to look.
        evaluator: Gives fingerprints and identities to the sieve.
        config: How to look.
        note: Told what becomes of what the sieve drops.
    """

    def __init__(
        self,
        space: SearchSpace,
        evaluator: Evaluator,
        config: SearchConfig,
        note: Callable[[Fate], None],
    ) -> None:
        self._space = space
        self._objective = evaluator.objective
        *self._cheap, _ = evaluator.fidelities
        self._config = config
        self._note = note
        residuals = evaluator.residuals if isinstance(evaluator, Fitting) else None
        self._proposer = Proposer(Grammar(space), config, evaluator.objective, residuals)
        self._sieve = Sieve(space, evaluator, config.reject, same=config.same)
        self._generation = 0  # the next one that is bred, with its first slot
        self._slot = 0

    def skip(self, step: Step) -> None:
        """Go on behind a generation that was bred before, as if it had been bred here."""
        self._sieve.restore(step.seen)
        self._generation, self._slot = step.generation + 1, step.slot

    def breed(self, base: SearchState) -> Brood:
        """Propose in portions until as many candidates as a generation has came through."""
        island = self._generation % self._config.islands
        parents = Parents(base.islands[island], base.archive[-KNOWN:], base.new[island])
        count = self._portion()
        kept: list[tuple[Proposal, Kept]] = []
        repeated, first = 0, self._slot
        for _ in range(PORTIONS):
            proposals = self._proposals(count, parents)
            verdicts = self._sieve.judge([(p.slot, p.expression) for p in proposals])
            for proposal, verdict in zip(proposals, verdicts, strict=True):
                if isinstance(verdict, Dropped):
                    repeated += verdict.rule in REPEATS
                    self._note(dropped(proposal, self._generation, verdict))
                else:
                    kept.append((proposal, verdict))
            self._slot += count
            if len(kept) >= count:
                break
        rung = self._trusted_rung(base)
        step = Step(
            generation=self._generation,
            island=island,
            slot=self._slot,
            spent=0.0,
            rung=rung,
            screened=(),
            born=(),
            population=(),
            new=1 - repeated / (self._slot - first),
            seen=self._sieve.noted(),
        )
        self._generation += 1
        screened = base.screened if rung == base.rung else ()
        rival = ladder.incumbent(base.islands[island], self._config, self._objective)
        return Brood(step, kept, screened, rival)

    def _portion(self) -> int:
        """Return how many are proposed at once: more for an island's first generation."""
        config = self._config
        if self._generation >= config.islands:
            return config.batch
        if not self._cheap:
            return config.first_batch
        # Half of a small budget is left for full measurements.
        affordable = int(config.evaluations / 2 / self._cheap[0] / config.islands)
        return max(2, min(config.first_batch, affordable))

    def _proposals(self, count: int, parents: Parents) -> list[Proposal]:
        slots = range(self._slot, self._slot + count)
        proposals = self._proposer.propose(slots, parents, self._sieve.novelty)
        if self._slot or not self._config.seeds:
            return proposals
        known = zip(proposals, self._space.seeds)  # noqa: B905 - the shorter list ends it
        seeds = [Proposal(proposal.slot, one, "seed") for proposal, one in known]
        return seeds + proposals[len(seeds) :]

    def _trusted_rung(self, base: SearchState) -> int:
        """Return the rung that screens: a dearer one where the one so far misled."""
        rung = base.rung
        latest = base.archive[-KNOWN:]
        while rung < len(self._cheap) and not ladder.trusted(latest, self._cheap[rung]):
            rung += 1
        return rung
