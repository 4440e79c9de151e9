"""The workers of a Dask cluster, which shares out work itself."""

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from autoproxy.errors import ConfigError, WorkerError
from autoproxy.workers.crew import CancelledWork, Loss

ANSWER = 30.0
"""Seconds that a scheduler has to answer when a run begins, and to have a worker."""

RECOUNT = 5.0
"""Seconds between looks at how many workers a cluster has."""

PATIENCE = 900.0
"""Seconds that a scheduler may be away in the middle of a run."""


def open_dask(address: str | None, jobs: int | None, devices: Sequence[str]) -> "DaskPlace":
    """Return the cluster whose scheduler is at `address`.

    Raises:
        ConfigError: Dask is missing, or what is asked cannot be.
        WorkerError: No scheduler answers, or it has no workers.
    """
    if devices:
        raise ConfigError(
            f"--devices {','.join(devices)} is not for Dask: its cluster pins them, when each "
            "worker is started with CUDA_VISIBLE_DEVICES set (or by dask-cuda); leave it away"
        )
    if address is None:
        raise ConfigError(
            "Dask needs the address of a scheduler, such as --scheduler tcp://host:8786 (start "
            "one: dask scheduler); on this machine alone, leave --backend away"
        )
    try:
        import distributed  # noqa: F401, PLC0415 - optional, and slow
    except ImportError as error:
        raise ConfigError(
            f"Dask is not installed ({error}); pip install 'autoproxy[cluster]'"
        ) from None
    place = DaskPlace(address, jobs)
    place.connect(ANSWER)
    return place


class DaskPlace:
    """A whole cluster, which may grow, shrink and go away for a while.

    Args:
        address: Of its scheduler.
        jobs: The most of its workers that are used at once; None for all.
    """

    def __init__(self, address: str, jobs: int | None) -> None:
        self._address = address
        self._jobs = jobs
        self._client: Any = None
        self._there = 0
        self._closed = threading.Event()

    @property
    def count(self) -> int:
        """How many workers the cluster had, some seconds ago at most."""
        return self._there if self._jobs is None else min(self._there, self._jobs)

    @property
    def room(self) -> int:
        """Twice the workers, so that none waits for us."""
        return self._jobs or 2 * max(1, self.count)

    def begin(self) -> Future[Any]:
        """Connect again, with patience; the first connection is there already."""
        future: Future[Any] = Future()
        if self._client is not None and self._client.status == "running":
            future.set_result(None)
            return future

        def connect() -> None:
            try:
                self.connect(PATIENCE)
                future.set_result(None)
            except (WorkerError, ConfigError) as error:
                future.set_exception(WorkerError(str(error)))
            except BaseException as error:  # noqa: BLE001 - somebody waits for this future
                future.set_exception(error)

        threading.Thread(target=connect, name="dask-connect", daemon=True).start()
        return future

    def connect(self, patience: float) -> None:
        """Connect, and see that there is a worker.

        Raises:
            ConfigError: The address is none, or a worker measures several things at once.
            WorkerError: Nobody answers within so many seconds, or there are no workers.
        """
        self._leave()
        deadline = time.monotonic() + patience
        while not self._closed.is_set():
            left = deadline - time.monotonic()
            try:
                client = self._client = self._reached(min(10.0, left))
                self._see_workers(max(1.0, deadline - time.monotonic()))
            except _gone() as error:  # also one that goes away again before it has told its workers
                self._leave()
                if deadline - time.monotonic() < 1:
                    raise WorkerError(self._silence(patience, error)) from None
                self._closed.wait(1)
            else:
                threading.Thread(target=self._recount, args=(client,), daemon=True).start()
                return

    def _reached(self, patience: float) -> Any:
        """Return a client of the scheduler."""
        from distributed import Client  # noqa: PLC0415

        try:
            return Client(self._address, timeout=patience, set_as_default=False)
        except ValueError as error:
            raise ConfigError(
                f"{self._address!r} is no address of a Dask scheduler: {error}; write, for "
                "example, tcp://host:8786"
            ) from None

    def _silence(self, patience: float, error: BaseException) -> str:
        return (
            f"no Dask scheduler answers at {self._address} within {patience:.0f} s ({error}); "
            "start one with `dask scheduler`, workers with `dask worker ADDRESS --nthreads 1`, "
            "then go on: autoproxy resume"
        )

    def _see_workers(self, patience: float) -> None:
        try:
            self._client.wait_for_workers(1, timeout=patience)
        except TimeoutError:
            self._leave()
            raise WorkerError(
                f"the Dask scheduler at {self._address} has had no workers for {patience:.0f} s; "
                f"start some: dask worker {self._address} --nthreads 1"
            ) from None
        workers = self._client.nthreads()
        self._there = len(workers)
        broad = {name: threads for name, threads in workers.items() if threads > 1}
        if broad:
            self._leave()
            name, threads = next(iter(broad.items()))
            raise ConfigError(
                f"the Dask worker {name} has {threads} threads, but a worker holds one model and "
                "does one thing at a time; start workers with: dask worker "
                f"{self._address} --nthreads 1 --nworkers {threads}"
            )

    def _recount(self, client: Any) -> None:
        """Follow how many workers there are; to ask each time would cost a message each."""
        while not self._closed.wait(RECOUNT) and client is self._client:
            with contextlib.suppress(ValueError, *_gone()):  # lost: told elsewhere
                self._there = len(client.nthreads())

    def start(self, work: Callable[[Any], Any], argument: Any) -> Future[Any]:
        """Send some work to the scheduler."""
        client = self._client
        sent = client.submit(work, argument, key=f"autoproxy-{uuid.uuid4().hex}", pure=False)
        return asyncio.run_coroutine_threadsafe(
            client.gather(sent, asynchronous=True), client.loop.asyncio_loop
        )

    def told(self, error: BaseException) -> BaseException | Loss:
        """Tell a lost worker and a lost scheduler from an error of the work."""
        from distributed import KilledWorker  # noqa: PLC0415

        if isinstance(error, KilledWorker):
            deaths = error.allowed_failures + 1
            return Loss(f"the Dask worker {error.last_worker.address} died", False, deaths)
        client = self._client
        if (
            isinstance(error, (CancelledWork, *_lost()))
            or client is None
            or client.status != "running"
        ):
            return Loss(f"the connection to the Dask scheduler at {self._address} was lost")
        return error

    def close(self) -> None:
        """Leave the cluster; what it was at work on for us it forgets."""
        self._closed.set()
        self._leave()

    def _leave(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(*_gone()):  # nobody is there to be told
                client.close(timeout=2)


def _lost() -> tuple[type[BaseException], ...]:
    """Return the errors that a scheduler which goes away leaves behind."""
    from concurrent.futures import CancelledError  # noqa: PLC0415 - another one than asyncio's

    from distributed.comm import CommClosedError  # noqa: PLC0415

    return (CancelledError, CommClosedError)


def _gone() -> tuple[type[BaseException], ...]:
    """Return the errors of asking a scheduler that is not there, or went away meanwhile."""
    return (OSError, TimeoutError, asyncio.CancelledError, *_lost())
