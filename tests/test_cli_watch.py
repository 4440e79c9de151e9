"""Watching and tracking a run: the same view from elsewhere, and the run none the wiser."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from autoproxy.cli import main
from autoproxy.commands.watching import QUIET, Sight, watching
from autoproxy.commands.workspace import Workspace
from autoproxy.errors import StorageError
from tests.runs import outcome_of_run, write_run_file
from tests.saying import Run, refused

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody watched, but that was logged."""
    folder = tmp_path_factory.mktemp("watch")
    run_file, _ = write_run_file(folder, evaluations=10.0)
    words = ["--results", str(folder / "plain"), "--track", f"tensorboard:{folder / 'log'}"]
    assert main(["search", "--config", str(run_file), *words]) == 0
    return folder


def watched(ended: Callable[[], object], results: Path, *, until: str) -> list[Sight]:
    """Look at a run as often as can be, until its status or stage is `until`, or it ends."""
    seen: list[Sight] = []
    while not ended():
        time.sleep(0.05)
        with contextlib.suppress(StorageError), watching(Workspace(results), None) as watch:
            while not ended():  # it has begun
                seen.append(watch.look())
                if until in {seen[-1].status, seen[-1].progress.stage}:
                    return seen
                time.sleep(0.05)
    return seen


WAITING = """
import sys, time
from autoproxy.cli import main
from autoproxy.commands.memory import LedgerMemory
advance = LedgerMemory.advance
def advance_and_wait(self, step):
    advance(self, step)
    time.sleep(60)
LedgerMemory.advance = advance_and_wait
sys.exit(main())
"""
"""The command line, where a search stops after its first generation, for whatever comes.

All of this search takes less than a second: without it, on a machine that has other work, the run
may be done before anybody has looked and sent a signal.
"""


def begin(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    (folder / "watched").mkdir(exist_ok=True)
    with (folder / "watched" / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-c", WAITING, *words, "--results", str(folder / "watched")],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stdout=said,
            stderr=subprocess.STDOUT,
        )


def hung_up(process: subprocess.Popen[bytes]) -> int:
    """Return how a process ends whose terminal is closed, once more if need be.

    Python loses a signal whose handler raises while something is freed, whoever handles it.
    """
    process.send_signal(signal.SIGHUP)
    try:
        return process.wait(15)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGHUP)
        return process.wait(40)


def test_a_watched_run_ends_as_one_that_nobody_watched(place: Path, run: Run) -> None:
    """Looked at without a pause, and ended by a terminal that is closed, on the way."""
    results, log = place / "watched", f"tensorboard:{place / 'log-2'}"
    process = begin(place, "search", "--config", str(place / "run.toml"), "--track", log)
    seen = watched(lambda: process.poll() is not None, results, until="search")
    assert hung_up(process) == 130
    said = run("watch", "--results", results, "--once")
    assert "interrupted; go on with: autoproxy resume tiny-run" in said.out
    ended = threading.Event()
    with ThreadPoolExecutor(1) as beside:
        looked = beside.submit(watched, ended.is_set, results, until="done")
        assert run("resume", "--results", results, "--track", log).code == 0
        ended.set()
    seen += looked.result()
    assert outcome_of_run(results) == outcome_of_run(place / "plain")
    stages = [sight.progress.stage for sight in seen]
    assert {"baselines", "search", "random search"} <= set(stages)
    spent = [sight.progress.done for sight in seen if sight.progress.stage == "search"]
    assert spent == sorted(spent)
    assert max(spent) > 0
    points(place / "log-2" / "tiny-run")


def test_what_is_seen_is_what_the_run_says(place: Path, run: Run) -> None:
    summary = outcome_of_run(place / "plain")["summary"]
    said = run("watch", "--results", place / "plain", "--json").json
    assert said["run"] == "tiny-run"  # not its companion, which began later
    assert (said["status"], said["stage"], said["warning"]) == ("done", "done", "")
    assert said["done"] == pytest.approx(summary["search"]["spent"])
    assert said["funnel"] == {n: count for n, count in summary["funnel"].items() if count}
    front = [{k: row[k] for k in ("complexity", "value", "formula")} for row in summary["front"]]
    assert said["front"] == front
    assert said["best"] == {k: front[-1][k] for k in ("formula", "value")}
    wanda = next(row["value"] for row in summary["baselines"] if row["name"] == "wanda")
    assert said["reference"] == {"name": "wanda", "value": wanda}
    assert said["objective"] == "kl"
    assert said["a_minute"] == pytest.approx(60 * said["done"] / said["seconds"])


@pytest.mark.parametrize("words", [["--once"], ["tiny-run"], []])
def test_a_run_that_is_done_ends_the_watch(place: Path, run: Run, words: list[str]) -> None:
    said = run("watch", *words, "--results", place / "plain")
    assert said.code == 0
    for word in (
        "done",
        ": tiny-run",
        "front",
        "wanda",
        "summary.json",
        "autoproxy export tiny-run",
    ):
        assert word in said.out


def test_a_random_companion_may_be_watched_by_name(place: Path, run: Run) -> None:
    summary = outcome_of_run(place / "plain")["summary"]["random_search"]
    said = run("watch", "tiny-run.random", "--results", place / "plain", "--json").json
    assert summary["spent"] - 2 < said["done"] <= summary["spent"] + 1e-9
    assert said["generation"] in {summary["generations"], summary["generations"] - 1}


@pytest.mark.parametrize(("ago", "warned"), [(QUIET - 60, False), (QUIET + 3600, True)])
def test_long_silence_is_told_and_not_judged(
    place: Path, tmp_path: Path, run: Run, ago: float, warned: bool
) -> None:
    moved = "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', ?)"
    with sqlite3.connect(place / "plain" / "ledger.sqlite") as source:
        with sqlite3.connect(tmp_path / "ledger.sqlite") as ledger:
            source.backup(ledger)
        ledger.execute("UPDATE runs SET status = 'running'")
        for table in ("runs", "evaluations"):
            query = f"UPDATE {table} SET recorded = {moved}"  # noqa: S608 - words of this test
            ledger.execute(query, (f"-{ago} seconds",))
        ledger.commit()
        ledger.close()
    said = run("watch", "--results", tmp_path, "--json").json
    assert said["seconds_since_news"] == pytest.approx(ago, abs=60)
    assert said["status"] == "running"
    assert ("no new measurement for 1 h 5 min" in said["warning"]) is warned
    assert ("autoproxy resume tiny-run" in said["warning"]) is warned


def test_ctrl_c_ends_the_watch_alone(place: Path, tmp_path: Path) -> None:
    with sqlite3.connect(place / "plain" / "ledger.sqlite") as source:
        with sqlite3.connect(tmp_path / "ledger.sqlite") as ledger:
            source.backup(ledger)
        ledger.execute("UPDATE runs SET status = 'interrupted'")
        ledger.commit()
        ledger.close()
    with subprocess.Popen(
        [sys.executable, "-m", "autoproxy.cli", "watch", "--results", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "interrupted; go on with" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "tiny-run goes on by itself" in err
    assert "Traceback" not in out + err


def test_what_cannot_be_watched_is_told(place: Path, tmp_path: Path, run: Run) -> None:
    refused(run("watch", "--results", tmp_path), "no ledger at", "--ledger")
    assert not list(tmp_path.iterdir())
    refused(run("watch", "tiny-rum", "--results", place / "plain"), "did you mean 'tiny-run'?")


# --- TensorBoard -------------------------------------------------------------------------------


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars of a log as TensorBoard reads them."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = reader.EventAccumulator(str(folder))
    log.Reload()
    found = {tag: [(e.step, e.value) for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    for tag, values in found.items():
        steps = [step for step, _ in values]
        assert steps == sorted(set(steps)), tag
    return found


def test_the_log_says_what_the_run_says(place: Path) -> None:
    summary: dict[str, Any] = outcome_of_run(place / "plain")["summary"]
    found = points(place / "log" / "tiny-run")
    best = [value for _, value in found["best"]]
    assert best == sorted(best, reverse=True)
    assert best[-1] == pytest.approx(summary["front"][-1]["value"])
    assert found["best"][-1][0] == int(summary["search"]["spent"])
    for name, count in summary["funnel"].items():
        if count:
            assert found[f"funnel/{name}"][-1][1] == count
    assert {"new", "seconds"} <= set(found)
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = reader.EventAccumulator(str(place / "log" / "tiny-run"))
    log.Reload()
    (formula,) = log.Tensors("formula/text_summary")[-1].tensor_proto.string_val
    assert formula.decode() == f"`{summary['front'][-1]['formula']}`"
    asked = log.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"search/population" in asked
    rival = points(place / "log" / "tiny-run.random")
    assert rival["best"][-1][1] == pytest.approx(summary["random_search"]["best"]["value"], rel=1)


def test_a_log_that_cannot_be_is_refused_before_any_work(
    place: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = ["search", "--config", place / "run.toml", "--results", tmp_path / "r", "--track"]
    refused(run(*search, "tensorbord:x"), "unknown kind 'tensorbord'", "did you mean")
    refused(run(*search, "tensorboard:"), "names no folder", "tensorboard:FOLDER")
    (tmp_path / "file").touch()
    in_the_way = run(*search, f"tensorboard:{tmp_path / 'file'}")
    refused(in_the_way, f"tensorboard:{tmp_path / 'file'} cannot be written", "another folder")
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    refused(run(*search, "tensorboard:x"), "pip install 'autoproxy[tensorboard]'")
    assert not (tmp_path / "r").exists()


def test_the_json_is_one_object_of_plain_values(place: Path, run: Run) -> None:
    said = run("watch", "--results", place / "plain", "--json")
    assert json.loads(said.out) == json.loads(json.dumps(said.json, allow_nan=False))
    assert said.err == ""
