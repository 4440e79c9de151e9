"""What a generation proposes: random expressions first, then children and immigrants."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from autoproxy.breeding.grammar import Grammar
from autoproxy.breeding.selection import tournament
from autoproxy.breeding.variation import MUTATIONS, blend, cross, mutate, sprout
from autoproxy.evaluation import Individual, Objective
from autoproxy.language.expression import Expression
from autoproxy.search.config import SearchConfig
from autoproxy.search.state import SearchState
from autoproxy.seeding import stream

_BLEND = 0.25
"""Share of the children of two parents that are their product or sum."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An expression that waits for the sieve, with where it came from."""

    slot: int
    expression: Expression
    origin: str
    parents: tuple[str, ...] = ()


def propose(
    grammar: Grammar,
    config: SearchConfig,
    objective: Objective,
    state: SearchState,
    novelty: Callable[[Expression], str | None],
) -> list[Proposal]:
    """Return the proposals for the next slots of a generation.

    Slot t draws from its own stream, so what it proposes depends on the seed, on t, on the
    population and on what was judged and proposed before. A slot draws again, up to
    `config.tries` times, until its proposal is new; the last one stands, and the sieve counts it.

    Args:
        grammar: Of the space.
        config: How to search.
        objective: What values mean.
        state: Where the run stands.
        novelty: Names what a proposal would be by algebra; None for one that would be dropped.
    """
    count = config.first_batch if state.generation == 0 else config.batch
    proposals = []
    proposed: set[str] = set()
    for slot in range(state.slot, state.slot + count):
        rng = stream(config.seed, config.strategy, slot)
        for _ in range(config.tries):
            proposal = _propose_one(grammar, config, objective, state, slot, rng)
            name = novelty(proposal.expression)
            if name is not None and name not in proposed:
                proposed.add(name)
                break
        proposals.append(proposal)
    return proposals


def _propose_one(
    grammar: Grammar,
    config: SearchConfig,
    objective: Objective,
    state: SearchState,
    slot: int,
    rng: random.Random,
) -> Proposal:
    bred = config.strategy == "evolve" and len(state.population) >= 2
    if not bred or rng.random() < config.immigrants:
        return Proposal(slot, _ramped(grammar, rng), "random")
    mother = tournament(state.population, rng, config.tournament, objective)
    if rng.random() < config.crossover:
        father = _another(state.population, mother, rng, config, objective)
        how, unite = ("blend", blend) if rng.random() < _BLEND else ("crossover", cross)
        child = unite(grammar, rng, mother.expression, father.expression)
        return Proposal(slot, child, how, (mother.key, father.key))
    how = rng.choice(list(MUTATIONS))
    child = mutate(grammar, rng, how, mother.expression)
    return Proposal(slot, child, how, (mother.key,))


def _ramped(grammar: Grammar, rng: random.Random) -> Expression:
    """Return one of ramped half-and-half: depths 2 to 5, half of them full."""
    high = rng.randint(2, min(5, grammar.space.max_depth - 1))
    return sprout(grammar, rng, low=1, high=high, full=rng.random() < 0.5)


def _another(
    population: tuple[Individual, ...],
    mother: Individual,
    rng: random.Random,
    config: SearchConfig,
    objective: Objective,
) -> Individual:
    """Return a parent that is not `mother`, chosen by tournament among the others."""
    others = [individual for individual in population if individual.key != mother.key]
    return tournament(others, rng, config.tournament, objective)
