"""Who stays on an island after one of its generations, and who comes from the next one."""

from collections.abc import Sequence

from autoproxy.breeding.selection import survivors
from autoproxy.evaluation import Individual, Objective
from autoproxy.search.config import SearchConfig
from autoproxy.search.state import SearchState, Step

MIGRANTS = 2
"""How many go from one island to the next at once."""


def staying(
    step: Step,
    state: SearchState,
    born: Sequence[Individual],
    config: SearchConfig,
    objective: Objective,
) -> tuple[int, ...]:
    """Return the slots of those who stay on the island of a generation, in order.

    Whoever is older than the lifespan stays only where the younger do not fill the population.

    Args:
        step: The generation.
        state: Before it.
        born: Who was measured in full in it.
        config: How to search.
        objective: What values mean.
    """
    pool = [*state.islands[step.island], *born]
    here = {individual.slot for individual in pool}
    pool += [i for i in _migrants(step, state, config, objective) if i.slot not in here]
    young = [i for i in pool if not _is_old(i, step, config)]
    chosen = survivors(young, config.population, objective, config.selection)
    if len(chosen) < config.population:
        old = [i for i in pool if _is_old(i, step, config)]
        room = config.population - len(chosen)
        chosen += survivors(old, room, objective, config.selection)
    return tuple(individual.slot for individual in chosen)


def _is_old(individual: Individual, step: Step, config: SearchConfig) -> bool:
    age = (step.generation - individual.generation) // config.islands
    return 0 < config.lifespan <= age


def _migrants(
    step: Step, state: SearchState, config: SearchConfig, objective: Objective
) -> tuple[Individual, ...]:
    """Return the best of the island before this one, every so many of its generations."""
    own = step.generation // config.islands + 1
    if config.islands == 1 or not config.migration or own % config.migration:
        return ()
    return survivors(state.islands[step.island - 1], MIGRANTS, objective, "best")
