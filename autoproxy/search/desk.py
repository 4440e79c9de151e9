"""Between the search and whoever measures: recalled first, measured once, kept on arrival."""

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol

from autoproxy.evaluation import Evaluator, Objective, Outcome
from autoproxy.search.tasks import Keep, Recall, Task, climb, is_over


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
    """Where tasks are handed in. One thread owns it, and does all recalling and keeping."""

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
        """Keep what has arrived and forget the rest; what no worker has yet is not measured."""
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
        return _Lazy(partial(climb, self._evaluator, task, recall, keep))

    def wait(self) -> None:
        """Return at once: nobody else is at work."""

    def drop(self) -> None:
        """Nothing is under way."""


class _Lazy:
    done = True

    def __init__(self, outcomes: Callable[[], Iterator[Outcome]]) -> None:
        self.outcomes = outcomes


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
        self._under_way: list[_Sent] = []

    def begin(self, task: Task, recall: Recall, keep: Keep) -> Work:
        """Recall what is known, and hand out what is not."""
        self._take_in()
        known, rest = _known(task, recall, self._objective)
        if rest is None:
            return _Known(known)
        work = _Sent(known, self._submit(rest), rest.fidelities, keep)
        self._under_way.append(work)
        return work

    def wait(self) -> None:
        """Wait until one more piece of work is done; keep all that has arrived."""
        if self._under_way and not self._take_in():
            futures = [work.future for work in self._under_way]
            concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_COMPLETED)
            self._take_in()

    def drop(self) -> None:
        """Keep what has arrived, cancel what no worker has, and forget the rest."""
        self._take_in()
        for work in self._under_way:
            work.future.cancel()
        self._under_way.clear()

    def _take_in(self) -> bool:
        """Keep what has arrived; return whether there was anything."""
        arrived = [work for work in self._under_way if work.done]
        self._under_way = [work for work in self._under_way if work not in arrived]
        return bool(arrived)


class _Known:
    """A task of which all was known."""

    done = True

    def __init__(self, known: Sequence[Outcome]) -> None:
        self._known = known

    def outcomes(self) -> Iterator[Outcome]:
        """Yield what is known."""
        yield from self._known


class _Sent:
    """What is known of a task, and the future of the rest."""

    def __init__(
        self,
        known: Sequence[Outcome],
        future: Future[list[Outcome]],
        missing: Sequence[float],
        keep: Keep,
    ) -> None:
        self.future = future
        self._known = known
        self._missing = missing
        self._keep = keep
        self._kept = False

    @property
    def done(self) -> bool:
        """Whether all outcomes are here, and kept; or an error is."""
        if not self.future.done():
            return False
        if not self._kept and not self.future.cancelled() and self.future.exception() is None:
            self._kept = True
            for fidelity, outcome in zip(self._missing, self.future.result(), strict=False):
                self._keep(fidelity, outcome)
        return True

    def outcomes(self) -> Iterator[Outcome]:
        """Yield what was known, then what workers measured, once it is here."""
        yield from self._known
        arrived = self.future.result()
        _ = self.done  # kept before anybody acts upon it
        yield from arrived


def _known(task: Task, recall: Recall, objective: Objective) -> tuple[list[Outcome], Task | None]:
    """Return the outcomes that are known from the first fidelity on, and the task that is left."""
    known: list[Outcome] = []
    for number, fidelity in enumerate(task.fidelities):
        outcome = recall(fidelity)
        if outcome is None:
            return known, Task(task.text, task.fidelities[number:], task.rival)
        known.append(outcome)
        if is_over(outcome, task, objective):
            break
    return known, None
