"""Work for the tests of workers, which worker processes import; and a Dask cluster for them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

NOISE_OF_CLUSTERS = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
]
"""Marks of tests of clusters, whose libraries leave sockets and files open when they stop."""

HOARD: list[bytearray] = []


def double(number: int) -> int:
    return 2 * number


def environment(seconds: float) -> dict[str, str]:
    time.sleep(seconds)  # so that one worker does not do everything
    return dict(os.environ)


def process(_: object) -> int:
    return os.getpid()


def plod(where: tuple[str, int, float]) -> int:
    """Say who is at work on what, take a while, return twice the number."""
    folder, number, seconds = where
    Path(folder, f"{os.getpid()}-{number}").touch()
    time.sleep(seconds)
    return 2 * number


def die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_key_error(key: str) -> None:
    raise KeyError(key)


def hoard(size: int) -> int:
    HOARD.append(bytearray(os.urandom(1)) * size)
    return os.getpid()


def lock(_: object) -> Any:
    """Return what cannot be sent."""
    import threading

    return threading.Lock()


class Cluster:
    """A Dask scheduler and two workers of one thread, as processes of this machine."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        here = f"--port={self._port}", "--host=127.0.0.1", "--no-dashboard", "--no-show"
        self._processes.append(dask("scheduler", *here))
        many = "--nworkers=2", "--nthreads=1", "--no-dashboard", "--memory-limit=0"
        self._processes.append(dask("worker", self.address, *many))

    def wait(self) -> None:
        """Return when both workers are there."""
        from distributed import Client

        with Client(self.address, timeout=30, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)

    def stop(self, sign: signal.Signals) -> None:
        """End the scheduler; its workers go when they notice."""
        scheduler, workers = self._processes
        scheduler.send_signal(sign)
        scheduler.wait()
        workers.terminate()
        workers.wait()
        self._processes.clear()


def dask(*words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
