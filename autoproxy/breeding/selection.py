"""Who breeds and who stays: a tournament, and DEAP's NSGA-II over individuals."""

import random
from collections.abc import Sequence

from deap import base, tools

from autoproxy.evaluation import Individual, Objective
from autoproxy.language.running import running_cost


class _Fitness(base.Fitness):  # type: ignore[misc]  # DEAP has no types
    """Value (as the objective wants it), complexity and what it costs to run: all to be small."""

    weights = (-1.0, -1.0, -1.0)


class _Entrant:
    """An individual with the fitness attribute that DEAP's selectors read."""

    def __init__(self, individual: Individual, objective: Objective, *, cost: bool) -> None:
        self.individual = individual
        price = running_cost(individual.expression) if cost else 0.0
        value = objective.sign * individual.value
        self.fitness = _Fitness((value, individual.complexity, price))


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
    """Return the best, by value and then by complexity, of `size` drawn with replacement.

    As DEAP's, which would have every individual of the pool wrapped for it, and `rng` lent.
    """
    drawn = [rng.choice(pool) for _ in range(size)]
    return min(drawn, key=lambda i: (objective.sign * i.value, i.complexity))
