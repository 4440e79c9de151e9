"""What a generation proposes: random expressions first, then children and immigrants."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from autoproxy.breeding.constants import tune
from autoproxy.breeding.fitting import Residuals, fit
from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.selection import tournament
from autoproxy.breeding.variation import MUTATIONS, blend, cross, mutate, sprout
from autoproxy.evaluation import Individual, Objective
from autoproxy.language.expression import Expression
from autoproxy.language.prediction import features
from autoproxy.search.config import SearchConfig
from autoproxy.seeding import stream

_BLEND = 0.25
"""Share of the children of two parents that are their product or sum."""

_STALE = 0.1
"""Share of new proposals under which immigrants are called in."""

_CALLED_IN = 0.5
"""Chance that a proposal is an immigrant then."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An expression that waits for the sieve, with where it came from."""

    slot: int
    expression: Expression
    origin: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parents:
    """What a generation is bred from.

    Attributes:
        population: Who may breed.
        known: The latest that were measured, whose like numbers are tuned by.
        new: Share of new ones among the proposals of the generation before.
    """

    population: tuple[Individual, ...] = ()
    known: Sequence[Individual] = ()
    new: float = 1.0


class Proposer:
    """Draws proposals, slot by slot.

    Slot t draws from its own stream, so what it proposes depends on the seed, on t, on the
    parents and on what was judged and proposed before.

    Args:
        grammar: Of the space.
        config: How to search.
        objective: What values mean.
        residuals: What a formula leaves unexplained, where an evaluator says it; see `Fitting`.
    """

    def __init__(
        self,
        grammar: Grammar,
        config: SearchConfig,
        objective: Objective,
        residuals: Residuals | None = None,
    ) -> None:
        self._grammar = grammar
        self._config = config
        self._objective = objective
        self._residuals = residuals

    def propose(
        self, slots: range, parents: Parents, novelty: Callable[[Expression], str | None]
    ) -> list[Proposal]:
        """Return the proposals for some slots of a generation.

        A slot draws again, up to `config.tries` times, until its proposal is new; the last one
        stands, and the sieve counts it.

        Args:
            slots: Their numbers.
            parents: What to breed from.
            novelty: Names what a proposal would be by algebra; None for one that would be dropped.
        """
        proposals = []
        proposed: set[str] = set()
        for slot in slots:
            for proposal in self._tries(slot, parents):
                name = novelty(proposal.expression)
                if name is not None and name not in proposed:
                    proposed.add(name)
                    break
            proposals.append(proposal)
        return proposals

    def _tries(self, slot: int, parents: Parents) -> Iterator[Proposal]:
        """Yield the draws of a slot; only the first one tunes, as tuning gives the same again."""
        config = self._config
        rng = stream(config.seed, config.strategy, slot)
        bred = config.strategy == "evolve" and len(parents.population) >= 2
        for number in range(config.tries):
            if not bred or rng.random() < self._immigrants(parents):
                yield Proposal(slot, self._ramped(rng), "random")
            else:
                yield self._child(slot, rng, parents, tuning=number == 0)

    def _immigrants(self, parents: Parents) -> float:
        asked = self._config.immigrants
        return max(asked, _CALLED_IN) if asked and parents.new < _STALE else asked

    def _child(self, slot: int, rng: random.Random, parents: Parents, *, tuning: bool) -> Proposal:
        config, grammar = self._config, self._grammar
        mother = tournament(parents.population, rng, config.tournament, self._objective)
        if tuning and config.tune and rng.random() < config.tune:
            powers = "pow" in grammar.space.primitives
            tuned = tune(mother, parents.known, self._objective, rng, powers=powers)
            if tuned is not None:
                return Proposal(slot, tuned, "tuned", (mother.key,))
        if tuning and self._fits(rng):
            fitted = self._fitted(mother.expression, rng)
            if fitted is not None:
                return Proposal(slot, fitted, "fitted", (mother.key,))
        bred_of, how, child = self._varied(mother, parents, rng)
        if self._fits(rng) and _all_known(child, bred_of):
            child = self._fitted(child, rng) or child
        return Proposal(slot, child, how, tuple(parent.key for parent in bred_of))

    def _varied(
        self, mother: Individual, parents: Parents, rng: random.Random
    ) -> tuple[tuple[Individual, ...], str, Expression]:
        """Return a child of one or two parents, and who they are and how it was bred."""
        config, grammar = self._config, self._grammar
        if rng.random() < config.crossover:
            father = self._another(parents.population, mother, rng)
            how, unite = ("blend", blend) if rng.random() < _BLEND else ("crossover", cross)
            child = unite(grammar, rng, mother.expression, father.expression)
            if config.mutation and rng.random() < config.mutation:
                child = mutate(grammar, rng, rng.choice(list(MUTATIONS)), child)
            return (mother, father), how, child
        how = rng.choice(list(MUTATIONS))
        return (mother,), how, mutate(grammar, rng, how, mother.expression)

    def _fits(self, rng: random.Random) -> bool:
        asked = self._config.fit if self._residuals else 0.0
        return asked > 0 and rng.random() < asked

    def _fitted(self, expression: Expression, rng: random.Random) -> Expression | None:
        if self._residuals is None:
            return None
        return fit(expression, self._residuals, self._grammar.space, rng)

    def _ramped(self, rng: random.Random) -> Expression:
        """Return one of ramped half-and-half: depths 2 to 5 where they fit, half of them full."""
        highest = min(5, self._grammar.space.max_depth - 1)
        high = rng.randint(min(2, highest), highest)
        return sprout(self._grammar, rng, low=1, high=high, full=rng.random() < 0.5)

    def _another(
        self, population: Sequence[Individual], mother: Individual, rng: random.Random
    ) -> Individual:
        """Return a parent by tournament among those that are not `mother`, if there are any.

        Where repetitions are let through, a whole population may be one formula.
        """
        others = [individual for individual in population if individual.key != mother.key]
        return tournament(others or population, rng, self._config.tournament, self._objective)


def _all_known(child: Expression, parents: Sequence[Individual]) -> bool:
    """Return whether a child reads no more of the layers of networks than its parents do.

    What else it reads would be read for it alone here, and not for a whole generation at a time.
    """
    read = {feature for parent in parents for feature in features(parent.expression)}
    return read.issuperset(features(child))
