"""Workers of every kind against what goes wrong: deaths, lost schedulers, errors of the work."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoproxy.errors import ConfigError, WorkerError
from autoproxy.workers import Workers, crew, dask_place, open_workers
from autoproxy.workers.crew import Loss
from tests.autoproxy import chores
from tests.autoproxy.chores import NOISE_OF_CLUSTERS, Cluster

pytestmark = NOISE_OF_CLUSTERS


@pytest.fixture(scope="module")
def loky() -> Iterator[Workers]:
    with open_workers("loky", jobs=2) as workers:
        yield workers


@pytest.fixture(scope="module")
def dask(cluster: Cluster) -> Iterator[Workers]:
    with open_workers("dask", address=cluster.address) as workers:
        yield workers


@pytest.fixture(scope="module")
def ray() -> Iterator[Workers]:
    pytest.importorskip("ray")
    with open_workers("ray", devices=("0", "1")) as workers:  # it counts devices, and looks at none
        yield workers


@pytest.fixture(params=["loky", "dask", "ray"])
def workers(request: pytest.FixtureRequest) -> Workers:
    found: Workers = request.getfixturevalue(request.param)
    return found


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_future_gets_the_result_of_its_own_argument(workers: Workers) -> None:
    futures = [workers.submit(chores.double, number) for number in range(50)]
    assert [future.result(timeout=60) for future in futures] == [2 * n for n in range(50)]
    assert workers.count == 2


def test_an_error_of_the_work_is_passed_on_and_costs_no_worker(workers: Workers) -> None:
    before = {workers.submit(chores.process, 0).result(timeout=60) for _ in range(20)}
    with pytest.raises(KeyError, match="lost words"):
        workers.submit(chores.raise_key_error, "lost words").result(timeout=60)
    after = {workers.submit(chores.process, 0).result(timeout=60) for _ in range(20)}
    assert after <= before | after
    assert os.getpid() not in after
    assert all(running(process) for process in before)


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("loky", 20),
        ("dask", 3),
        ("ray", 3),
        pytest.param("dask", 20, marks=pytest.mark.slow),
        pytest.param("ray", 20, marks=pytest.mark.slow),
    ],
)
def test_workers_killed_under_load_lose_nothing_and_give_nothing_twice(
    kind: str, kills: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    workers: Workers = request.getfixturevalue(kind)
    draw, numbers = random.Random(kills), iter(range(10**6))
    futures: list[Future[int]] = []
    given_back: list[int] = []
    for _ in range(kills):
        for number in (next(numbers) for _ in range(4)):
            futures.append(workers.submit(chores.plod, (str(tmp_path), number, 0.05)))
            futures[-1].add_done_callback(lambda done: given_back.append(done.result()))
        victim = wait_for_a_worker(tmp_path)
        time.sleep(draw.uniform(0, 0.03))
        with contextlib.suppress(ProcessLookupError):  # a kill before this one was slow
            os.kill(victim, signal.SIGKILL)
    assert [f.result(timeout=120) for f in futures] == [2 * n for n in range(len(futures))]
    assert sorted(given_back) == [2 * n for n in range(len(futures))]
    repeated = len(list(tmp_path.iterdir())) - len(futures)
    assert repeated > 0, "no kill hit any work"


def wait_until(what: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.01)


def wait_for_a_worker(folder: Path) -> int:
    """Return the process that began some work last, once there is one that still runs."""
    while True:
        notes = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for note in reversed(notes):
            process = int(note.name.partition("-")[0])
            if running(process):
                return process
        time.sleep(0.005)


def test_what_kills_every_worker_is_given_up_and_the_rest_is_done(
    loky: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "LIVES", 3)
    deadly = loky.submit(chores.die, "the-deadly-one")
    others = [loky.submit(chores.double, number) for number in range(10)]
    assert [future.result(timeout=60) for future in others] == [2 * n for n in range(10)]
    with pytest.raises(WorkerError, match=r"3 workers ended.*the-deadly-one.*SIGKILL.*--workers"):
        deadly.result(timeout=60)


def test_a_worker_that_keeps_much_is_kept(loky: Workers) -> None:
    with open_workers("loky", jobs=1) as one:
        first = one.submit(chores.process, 0).result(timeout=60)
        time.sleep(1.1)  # loky looks once a second
        assert one.submit(chores.hoard, 350_000_000).result(timeout=60) == first
        assert one.submit(chores.process, 0).result(timeout=60) == first


def test_what_cannot_be_sent_back_is_an_error_of_the_work(loky: Workers) -> None:
    with pytest.raises(TypeError, match="pickle"):
        loky.submit(chores.lock, 0).result(timeout=60)
    assert loky.submit(chores.double, 1).result(timeout=60) == 2


def test_ctrl_c_is_not_for_workers(loky: Workers, tmp_path: Path) -> None:
    future = loky.submit(chores.plod, (str(tmp_path), 7, 0.3))
    os.kill(wait_for_a_worker(tmp_path), signal.SIGINT)
    assert future.result(timeout=60) == 14
    assert len(list(tmp_path.iterdir())) == 1


def environments(workers: Workers) -> list[dict[str, str]]:
    """Return the environment of each of two workers, the second of which may start later."""
    found: dict[str, dict[str, str]] = {}
    deadline = time.monotonic() + 60
    while len(found) < 2 and time.monotonic() < deadline:
        for future in [workers.submit(chores.environment, 0.05) for _ in range(2)]:
            seen = future.result(timeout=60)
            found[seen["CUDA_VISIBLE_DEVICES"]] = seen
    return [found[device] for device in sorted(found)]


def test_each_device_has_a_worker_that_sees_no_other() -> None:
    with open_workers("loky", devices=("3", "5")) as workers:
        assert workers.count == 2
        found = environments(workers)
    assert [seen["CUDA_VISIBLE_DEVICES"] for seen in found] == ["3", "5"]
    assert {seen["OMP_NUM_THREADS"] for seen in found} == {"1"}


def test_ray_gives_each_worker_a_device(ray: Workers) -> None:
    found = environments(ray)
    assert [seen["CUDA_VISIBLE_DEVICES"] for seen in found] == ["0", "1"]


def test_a_scheduler_that_is_restarted_is_waited_for(
    cluster: Cluster, dask: Workers, tmp_path: Path
) -> None:
    numbers = range(12)
    futures = [dask.submit(chores.plod, (str(tmp_path), number, 0.2)) for number in numbers]
    wait_for_a_worker(tmp_path)
    cluster.stop(signal.SIGKILL)
    assert not all(future.done() for future in futures)
    cluster.start()
    assert [future.result(timeout=120) for future in futures] == [2 * n for n in numbers]
    assert dask.submit(chores.double, 4).result(timeout=60) == 8


PARENT = """
import sys, time
from autoproxy.workers import open_workers
from tests.autoproxy import chores
if __name__ == "__main__":
    workers = open_workers(sys.argv[1], jobs=2)
    busy = workers.submit(chores.plod, (sys.argv[2], 1, 60.0))
    idle = workers.submit(chores.plod, (sys.argv[2], 2, 0.0))
    idle.result()
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("backend", ["loky", pytest.param("ray", marks=pytest.mark.slow)])
def test_no_worker_outlives_a_killed_parent(backend: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, backend, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(chores.ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "ready\n"
            # The worker that is done first may not be the one that began first.
            wait_until(lambda: len(list(tmp_path.iterdir())) == 2, seconds=60)
        finally:
            parent.kill()
    processes = {int(note.name.partition("-")[0]) for note in tmp_path.iterdir()}
    assert len(processes) == 2
    wait_until(lambda: not any(map(running, processes)), seconds=20)


def test_closing_ends_workers_and_whatever_they_do(tmp_path: Path) -> None:
    with open_workers("loky", jobs=1) as workers:
        busy = workers.submit(chores.plod, (str(tmp_path), 1, 60.0))
        waiting = workers.submit(chores.double, 1)
        process = wait_for_a_worker(tmp_path)
        start = time.monotonic()
    assert time.monotonic() - start < 10
    assert not running(process)
    assert waiting.cancelled()
    with pytest.raises(WorkerError, match="closed before"):
        busy.result(timeout=1)
    with pytest.raises(WorkerError, match="closed"):
        workers.submit(chores.double, 1)


def test_work_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    with open_workers("loky", jobs=1) as workers:
        busy = workers.submit(chores.plod, (str(tmp_path), 1, 0.3))
        waiting = workers.submit(chores.plod, (str(tmp_path), 2, 0.0))
        wait_for_a_worker(tmp_path)
        assert waiting.cancel()
        assert not busy.cancel()
        assert busy.result(timeout=60) == 2
        assert workers.submit(chores.double, 3).result(timeout=60) == 6
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"backend": "lok"}, "did you mean 'loky'"),
        ({"jobs": 0}, "--workers must be at least 1"),
        ({"devices": ("0", "0")}, "names one twice"),
        ({"devices": ("0", "1"), "jobs": 3}, "leave --workers away"),
        ({"address": "tcp://host:1"}, "--backend dask or ray"),
        ({"backend": "dask"}, "--scheduler tcp://host:8786"),
        ({"backend": "dask", "address": "here", "devices": ("0",)}, "CUDA_VISIBLE_DEVICES"),
        ({"backend": "dask", "address": "warp://host:1"}, "no address of a Dask scheduler"),
    ],
)
def test_what_cannot_be_is_refused_with_advice(asked: dict[str, Any], told: str) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(ConfigError, match=told):
        open_workers(**asked)


@pytest.mark.parametrize(("backend", "library"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_library_is_named_with_its_extra(
    backend: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=r"pip install 'autoproxy\[cluster\]'"):
        open_workers(backend, address="tcp://127.0.0.1:1")


def test_a_scheduler_that_does_not_answer_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(dask_place, "ANSWER", 1.5)
    with pytest.raises(WorkerError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 "):
        open_workers("dask", address="tcp://127.0.0.1:9")


class Client:
    """A client of Dask whose scheduler goes away again while it is asked for its workers.

    Attributes:
        errors: What each client meets, in turn; None for a scheduler that stays.
    """

    errors: ClassVar[list[BaseException | None]] = []
    status = "running"

    def __init__(self, *_: object, **__: object) -> None:
        self.error = self.errors.pop(0)

    def wait_for_workers(self, *_: object, **__: object) -> None:
        if self.error is not None:
            raise self.error

    def nthreads(self) -> dict[str, int]:
        return {"worker": 1}

    def close(self, **_: object) -> None:
        pass


def test_a_scheduler_that_goes_away_again_is_waited_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distributed = pytest.importorskip("distributed")
    gone = [OSError("gone"), distributed.comm.CommClosedError("gone"), asyncio.CancelledError()]
    monkeypatch.setattr(distributed, "Client", Client)
    monkeypatch.setattr(Client, "errors", [*gone[:2], None])
    place = dask_place.DaskPlace("tcp://127.0.0.1:9", None)
    place.begin().result(timeout=30)
    assert (Client.errors, place.count) == ([], 1)
    place.close()
    monkeypatch.setattr(Client, "errors", [gone[2]])
    monkeypatch.setattr(dask_place, "PATIENCE", 0.5)
    with pytest.raises(WorkerError, match="no Dask scheduler answers"):
        dask_place.DaskPlace("tcp://127.0.0.1:9", None).begin().result(timeout=30)


def test_no_error_of_connecting_again_leaves_anybody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(distributed, "Client", Client)
    monkeypatch.setattr(Client, "errors", [RuntimeError("a bug")])
    with pytest.raises(RuntimeError, match="a bug"):
        dask_place.DaskPlace("tcp://127.0.0.1:9", None).begin().result(timeout=30)


@pytest.mark.parametrize(
    ("resources", "devices"),
    [({"memory": 1e9}, ()), ({"CPU": 0.5}, ()), ({"CPU": 4.0}, ("0",))],
)
def test_a_ray_cluster_without_room_is_told_so(
    resources: dict[str, float], devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    left: list[bool] = []
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr(ray, "shutdown", lambda: left.append(True))
    with pytest.raises(WorkerError, match=r"has no room for a worker.* it has no [CG]PU"):
        open_workers("ray", address="host:6379", devices=devices)
    assert left == [True]


def test_a_dask_worker_with_several_threads_is_refused(cluster: Cluster) -> None:
    broad = chores.dask("worker", cluster.address, "--nthreads=3", "--no-dashboard", "--no-nanny")
    said = ""
    try:
        while not said:  # until it is there
            try:
                open_workers("dask", address=cluster.address).close()
            except ConfigError as error:
                said = str(error)
    finally:
        broad.terminate()
        broad.wait()
    assert "--nthreads 1 --nworkers 3" in said


class Unsteady:
    """A place of no process that loses what it has by a script, and fails to start by another."""

    count = 1

    def __init__(self, room: int, losses: list[str], false_starts: int = 0) -> None:
        self.room = room
        self.closed = False
        self._losses = losses
        self._false_starts = false_starts

    def begin(self) -> Future[Any]:
        future: Future[Any] = Future()
        if self._false_starts:
            self._false_starts -= 1
            future.set_exception(OSError("no room on this machine"))
        else:
            future.set_result(None)
        return future

    def start(self, work: Any, argument: Any) -> Future[Any]:
        future: Future[Any] = Future()
        happening = self._losses.pop() if self._losses else "done"
        if happening == "refused":
            raise OSError("whole")
        end = threading.Thread(target=self._finish, args=(future, happening, work, argument))
        end.start()
        return future

    def _finish(self, future: Future[Any], happening: str, work: Any, argument: Any) -> None:
        if happening == "done":
            future.set_result(work(argument))
        else:
            future.set_exception(OSError(happening))

    def told(self, error: BaseException) -> BaseException | Loss:
        return Loss(str(error), whole=str(error) != "one") if isinstance(error, OSError) else error

    def close(self) -> None:
        self.closed = True


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["done", "one", "whole", "refused"]), max_size=15),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(0, 3),
)
def test_any_course_of_losses_gives_every_result_once(
    losses: list[str], rooms: list[int], false_starts: int
) -> None:
    places = [Unsteady(room, list(losses), false_starts) for room in rooms]
    calls: list[int] = []
    with Workers(places) as workers:
        futures = [workers.submit(chores.double, number) for number in range(12)]
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, number=number: calls.append(number))
        assert [future.result(timeout=10) for future in futures] == [2 * n for n in range(12)]
    assert sorted(calls) == list(range(12))
    assert all(place.closed for place in places)


def test_a_place_that_never_starts_is_done_without() -> None:
    bad, good = Unsteady(1, [], 10**6), Unsteady(1, [])
    with Workers([bad, good]) as workers:
        assert workers.submit(chores.double, 2).result(timeout=10) == 4
        wait_until(lambda: bad.closed, seconds=10)
        assert bad.closed
        assert workers.submit(chores.double, 3).result(timeout=10) == 6


def test_without_any_place_that_starts_everything_fails_with_the_reason() -> None:
    with Workers([Unsteady(1, [], 10**6), Unsteady(1, [], 10**6)]) as workers:
        early = workers.submit(chores.double, 2)
        with pytest.raises(WorkerError, match="20 times in a row: no room on this machine"):
            early.result(timeout=10)
        with pytest.raises(WorkerError, match="no room on this machine"):
            workers.submit(chores.double, 2).result(timeout=10)


def test_a_bug_in_a_place_leaves_nobody_waiting() -> None:
    place = Unsteady(1, ["whole"])
    place.told = None  # type: ignore[assignment]
    with Workers([place]) as workers:
        futures = [workers.submit(chores.double, number) for number in range(3)]
        for future in futures:
            with pytest.raises(TypeError, match="not callable"):
                future.result(timeout=10)


def test_who_is_at_work_pays_for_a_death_not_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LIVES", 2)
    place = Stuck()
    with Workers([place]) as workers:
        futures = [workers.submit(chores.double, number) for number in range(3)]
        for _ in range(2):
            place.wait_until_it_holds(3)
            place.lose_everything()
        with pytest.raises(WorkerError, match="at work on 0: a storm"):
            futures[0].result(timeout=10)
        place.wait_until_it_holds(2)
        place.finishes = True
        place.lose_everything()
        assert [future.result(timeout=10) for future in futures[1:]] == [2, 4]


class Stuck(Unsteady):
    """A place for three that finishes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__(3, [])
        self.finishes = False
        self.held: list[Future[Any]] = []

    def start(self, work: Any, argument: Any) -> Future[Any]:
        if self.finishes:
            return super().start(work, argument)
        self.held.append(Future())
        return self.held[-1]

    def wait_until_it_holds(self, count: int) -> None:
        while len(self.held) < count:
            time.sleep(0.001)

    def lose_everything(self) -> None:
        held, self.held = self.held, []
        for future in reversed(held):  # whoever is told first is not to blame for that
            future.set_exception(OSError("a storm"))
