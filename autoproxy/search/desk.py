"""Who measures: this process, one candidate after another."""

from collections.abc import Callable, Iterator
from typing import Protocol

from autoproxy.evaluation import Evaluator, Failed, Outcome
from autoproxy.language.parse import parse
from autoproxy.search import ladder
from autoproxy.search.tasks import Task

Recall = Callable[[float], Outcome | None]
Keep = Callable[[float, Outcome], None]


class Work(Protocol):
    @property
    def task(self) -> Task: ...
    @property
    def done(self) -> bool: ...
    def outcomes(self) -> Iterator[Outcome]: ...


class Desk(Protocol):
    @property
    def ahead(self) -> bool: ...
    def begin(self, task: Task, recall: Recall, keep: Keep) -> Work: ...
    def wait(self) -> None: ...
    def drop(self) -> None: ...


class LocalDesk:
    ahead = False

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def begin(self, task: Task, recall: Recall, keep: Keep) -> Work:
        return _Lazy(self._evaluator, task, recall, keep)

    def wait(self) -> None:
        raise NotImplementedError

    def drop(self) -> None:
        pass


class _Lazy:
    done = False

    def __init__(self, evaluator: Evaluator, task: Task, recall: Recall, keep: Keep) -> None:
        self._evaluator, self.task, self._recall, self._keep = evaluator, task, recall, keep

    def outcomes(self) -> Iterator[Outcome]:
        expression = parse(self.task.text)
        sign = self._evaluator.objective.sign
        for fidelity in self.task.fidelities:
            outcome = self._recall(fidelity)
            if outcome is None:
                (outcome,) = self._evaluator.measure([expression], fidelity)
                self._keep(fidelity, outcome)
            yield outcome
            if isinstance(outcome, Failed) or ladder.beaten(outcome.blocks, self.task.rival, sign):
                return
