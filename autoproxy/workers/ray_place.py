"""Workers of a Ray cluster: one actor each, which keeps what it has opened."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from autoproxy.errors import ConfigError, WorkerError
from autoproxy.workers.crew import LIVES, Loss


def open_ray(address: str | None, jobs: int | None, devices: Sequence[str]) -> "list[RayPlace]":
    """Return one place a worker on the Ray cluster at `address`, or on one of our own.

    Raises:
        ConfigError: Ray is missing.
        WorkerError: No cluster answers, or it has no room.
    """
    try:
        import ray  # noqa: PLC0415 - optional, and slow
    except ImportError as error:
        raise ConfigError(
            f"Ray is not installed ({error}); pip install 'autoproxy[cluster]'"
        ) from None
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    wanted = len(devices) or jobs
    if address is None and not os.environ.get("RAY_ADDRESS"):
        options |= {"num_cpus": wanted, "num_gpus": len(devices)}
        options["address"] = "local"
    else:
        options = {"address": address, "log_to_driver": False}
    try:
        ray.init(logging_level="ERROR", **options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise WorkerError(
            f"no Ray cluster answers at {address or 'this machine'}: {said}; start one with "
            "`ray start --head`, and give its address: --scheduler HOST:6379"
        ) from None
    resources = ray.cluster_resources()
    if lacks := _lacking(resources, gpus=len(devices)):
        ray.shutdown()
        raise WorkerError(
            f"the Ray cluster at {address or 'this machine'} has no room for a worker, which would "
            f"wait for ever: it has {lacks}; start machines that have: ray start --address "
            "HOST:6379 --num-cpus N"
        )
    session = _Session(wanted or int(resources["CPU"]))
    return [RayPlace(session, gpus=1 if devices else 0) for _ in range(session.places)]


def _lacking(resources: Mapping[str, float], *, gpus: int) -> str:
    """Return what a cluster has too little of for a worker, each of one device where any is asked.

    >>> _lacking({"CPU": 4.0, "GPU": 1.0}, gpus=2), _lacking({"CPU": 4.0}, gpus=0)
    ('1 GPU where 2 are asked', '')
    >>> _lacking({"memory": 1e9}, gpus=0)
    'no CPU'
    """
    if resources.get("CPU", 0) < 1:
        return "no CPU"
    there = int(resources.get("GPU", 0))
    return f"{there or 'no'} GPU where {gpus} are asked" if there < gpus else ""


class _Session:
    """Our connection to Ray, which ends with the last place."""

    def __init__(self, places: int) -> None:
        self.places = places

    def leave(self) -> None:
        import ray  # noqa: PLC0415

        self.places -= 1
        if not self.places:
            ray.shutdown()


class RayPlace:
    """One actor, on whichever machine has room for it.

    Args:
        session: The connection that it shares.
        gpus: How many devices it has for itself; Ray lets it see no others.
    """

    count = 1
    room = 1

    def __init__(self, session: _Session, *, gpus: int) -> None:
        self._session = session
        self._gpus = gpus
        self._actor: Any = None
        self._closed = False

    def begin(self) -> Future[Any]:
        """Ask for an actor; it is ready when a machine has room for it."""
        import ray  # noqa: PLC0415

        self._actor = ray.remote(_Hand).options(num_cpus=1, num_gpus=self._gpus).remote()
        return self.start(int, 0)

    def start(self, work: Callable[[Any], Any], argument: Any) -> Future[Any]:
        """Send some work to the actor."""
        future: Future[Any] = self._actor.do.remote(work, argument).future()
        return future

    def told(self, error: BaseException) -> BaseException | Loss:
        """Tell a dead actor from an error of its work, which Ray wraps."""
        from ray.exceptions import RayError, RayTaskError  # noqa: PLC0415

        if isinstance(error, RayTaskError):
            cause: BaseException = error.cause
            return cause
        if isinstance(error, RayError):
            said = str(error).strip().partition("\n")[0]
            return Loss(f"Ray says: {said}")
        if isinstance(error, TypeError) and "serialize" in str(error):
            return Loss(str(error), lives=LIVES)
        return error

    def close(self) -> None:
        """Let go of the actor."""
        if not self._closed:
            self._closed = True
            self._actor = None
            self._session.leave()


class _Hand:
    """What runs in a worker of Ray."""

    def do(self, work: Callable[[Any], Any], argument: Any) -> Any:
        """Do some work."""
        return work(argument)
