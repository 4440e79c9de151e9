"""A desk at which measurements end in any order."""

import random
from collections.abc import Iterator

from autoproxy.evaluation import Evaluator, Outcome
from autoproxy.search.tasks import Keep, Recall, Task, climb


class _Pending:
    def __init__(self, task: Task, recall: Recall, keep: Keep) -> None:
        self.task, self.recall, self.keep = task, recall, keep
        self.found: list[Outcome] | None = None

    @property
    def done(self) -> bool:
        return self.found is not None

    def outcomes(self) -> Iterator[Outcome]:
        assert self.found is not None, "asked before it was waited for"
        return iter(self.found)

    def finish(self, evaluator: Evaluator) -> None:
        """Do it all, keeping what was not known."""
        self.found = list(climb(evaluator, self.task, self.recall, self.keep))


class ShuffledDesk:
    """Stands for many workers: what was begun is done in an order of its own.

    Args:
        evaluator: Measures.
        seed: Of the order.
        workers: How many are at work at once.

    Attributes:
        waited: How many were under way, each time it was waited for one.
        dropped: How many nobody waited for.
    """

    ahead = True

    def __init__(self, evaluator: Evaluator, seed: int, workers: int) -> None:
        self._evaluator = evaluator
        self._draw = random.Random(seed)
        self._workers = workers
        self._under_way: list[_Pending] = []
        self.waited: list[int] = []
        self.dropped = 0

    def begin(self, task: Task, recall: Recall, keep: Keep) -> _Pending:
        self._under_way.append(_Pending(task, recall, keep))
        return self._under_way[-1]

    def wait(self) -> None:
        self.waited.append(len(self._under_way))
        chosen = self._draw.randrange(min(self._workers, len(self._under_way)))
        self._under_way.pop(chosen).finish(self._evaluator)

    def drop(self) -> None:
        self.dropped += len(self._under_way)
        self._under_way.clear()
