"""What it costs to hand work to a worker and to get its answer, beside the standard library's pool.

All the work is to take an absolute value, so everything measured is overhead. Rounds of both
alternate, so that a busy machine slows both; each figure is the median of its rounds.

    python benchmarks/bench_workers.py
    python benchmarks/bench_workers.py --backend dask --scheduler tcp://host:8786
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor

from autoproxy.workers import BACKENDS, open_workers


def milliseconds(submit: Callable[..., "Future[int]"], count: int) -> float:
    """Return the time of one evaluation, all submitted at once."""
    start = time.perf_counter()
    futures = [submit(abs, -number) for number in range(count)]
    assert [future.result() for future in futures] == list(range(count))
    return 1000 * (time.perf_counter() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", default="loky", choices=BACKENDS)
    parser.add_argument("--scheduler")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    ours: list[float] = []
    bare: list[float] = []
    start = time.perf_counter()
    with (
        open_workers(asked.backend, jobs=asked.jobs, address=asked.scheduler) as workers,
        ProcessPoolExecutor(asked.jobs) as pool,
    ):
        milliseconds(workers.submit, asked.jobs)
        opened = time.perf_counter() - start
        milliseconds(pool.submit, asked.jobs)
        for _ in range(asked.rounds):
            ours.append(milliseconds(workers.submit, asked.count))
            bare.append(milliseconds(pool.submit, asked.count))
    found = {
        "backend": asked.backend,
        "jobs": asked.jobs,
        "open_seconds": round(opened, 2),
        "milliseconds": round(statistics.median(ours), 3),
        "bare_milliseconds": round(statistics.median(bare), 3),
        "ratio": round(statistics.median(ours) / statistics.median(bare), 2),
        "least_and_most": [round(min(ours), 3), round(max(ours), 3)],
    }
    print(f"| workers ({asked.backend}) | {found['milliseconds']} ms | {found['ratio']} |")
    print(f"| ProcessPoolExecutor | {found['bare_milliseconds']} ms | 1 |")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
