"""Whole runs that are killed with `kill -9`, again and again, end as if nothing had happened."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import outcome_of_run, rows, write_run_file

ROOT = Path(__file__).parents[3]

# One process imports everything, once; each attempt is a child of it, and dies for real.
NURSERY = """
import json, os, pathlib, signal, sqlite3, sys, time
import torch
torch.set_num_threads(1)
import autoproxy.commands.session, autoproxy.console, evaluators.pruning
from transformers import LlamaForCausalLM  # imported when a model is loaded, and slow
from autoproxy.cli import main
from evaluators.masks import keep_mask, parse_pattern
keep_mask(torch.rand(8, 16), parse_pattern("0.5", None), "row")  # compiles its loops, once for all

def child(argv):
    pid = os.fork()
    if not pid:
        code = 70
        try:
            code = main(argv)
        finally:
            os._exit(code)
    return pid

def rows():
    try:
        ledger = sqlite3.connect(f"file:{killed}/ledger.sqlite?mode=ro", uri=True)
        tables = ("evaluations", "events", "reports")
        return sum(ledger.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables)
    except sqlite3.OperationalError:
        return 0

plain, killed, run_file, steps = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
folder = pathlib.Path(killed, "runs", "tiny-run")
_, status = os.waitpid(child(["search", "--config", run_file, "--results", plain]), 0)
assert status == 0, status
died = []
for step in [*steps, None]:
    how = ["resume"] if (folder / "run.toml").exists() else ["search", "--config", run_file]
    before = rows()
    pid = child([*how, "--results", killed])
    done = (0, 0)
    while step is not None and done[0] == 0:
        if (folder / step).exists() if isinstance(step, str) else rows() >= before + step:
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.002)
        done = os.waitpid(pid, os.WNOHANG)
    _, status = done if done[0] else os.waitpid(pid, 0)
    died.append([before, status])
assert died[-1][1] == 0, died
print(json.dumps(died))
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def test_kill_9_again_and_again_changes_nothing(tmp_path: Path) -> None:
    run_file, _ = write_run_file(tmp_path)
    # After so many more rows in the ledger: among baselines, searches, finals and the report.
    steps: list[int | str] = ["run.toml", 7, 24, 15, 27, "hall_of_fame.json"]
    arguments = [tmp_path / "plain", tmp_path / "killed", run_file, json.dumps(steps)]
    done = subprocess.run(
        [sys.executable, "-c", NURSERY, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    attempts = json.loads(done.stdout.splitlines()[-1])
    died = [before for before, status in attempts if status == signal.SIGKILL]
    assert len(died) >= 5, attempts
    assert len(set(died)) >= 5, attempts
    plain, killed = (outcome_of_run(tmp_path / name) for name in ("plain", "killed"))
    assert killed["runs/tiny-run/hall_of_fame.json"] == plain["runs/tiny-run/hall_of_fame.json"]
    assert killed == plain
    assert len(plain["evaluations"]) > 20
    assert len(json.loads(plain["runs/tiny-run/hall_of_fame.json"])["hall_of_fame"]) >= 2


@pytest.mark.slow
def test_the_command_itself_is_killed_and_resumed(tmp_path: Path) -> None:
    run_file, _ = write_run_file(tmp_path)
    command = [sys.executable, "-m", "autoproxy.cli"]
    search = [*command, "search", "--config", str(run_file), "--results"]

    def call(words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, capture_output=True, text=True, env=environment(), cwd=ROOT, check=True
        )

    call([*search, str(tmp_path / "plain")])
    process = subprocess.Popen([*search, str(tmp_path / "killed")], env=environment(), cwd=ROOT)
    ledger = tmp_path / "killed" / "ledger.sqlite"
    while process.poll() is None and fates(ledger) < 5:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = rows(ledger)
    assert not (tmp_path / "killed" / "runs" / "tiny-run" / "summary.json").exists()
    said = call([*command, "resume", "--results", str(tmp_path / "killed")])
    assert "Run tiny-run" in said.stdout
    plain, killed = (outcome_of_run(tmp_path / name) for name in ("plain", "killed"))
    assert killed == plain
    assert set(before["evaluations"]) <= set(killed["evaluations"])  # nothing lost, nothing changed
    assert set(before["events"]) <= set(killed["events"])


def fates(ledger: Path) -> int:
    """Return how many fates a ledger holds that another process writes."""
    if not ledger.exists():
        return 0
    connection = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
    try:
        (count,) = connection.execute("SELECT count(*) FROM events").fetchone()
    except sqlite3.OperationalError:  # its tables are not there yet
        return 0
    finally:
        connection.close()
    return int(count)
