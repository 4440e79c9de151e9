"""What a worker does: open the evaluator that a run asks for, once, and measure with it."""

import contextlib
import platform
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from autoproxy.commands import loading
from autoproxy.errors import AutoproxyError, WorkerError
from autoproxy.evaluation import Evaluator, Outcome, content_hash
from autoproxy.search.tasks import Task, climb


@dataclass(frozen=True, slots=True)
class Job:
    """How a worker makes the evaluator of a run; plain values, the same for all its tasks.

    Attributes:
        evaluator: Its name.
        options: With which it is made.
        cache: Folder of statistics, as the worker's machine sees it.
        terminals: Those that the run reads, measured or mapped before the first task.
        protocol: Of the coordinator's evaluator; a worker's must be the same.
    """

    evaluator: str
    options: Mapping[str, Any]
    cache: str
    terminals: tuple[str, ...]
    protocol: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        name: str,
        options: Mapping[str, Any],
        *,
        cache: Path,
        terminals: Iterable[str],
        opened: Evaluator,
    ) -> Self:
        """Return the job of workers beside an evaluator that is open in this process."""
        where = str(cache.resolve())
        return cls(name, dict(options), where, tuple(sorted(terminals)), dict(opened.protocol()))


def measure(job: Job, task: Task) -> list[Outcome]:
    """Return the outcomes of a task, up the ladder until it is beaten.

    The evaluator stays open in this process until a task of another job comes, so a process holds
    one at most. One task is measured at a time, whatever threads ask.

    Raises:
        WorkerError: The evaluator cannot be opened here, or its values would not compare with
            those of the coordinator.
    """
    with _BENCH.lock:
        return list(climb(_BENCH.evaluator(job), task))


class _Bench:
    """The one evaluator that is open in this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._job: Job | None = None
        self._stack = contextlib.ExitStack()
        self._opened: loading.OpenEvaluator | None = None

    def evaluator(self, job: Job) -> loading.OpenEvaluator:
        """Return the evaluator of a job, opened on the first call."""
        if self._opened is None or job != self._job:
            self.leave()
            self._opened = self._open(job)
            self._job = job
        return self._opened

    def leave(self) -> None:
        """Close what is open."""
        self._opened = self._job = None
        self._stack.close()

    def _open(self, job: Job) -> loading.OpenEvaluator:
        torch.set_num_threads(1)  # sums depend on it; and there is a worker for every core
        try:
            opened = self._stack.enter_context(
                loading.evaluator(
                    job.evaluator, job.options, cache=Path(job.cache), notice=lambda _: None
                )
            )
            _check_protocol(job.protocol, opened.protocol())
            opened.prepare(job.terminals)
        except AutoproxyError as error:
            self.leave()
            raise WorkerError(
                f"the worker on {platform.node()} cannot measure: {error} (a worker needs this "
                "package, the model and all texts under the same paths as the run)"
            ) from None
        except BaseException:
            self.leave()
            raise
        return opened


_BENCH = _Bench()


def _check_protocol(wanted: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse to measure what would not compare.

    Raises:
        WorkerError: The protocols differ; the message says where.
    """
    if content_hash(dict(wanted)) == content_hash(dict(here)):
        return
    names = [n for n in sorted({*wanted, *here}) if wanted.get(n) != here.get(n)]
    differing = "; ".join(f"{n} is {here.get(n)!r}, not {wanted.get(n)!r}" for n in names)
    raise WorkerError(
        f"its values would not compare with those of the run: {differing}; install the same "
        "versions there, and give it the same files"
    )
