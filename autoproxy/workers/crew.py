"""Handing out work to workers that may die, so that whoever asked for it never notices."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, Self, TypeVar

from autoproxy.errors import WorkerError

A = TypeVar("A")
R = TypeVar("R")

LIVES = 20
"""Deaths of workers after which a piece of work is given up, or a worker that never starts.

It is many, since workers on borrowed machines die for reasons of others; it is few enough that
work which itself is deadly ends a run within minutes.
"""


@dataclass(frozen=True, slots=True)
class Loss:
    """Work ended without a result, and not by its own fault as far as is known.

    Attributes:
        reason: What happened, for people.
        whole: Whether the place is gone with all that it holds, or only this work.
        lives: How many workers it cost.
    """

    reason: str
    whole: bool = True
    lives: int = 1


class Place(Protocol):
    """Where work is done: one process, or a cluster that shares it out itself."""

    @property
    def count(self) -> int:
        """How many workers are there."""
        ...

    @property
    def room(self) -> int:
        """How much work it may hold at once."""
        ...

    def begin(self) -> Future[Any]:
        """Make it, or make it anew; return at once a future of its being ready.

        That future may fail with WorkerError, where there is no use in trying again.
        """
        ...

    def start(self, work: Callable[[Any], Any], argument: Any) -> Future[Any]:
        """Start some work there."""
        ...

    def told(self, error: BaseException) -> BaseException | Loss:
        """Return what an error of one of its futures says: one of the work's own, or a loss."""
        ...

    def close(self) -> None:
        """End it and all that it holds."""
        ...


@dataclass(slots=True, eq=False)
class _Call:
    work: Callable[[Any], Any]
    argument: Any
    future: Future[Any] = field(default_factory=Future)
    deaths: int = 0


@dataclass(slots=True, eq=False)
class _Post:
    """A place with what it holds at the moment."""

    place: Place
    holds: dict[Future[Any], _Call] = field(default_factory=dict)
    ready: bool = False
    starts: int = 0  # in vain, one after another


class Workers:
    """Workers that do what they are handed, through futures of the standard library.

    A worker that dies is made anew, and what it was at work on is handed out again: its future
    still gets its result. What the work itself raises is passed on. Work must be picklable, and
    doing it twice must do no harm.

    All that happens goes through one thread, event after event, so nothing here needs a lock.

    Args:
        places: Where work is done.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._posts = [_Post(place) for place in places]
        self._waiting: deque[_Call] = deque()
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="workers", daemon=True)
        self._thread.start()
        for post in self._posts:
            self._events.put(partial(self._begin, post))

    @property
    def count(self) -> int:
        """How many workers there are; a cluster may change it."""
        return max(1, sum(post.place.count for post in self._posts))

    def submit(self, work: Callable[[A], R], argument: A) -> Future[R]:
        """Hand out some work; return at once a future of what it returns or raises.

        The future may be cancelled until a worker has it. It raises WorkerError where workers
        died again and again, or were closed before it was done.
        """
        if self._closed:
            raise WorkerError("these workers were closed; open others")
        call = _Call(work, argument)
        self._events.put(partial(self._take, call))
        return call.future

    def close(self) -> None:
        """End all workers at once, with whatever they are doing."""
        if self._closed:
            return
        self._closed = True
        self._events.put(None)
        self._thread.join()
        for post in self._posts:
            post.place.close()
        for call in (*self._waiting, *(c for post in self._posts for c in post.holds.values())):
            if not call.future.cancel():
                call.future.set_exception(
                    WorkerError("the workers were closed before this was done; do it again")
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                event()
            except Exception as error:  # noqa: BLE001 - a bug here must not leave anybody waiting
                self._fail(error)

    def _take(self, call: _Call) -> None:
        if self._error is not None:
            call.future.set_exception(self._error)
            return
        self._waiting.append(call)
        self._hand_out()

    def _hand_out(self) -> None:
        """Give what waits to whoever has most room."""
        while self._waiting:
            post = max(self._posts, key=_free)
            if _free(post) < 1:
                return
            call = self._waiting.popleft()
            if call.future.running() or call.future.set_running_or_notify_cancel():
                self._start(post, call)

    def _start(self, post: _Post, call: _Call) -> None:
        future = _future_of(partial(post.place.start, call.work, call.argument))
        post.holds[future] = call
        future.add_done_callback(lambda done: self._events.put(partial(self._end, post, done)))

    def _end(self, post: _Post, future: Future[Any]) -> None:
        call = post.holds.get(future)
        if call is None:
            return  # it was handed out again, since its place was lost
        error = _error_of(future)
        told = post.place.told(error) if error else None
        if isinstance(told, Loss):
            self._lost(post, future, told)
        else:
            del post.holds[future]
            if told is None:
                call.future.set_result(future.result())
            else:
                call.future.set_exception(told)
        self._hand_out()

    def _lost(self, post: _Post, future: Future[Any], loss: Loss) -> None:
        """Take back what a dead worker had; the oldest of it is what it was at work on."""
        lost = list(post.holds.values()) if loss.whole else [post.holds[future]]
        if loss.whole:
            post.holds.clear()
            self._begin(post)
        else:
            del post.holds[future]
        lost[0].deaths += loss.lives
        for call in reversed(lost):
            if call.deaths >= LIVES:
                call.future.set_exception(WorkerError(_deadly(call.argument, loss.reason)))
            else:
                self._waiting.appendleft(call)

    def _begin(self, post: _Post) -> None:
        post.ready = False
        ready = _future_of(post.place.begin)
        ready.add_done_callback(lambda done: self._events.put(partial(self._begun, post, done)))

    def _begun(self, post: _Post, ready: Future[Any]) -> None:
        error = _error_of(ready)
        if error is None:
            post.ready, post.starts = True, 0
            self._hand_out()
            return
        post.starts += 1
        if isinstance(error, WorkerError):
            self._dismiss(post, error)
        elif post.starts >= LIVES:
            self._dismiss(post, WorkerError(_stillborn(post.place.told(error))))
        else:
            self._begin(post)

    def _dismiss(self, post: _Post, error: WorkerError) -> None:
        """Do without a place that does not come up; without any, all that waits has failed."""
        post.place.close()
        self._posts.remove(post)
        if self._posts:
            return
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Give `error` to all who wait, and to whoever comes."""
        self._error = error
        for call in (*self._waiting, *(c for post in self._posts for c in post.holds.values())):
            if call.future.running() or call.future.set_running_or_notify_cancel():
                call.future.set_exception(error)
        self._waiting.clear()
        for post in self._posts:
            post.holds.clear()


def _free(post: _Post) -> int:
    return post.place.room - len(post.holds) if post.ready else 0


def _future_of(start: Callable[[], Future[Any]]) -> Future[Any]:
    """Return the future that `start` returns, or one of the error that it raises."""
    try:
        return start()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told like the work's errors
        future: Future[Any] = Future()
        future.set_exception(error)
        return future


def _error_of(future: Future[Any]) -> BaseException | None:
    return CancelledWork("cancelled") if future.cancelled() else future.exception()


class CancelledWork(Exception):  # noqa: N818 - told to a place, never raised
    """A backend gave up some work without anybody having asked for it."""


def _deadly(argument: object, reason: str) -> str:
    shown = repr(argument)
    shown = shown if len(shown) <= 300 else f"{shown[:300]}..."
    return (
        f"{LIVES} workers ended, one after another, while they were at work on {shown}: {reason}; "
        "give each more memory (fewer --jobs, --dtype bfloat16, a shorter --length) and go on "
        "with: autoproxy resume"
    )


def _stillborn(told: BaseException | Loss) -> str:
    reason = told.reason if isinstance(told, Loss) else f"{type(told).__name__}: {told}"
    return f"workers cannot be started, {LIVES} times in a row: {reason}; see `autoproxy doctor`"
