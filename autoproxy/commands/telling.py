"""What a search tells the view: where it stands, from its state and its memory."""

from dataclasses import replace
from functools import lru_cache

from autoproxy.commands.memory import LedgerMemory
from autoproxy.commands.progress import Progress, Show
from autoproxy.commands.summary import funnel
from autoproxy.evaluation import Objective
from autoproxy.export.formula import infix_of
from autoproxy.ledger.hall_of_fame import HallOfFame
from autoproxy.search.config import SearchConfig
from autoproxy.search.state import SearchState


class Teller:
    """Tells a view where a search stands; it only reads, so that a watched run is the same run.

    Args:
        show: The view.
        start: What stays as it is: the stage and the run.
        memory: Counts and what was spent.
        config: With the budget.
        objective: What the values mean.
        reference: Name and value of the hand-made metric to beat.
    """

    def __init__(
        self,
        show: Show,
        start: Progress,
        memory: LedgerMemory,
        config: SearchConfig,
        objective: Objective,
        reference: tuple[str, float] | None,
    ) -> None:
        self._show = show
        self._memory = memory
        self._hall = HallOfFame(objective)
        self._seen = 0
        limit = None if config.minutes is None else 60 * config.minutes
        self._start = replace(
            start,
            total=config.evaluations,
            limit=limit,
            objective=objective.name,
            reference=reference,
        )

    def __call__(self, state: SearchState, seconds: float) -> None:
        """Tell where the search stands `seconds` after its stage began."""
        for individual in state.archive[self._seen :]:
            self._hall = self._hall.add(individual)
        self._seen = len(state.archive)
        front = front_of(self._hall)
        self._show(
            replace(
                self._start,
                done=self._memory.spent,
                before=self._memory.before,
                seconds=seconds,
                generation=state.generation,
                funnel=shown_funnel(self._memory.funnel),
                best=(front[-1][2], front[-1][1]) if front else None,
                front=front,
                new=sum(state.new) / len(state.new) if state.generation else None,
            )
        )


def front_of(hall: HallOfFame) -> list[tuple[int, float, str]]:
    """Return complexity, value and formula of each on the front, the best last."""
    return [(one.complexity, one.value, _formula(one.text)) for one in hall.front()]


@lru_cache(maxsize=1000)
def _formula(text: str) -> str:
    return infix_of(text)


def shown_funnel(counts: dict[str, int]) -> dict[str, int]:
    """Return the counts in the order of the sieve, less those that nothing fell under.

    >>> shown_funnel({"measured": 1, "repeat": 2, "proposed": 3})
    {'proposed': 3, 'repeat': 2, 'measured': 1}
    """
    return {name: count for name, count in funnel(counts).items() if count}
