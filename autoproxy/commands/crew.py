"""The crew of a run: who measures, as flags ask for it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from autoproxy.commands.worker import Job, measure
from autoproxy.errors import ConfigError
from autoproxy.evaluation import Evaluator
from autoproxy.search.desk import CrewDesk, Desk, LocalDesk
from autoproxy.workers import open_workers


@dataclass(frozen=True, slots=True)
class Crew:
    """Who measures; it changes the time that a run takes, never its result.

    Attributes:
        backend: `loky`, `dask` or `ray`; None where nothing is said.
        workers: How many; None for as many as there is room for.
        scheduler: Address of a cluster.
        devices: CUDA devices, with one worker each.
    """

    backend: str | None = None
    workers: int | None = None
    scheduler: str | None = None
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse devices of this machine that it does not have.

        Raises:
            ConfigError: There is no such CUDA device here; a cluster's are its own matter.
        """
        if not self.devices or self.backend not in {None, "loky"}:
            return
        count = torch.cuda.device_count()
        for device in self.devices:
            # Other than a number, such as GPU-1f2e or MIG-3c4d, is left to CUDA.
            if count == 0 or (device.isdecimal() and int(device) >= count):
                here = f"CUDA devices 0 to {count - 1} are" if count else "no CUDA device is"
                raise ConfigError(
                    f"--devices {','.join(self.devices)} asks for device {device}; {here} at hand "
                    "on this machine. For processes that compute on its cores write --workers N"
                )

    @property
    def alone(self) -> bool:
        """Whether this process measures by itself, since nothing else is asked."""
        return self == Crew()

    @contextlib.contextmanager
    def desk(self, evaluator: Evaluator, job: Job) -> Iterator[Desk]:
        """Open the place where the search hands in what is to be measured.

        Raises:
            ConfigError: What is asked does not fit together, or a library is missing.
            WorkerError: A cluster does not answer.
        """
        if self.alone:
            yield LocalDesk(evaluator)
            return
        with (
            _one_thread(),
            open_workers(
                self.backend or "loky",
                jobs=self.workers,
                address=self.scheduler,
                devices=self.devices,
            ) as workers,
        ):
            submit = partial(workers.submit, partial(measure, job))
            yield CrewDesk(submit, evaluator.objective)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let this process sum as workers do, whose values its own are compared with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
