"""The state of a search: all that its next step depends on."""

from dataclasses import dataclass, replace
from typing import Self

from autoproxy.evaluation import Individual, Objective


@dataclass(frozen=True, slots=True)
class SearchState:
    """All that the next generation depends on, beside what the sieve has seen.

    Attributes:
        generation: Generations done.
        slot: Number of the next proposal.
        spent: Budget spent, in full evaluations.
        population: Who may breed.
        archive: Everybody measured in full, in order.
        rung: Which of the evaluator's cheap fidelities screens.
        screened: Values of that rung, in order; a new one is promoted by its rank here.
        finished: Why the search is over, or None.
    """

    generation: int = 0
    slot: int = 0
    spent: float = 0.0
    population: tuple[Individual, ...] = ()
    archive: tuple[Individual, ...] = ()
    rung: int = 0
    screened: tuple[float, ...] = ()
    finished: str | None = None

    def best(self, objective: Objective) -> Individual | None:
        """Return the best individual so far by value; the earlier one of equals."""
        best: Individual | None = None
        for individual in self.archive:
            if best is None or objective.better(individual.value, best.value):
                best = individual
        return best

    def finish(self, why: str) -> Self:
        """Return this state, over."""
        return replace(self, finished=why)
