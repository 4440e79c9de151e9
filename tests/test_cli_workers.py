"""Whole runs with workers: the same result for any crew, whoever of it dies on the way."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from autoproxy.cli import main
from autoproxy.commands.crew import Crew
from autoproxy.errors import ConfigError
from tests.autoproxy.chores import NOISE_OF_CLUSTERS
from tests.runs import outcome_of_run, write_run_file
from tests.saying import Run

pytestmark = NOISE_OF_CLUSTERS

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def run_file(place: Path) -> Path:
    return write_run_file(place, evaluations=10.0, islands=2, lag=1, migration=1)[0]


@pytest.fixture(scope="module")
def alone(place: Path, run_file: Path) -> dict[str, Any]:
    """What the run leaves without workers."""
    words = ["--config", str(run_file), "--results", str(place / "alone")]
    assert main(["search", *words]) == 0
    return outcome_of_run(place / "alone")


def start(run_file: Path, results: Path, words: list[str]) -> subprocess.Popen[bytes]:
    results.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "autoproxy.cli", "search", "--config", str(run_file)]
    with (results / "said.txt").open("wb") as said:
        return subprocess.Popen(
            [*command, "--results", str(results), *words],
            env=ENVIRONMENT,
            cwd=ROOT,
            stdout=said,
            stderr=subprocess.STDOUT,
        )


def agree(found: dict[str, Any], right: dict[str, Any]) -> None:
    """Everything is the same, but for what was under way when the budget ended."""
    evaluations = found.pop("evaluations")
    assert found == {name: value for name, value in right.items() if name != "evaluations"}
    assert set(evaluations) >= set(right["evaluations"])
    assert len({row[:3] for row in evaluations}) == len(evaluations)  # nothing counted twice


def workers() -> list[psutil.Process]:
    """Return the processes that measure for a run of this process."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any("popen_loky" in word for word in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    ("count", "kills"),
    [
        (2, 2),
        pytest.param(1, 0, marks=pytest.mark.slow),
        pytest.param(4, 20, marks=pytest.mark.slow),
    ],
)
def test_processes_of_this_machine_and_their_deaths_change_nothing(
    count: int, kills: int, place: Path, run_file: Path, alone: dict[str, Any], run: Run
) -> None:
    results, ended = place / f"loky-{count}", threading.Event()

    def kill() -> int:
        draw, died = random.Random(count), 0
        while died < kills and not ended.wait(draw.uniform(0.2, 1.0 if kills > 2 else 2.0)):
            for victim in draw.sample(crew := workers(), min(1, len(crew))):
                victim.kill()
                died += 1
        return died

    with ThreadPoolExecutor(1) as beside:
        died = beside.submit(kill)
        said = run("search", "--config", run_file, "--results", results, "--workers", count)
        ended.set()
    assert said.code == 0, said.err
    assert died.result() == kills
    agree(outcome_of_run(results), alone)


@pytest.mark.parametrize("backend", ["dask", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_cluster_changes_nothing(
    backend: str, place: Path, run_file: Path, alone: dict[str, Any], request: Any, run: Run
) -> None:
    words = ["--backend", backend, "--workers", "2"]
    if backend == "dask":
        words += ["--scheduler", request.getfixturevalue("cluster").address]
    results = place / backend
    said = run("search", "--config", run_file, "--results", results, *words)
    assert said.code == 0, said.err
    agree(outcome_of_run(results), alone)


def test_a_run_may_go_on_with_another_crew(
    place: Path, run_file: Path, alone: dict[str, Any], run: Run
) -> None:
    """Killed in the middle of the search, with workers; resumed without."""
    results = place / "resumed"
    process = start(run_file, results, ["--workers", "2"])
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        ledger = results / "ledger.sqlite"
        if ledger.exists() and _steps(ledger) >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert run("resume", "--results", results, "--json").json["run"] == "tiny-run"
    agree(outcome_of_run(results), alone)


def _steps(ledger: Path) -> int:
    import sqlite3

    try:
        with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM steps").fetchone()[0])
    except sqlite3.OperationalError:  # its tables are not there yet
        return 0


@pytest.mark.parametrize(
    ("count", "devices", "said"),
    [
        (0, "0", "asks for device 0; no CUDA device is at hand on this machine"),
        (2, "0,2", "asks for device 2; CUDA devices 0 to 1 are at hand on this machine"),
    ],
)
def test_devices_that_this_machine_lacks_are_refused(
    count: int, devices: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ConfigError, match=said):
        Crew(devices=tuple(devices.split(",")))


def test_devices_of_a_cluster_and_of_a_name_are_not_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Crew(devices=("GPU-1f2e",)).devices == ("GPU-1f2e",)
    assert Crew("ray", scheduler="host:6379", devices=("7",)).devices == ("7",)
