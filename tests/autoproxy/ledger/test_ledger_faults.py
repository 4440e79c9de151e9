"""The ledger against processes that are killed, and processes that write at once."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from autoproxy.evaluation import Measured
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import Evaluation

WRITER = """
import sys
sys.path.insert(0, {root!r})
from autoproxy.evaluation import Measured
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import Evaluation, Event
name, start, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ledger = Ledger.open({path!r})
for n in range(start, start + count):
    outcome = Measured(n / 7, 1.0, details={{"perplexity": n / 3}})
    ledger.remember(Evaluation(f"{{name}}{{n}}", "p", 1.0, "W" * 300, None, outcome))
    ledger.append(Event(name, n, "k", "W", "seed", (), "measured", None, None, 1.0, n / 7, 1, 0))
    print(n, flush=True)
"""


def writer(path: Path, name: str, start: int, count: int) -> subprocess.Popen[str]:
    code = WRITER.format(root=str(Path.cwd()), path=str(path))
    arguments = [sys.executable, "-c", code, name, str(start), str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def kept(ledger: Ledger, name: str, count: int) -> None:
    """Every one of the first `count` rows is there, whole."""
    for n in range(count):
        known = ledger.recall(f"{name}{n}", "p", 1.0)
        assert known == Measured(n / 7, 1.0, known.seconds, {"perplexity": n / 3})
    slots = [event.slot for event in ledger.events(name)]
    assert slots == list(range(len(slots)))
    assert count <= len(slots) <= count + 1


def test_kill_9_at_any_moment_loses_no_row_that_was_told_stored(tmp_path):
    path = tmp_path / "ledger.sqlite"
    draw = random.Random(0)
    stored = 0
    for _ in range(6):
        process = writer(path, "a", stored, 100_000)
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first == f"{stored}\n"  # a restart repeats at most the row it was killed in
        time.sleep(draw.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        told = [first, *process.communicate()[0].splitlines(keepends=True)]
        complete = [int(line) for line in told if line.endswith("\n")]
        stored = max(complete) + 1
        with Ledger.open(path) as ledger:
            kept(ledger, "a", stored)
    assert stored > 20


def test_kill_9_while_the_tables_are_made_leaves_none_or_all(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n"
        "from autoproxy.ledger.ledger import Ledger\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "Ledger.open(sys.argv[1])"
    )
    draw = random.Random(1)
    for number in range(6):
        path = tmp_path / f"{number}.sqlite"
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with Ledger.open(path) as ledger:
            ledger.remember(Evaluation("k", "p", 1.0, "W", None, Measured(1.0, 1.0)))


def test_processes_that_open_and_write_at_once_all_keep_their_rows(tmp_path):
    path = tmp_path / "ledger.sqlite"  # made by whoever comes first
    names = ("a", "b", "c")
    processes = [writer(path, name, 0, 40) for name in names]
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    with Ledger.open(path) as ledger:
        for name in names:
            kept(ledger, name, 40)
