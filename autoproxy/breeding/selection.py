"""Who breeds and who stays: DEAP's tournament and NSGA-II over individuals."""

import random
from collections.abc import Sequence
from functools import cached_property

from deap import base, tools

from autoproxy.evaluation import Individual, Objective
from autoproxy.language.running import running_cost
from autoproxy.seeding import lend_to_global


class _Fitness(base.Fitness):  # type: ignore[misc]  # DEAP has no types
    """Value (as the objective wants it), complexity and what it costs to run: all to be small."""

    weights = (-1.0, -1.0, -1.0)


class _Entrant:
    """An individual with the fitness attribute that DEAP's selectors read."""

    def __init__(self, individual: Individual, objective: Objective, *, cost: bool = False) -> None:
        self.individual = individual
        self._objective = objective
        self._cost = cost

    @cached_property
    def fitness(self) -> _Fitness:
        """Made when it is asked for: a tournament asks a few of a large pool."""
        one = self.individual
        price = running_cost(one.expression) if self._cost else 0.0
        return _Fitness((self._objective.sign * one.value, one.complexity, price))


def survivors(
    pool: Sequence[Individual], count: int, objective: Objective, method: str
) -> tuple[Individual, ...]:
    """Return the `count` individuals that stay.

    Args:
        pool: Who there is; the order decides between equals.
        count: How many stay; all, when there are no more.
        objective: What their values mean.
        method: `nsga2` (value against complexity, spread kept), `nsga2-cost` (against
            `running_cost` besides) or `best` (value alone).
    """
    entrants = [_Entrant(i, objective, cost=method == "nsga2-cost") for i in pool]
    if method == "best":
        chosen = tools.selBest(entrants, count)
    else:
        # The default, nd="standard", is quadratic: 374 us an individual at 2000 against 5.
        chosen = tools.selNSGA2(entrants, min(count, len(entrants)), nd="log")
    return tuple(entrant.individual for entrant in chosen)


def tournament(
    pool: Sequence[Individual], rng: random.Random, size: int, objective: Objective
) -> Individual:
    """Return the best, by value and then by complexity, of `size` drawn with replacement."""
    entrants = [_Entrant(individual, objective) for individual in pool]
    with lend_to_global(rng):
        (winner,) = tools.selTournament(entrants, 1, size)
    found: Individual = winner.individual
    return found
