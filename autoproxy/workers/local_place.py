"""Processes of this machine, by loky: one executor each, so that one death costs one worker."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import joblib
from joblib.externals.loky import process_executor
from joblib.externals.loky.process_executor import ProcessPoolExecutor, TerminatedWorkerError

from autoproxy.workers.crew import LIVES, Loss

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
"""Environment of a worker: as many workers as cores leave one thread to each."""

WATCH = 1.0
"""Seconds between looks at whether the parent still lives."""


def open_local(jobs: int | None, devices: Sequence[str]) -> "list[LocalPlace]":
    """Return one place a worker; nothing is started yet."""
    if devices:
        return [LocalPlace({"CUDA_VISIBLE_DEVICES": device}) for device in devices]
    return [LocalPlace({}) for _ in range(jobs or joblib.cpu_count())]


class LocalPlace:
    """One process.

    Args:
        environment: Set in it before anything is imported, besides one thread for all libraries.
    """

    count = 1
    room = 1  # what waits behind work that takes long would wait though others are free

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = {**ONE_THREAD, **environment}
        self._executor: Any = None

    def begin(self) -> Future[Any]:
        """Start the process, in place of a dead one."""
        self.close()
        self._executor = ProcessPoolExecutor(
            max_workers=1,
            initializer=_settle,
            initargs=(os.getpid(),),
            env=self._environment,
        )
        return self.start(int, 0)

    def start(self, work: Callable[[Any], Any], argument: Any) -> Future[Any]:
        """Send some work to the process."""
        future: Future[Any] = self._executor.submit(work, argument)
        return future

    def told(self, error: BaseException) -> BaseException | Loss:
        """Tell a process that died from an error of its work."""
        if isinstance(error, TerminatedWorkerError):
            return Loss(_death(str(error)))
        if isinstance(error, BrokenProcessPool):  # it would break the next process, too
            return Loss(str(error), lives=LIVES)
        return error

    def close(self) -> None:
        """Kill the process."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None


def _death(said: str) -> str:
    """Return how a process died, from loky's words.

    >>> _death("... The exit codes of the workers are {SIGKILL(-9)} ...")
    'ended by SIGKILL, most likely by the system, since memory ran out'
    """
    found = re.search(r"\{(\w+)\((-?\d+)\)", said)
    if found is None:
        return "ended without a word"
    if found[1] == "SIGKILL":
        return "ended by SIGKILL, most likely by the system, since memory ran out"
    return f"ended by {found[1]}" if int(found[2]) < 0 else f"ended with exit code {found[2]}"


def _settle(parent: int) -> None:
    """Make this process a worker: deaf to Ctrl-C, which the parent answers, and gone with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # loky ends workers that grow by 300 MB, as leaking; ours hold a model and map its statistics.
    process_executor._USE_PSUTIL = False  # noqa: SLF001 - there is no other switch
    # A worker holds both ends of its pipes, so it does not see that the parent was killed.
    threading.Thread(target=_watch, args=(parent,), name="watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)
