"""Workers: processes of this machine or of a cluster that do what they are handed."""

from collections.abc import Sequence

from autoproxy.errors import ConfigError, unknown_name
from autoproxy.workers.crew import Workers
from autoproxy.workers.dask_place import open_dask
from autoproxy.workers.local_place import open_local
from autoproxy.workers.ray_place import open_ray

BACKENDS = ("loky", "dask", "ray")
"""loky: processes of this machine; dask and ray: of a cluster."""

__all__ = ["BACKENDS", "Workers", "open_workers"]


def open_workers(
    backend: str = "loky",
    *,
    jobs: int | None = None,
    address: str | None = None,
    devices: Sequence[str] = (),
) -> Workers:
    """Return workers that wait for work; use them in a `with` block, which ends them.

    Args:
        backend: One of `BACKENDS`.
        jobs: How many workers; default: one a device, else all cores (of Ray's cluster) and all
            workers of a Dask cluster, of which it is the most that are used at once.
        address: Of the scheduler of a cluster. Ray starts one of its own without it.
        devices: One worker each, which sees that CUDA device alone. Ray chooses which devices
            these are, and only their number counts.

    Raises:
        ConfigError: There is no such backend, its library is missing, or the rest does not fit.
        WorkerError: The cluster does not answer, or has no room.

    >>> with open_workers("loky", jobs=1) as workers:
    ...     workers.submit(abs, -2).result()
    2
    """
    if backend not in BACKENDS:
        raise ConfigError(unknown_name("backend", backend, BACKENDS))
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {jobs}")
    if len(set(devices)) < len(devices):
        raise ConfigError(f"--devices names one twice: {','.join(devices)}; each has one worker")
    if devices and jobs not in {None, len(devices)}:
        raise ConfigError(
            f"each device has one worker: --devices {','.join(devices)} makes {len(devices)}, "
            f"but --jobs says {jobs}; leave --jobs away"
        )
    if backend == "loky":
        if address is not None:
            raise ConfigError(
                f"loky works on this machine alone and has no scheduler, such as {address}; leave "
                "--scheduler away, or give --backend dask or ray"
            )
        return Workers(open_local(jobs, devices))
    if backend == "dask":
        return Workers([open_dask(address, jobs, devices)])
    return Workers(open_ray(address, jobs, devices))
