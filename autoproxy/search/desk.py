"""Between the search and whoever measures: recalled first, measured once, kept on arrival."""

import concurrent.futures
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Protocol

from autoproxy.evaluation import Evaluator, Failed, Objective, Outcome
from autoproxy.search import ladder
from autoproxy.search.tasks import Task, climb

Recall = Callable[[float], Outcome | None]
"""What is known of a candidate at a fidelity."""

Keep = Callable[[float, Outcome], None]
"""Stores the outcome of a candidate at a fidelity."""


class Work(Protocol):
    """One task that was begun."""

    @property
    def done(self) -> bool:
        """Whether `outcomes` can be asked without waiting for another process."""
        ...

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcome at one fidelity after another, as `climb` does; wait where needed."""
        ...


class Desk(Protocol):
    """Where tasks are handed in; it belongs to one thread, which also does all recalling and keeping."""

    @property
    def ahead(self) -> bool:
        """Whether tasks run before their outcomes are asked for, several at once."""
        ...

    def begin(self, task: Task, recall: Recall, keep: Keep) -> Work:
        """Hand in a task."""
        ...

    def wait(self) -> None:
        """Return when some work that was begun, and was not done, is done; at once without any."""
        ...

    def drop(self) -> None:
        """Forget all that was begun; what no worker has yet is not measured any more."""
        ...


class LocalDesk:
    """Measures in this process, one task at a time, no step before it is asked for.

    Args:
        evaluator: Who measures.
    """

    ahead = False

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def begin(self, task: Task, recall: Recall, keep: Keep) -> Work:
        """Return the work, of which nothing is done yet."""
        return _Lazy(self._evaluator, task, recall, keep)

    def wait(self) -> None:
        """Return at once: nobody else is at work."""

    def drop(self) -> None:
        """Nothing is under way."""


class _Lazy:
    done = True

    def __init__(self, evaluator: Evaluator, task: Task, recall: Recall, keep: Keep) -> None:
        self._evaluator = evaluator
        self._task = task
        self._recall = recall
        self._keep = keep

    def outcomes(self) -> Iterator[Outcome]:
        """Yield what is known, then what is measured, step by step."""
        objective = self._evaluator.objective
        known, rest = _known(self._task, self._recall, objective)
        yield from known
        if rest is None:
            return
        for fidelity, outcome in zip(
            rest.fidelities, climb(self._evaluator, rest), strict=False
        ):  # it may end before they do
            self._keep(fidelity, outcome)
            yield outcome


class CrewDesk:
    """Hands tasks to workers as soon as they are begun, and keeps what they return.

    A value is kept the first time this desk is asked anything after it arrived, so that it is
    stored also where its turn is far off; each exactly once.

    Args:
        submit: Hands a task to the workers; its future has the outcomes that `climb` yields.
        objective: What they measure.
    """

    ahead = True

    def __init__(
        self, submit: Callable[[Task], Future[list[Outcome]]], objective: Objective
    ) -> None:
        self._submit = submit
        self._objective = objective
        self._under_way: dict[Future[list[Outcome]], _Sent] = {}

    def begin(self, task: Task, recall: Recall, keep: Keep) -> Work:
        """Recall what is known, and hand out what is not."""
        self._collect()
        known, rest = _known(task, recall, self._objective)
        work = _Sent(self, known)
        if rest is not None:
            work.future = self._submit(rest)
            work.missing = rest.fidelities
            work.keep = keep
            self._under_way[work.future] = work
        return work

    def wait(self) -> None:
        """Wait until one more piece of work is done; keep all that has arrived."""
        if self._under_way and not self._collect():
            concurrent.futures.wait(
                self._under_way, return_when=concurrent.futures.FIRST_COMPLETED
            )
            self._collect()

    def drop(self) -> None:
        """Cancel what no worker has, and forget the rest."""
        for future in self._under_way:
            future.cancel()
        self._under_way.clear()

    def _collect(self) -> bool:
        """Keep what has arrived; return whether anything has."""
        arrived = [future for future in self._under_way if future.done()]
        for future in arrived:
            self.take_in(self._under_way[future])
        return bool(arrived)

    def take_in(self, work: "_Sent") -> None:
        """Keep what a future holds, waiting for it, unless that was done before."""
        if work.future is None or self._under_way.pop(work.future, None) is None:
            return
        error = work.future.exception()
        if error is not None:
            work.error = error  # raised when its turn comes, the same on every run
            return
        for fidelity, outcome in zip(work.missing, work.future.result(), strict=False):
            work.keep(fidelity, outcome)
            work.known.append(outcome)


class _Sent:
    """What is known of a task, and the future of the rest."""

    def __init__(self, desk: CrewDesk, known: list[Outcome]) -> None:
        self._desk = desk
        self.known = known
        self.future: Future[list[Outcome]] | None = None
        self.missing: tuple[float, ...] = ()
        self.error: BaseException | None = None
        self.keep: Keep = _never

    @property
    def done(self) -> bool:
        """Whether all outcomes are here; they are kept then."""
        if self.future is not None and self.future.done():
            self._desk.take_in(self)
        return self.future is None or self.future.done()

    def outcomes(self) -> Iterator[Outcome]:
        """Yield what was known, then what workers measured, once it is here."""
        recalled = len(self.known) - self._arrived
        yield from self.known[:recalled]
        self._desk.take_in(self)
        if self.error is not None:
            raise self.error
        yield from self.known[recalled:]


def _known(
    task: Task, recall: Recall, objective: Objective
) -> tuple[list[Outcome], Task | None]:
    """Return the outcomes that are known from the first fidelity on, and the task that is left."""
    known: list[Outcome] = []
    for number, fidelity in enumerate(task.fidelities):
        outcome = recall(fidelity)
        if outcome is None:
            return known, Task(task.text, task.fidelities[number:], task.rival)
        known.append(outcome)
        if isinstance(outcome, Failed) or ladder.beaten(
            outcome.blocks, task.rival, objective.sign
        ):
            break
    return known, None


def _never(fidelity: float, outcome: Outcome) -> None:
    """Stand where nothing will arrive."""
