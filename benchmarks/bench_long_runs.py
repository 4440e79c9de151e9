"""A run of 100,000 evaluated expressions: what it holds in memory, and how fast it is resumed.

    python benchmarks/bench_long_runs.py --evaluations 100000

The evaluator costs nothing, so that what is seen is the engine's own: breeding, the sieve, the
ledger. A value is drawn from a hash of the canonical form; every form counts as different. The run
is then resumed in a process of its own, from its record; the naive way is to breed it all again.
Times are of the processor, too: they depend less on what else the machine does.
"""

import argparse
import functools
import hashlib
import json
import math
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autoproxy.commands.memory import LedgerMemory
from autoproxy.evaluation import (
    Direction,
    Failed,
    Fingerprint,
    Measured,
    Objective,
    Outcome,
    content_hash,
)
from autoproxy.language.blindness import Blindness
from autoproxy.language.canonical import key
from autoproxy.language.expression import Expression
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import RunRecord
from autoproxy.search.breeder import Breeder
from autoproxy.search.config import SearchConfig
from autoproxy.search.loop import Search
from autoproxy.search.state import SearchState
from search_spaces.importance import SPACE

MIB = 2**20


class Free:
    """Measures nothing: a value is drawn from the canonical form."""

    objective = Objective("drawn", "none", Direction.MINIMIZE)
    provides = frozenset(SPACE.terminals)
    fidelities = (1.0,)
    blindness = Blindness.ROW

    def protocol(self) -> Mapping[str, Any]:
        return {"evaluator": "free"}

    def behaviour(
        self, expressions: Sequence[Expression], reject: float = math.inf
    ) -> list[Fingerprint | Failed]:
        del reject
        return [Fingerprint(key(expression)) for expression in expressions]

    def identity(self, expression: Expression) -> str:
        return key(expression)

    def confirm(self, expression: Expression) -> list[float]:
        return [self._drawn(expression)]

    def measure(self, expressions: Sequence[Expression], fidelity: float) -> Iterator[Outcome]:
        for expression in expressions:
            yield Measured(self._drawn(expression), fidelity)

    @staticmethod
    def _drawn(expression: Expression) -> float:
        digest = hashlib.sha256(str(expression).encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48 + 0.01 * expression.size


class Parts:
    """Processor time by part of the program, each without what others spend within it."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._stack = ["the loop"]
        self._since = time.process_time()

    def watch(self, part: str, owner: type, *names: str) -> None:
        """Let methods of a class count as a part."""
        for name in names:
            setattr(owner, name, self._timed(part, getattr(owner, name)))

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*words: Any) -> Any:
            self._enter(part)
            try:
                return method(*words)
            finally:
                self._settle()
                self._stack.pop()

        return timed

    def _enter(self, part: str) -> None:
        self._settle()
        self._stack.append(part)

    def _settle(self) -> None:
        now = time.process_time()
        self.spent[self._stack[-1]] += now - self._since
        self._since = now


def search(folder: Path, evaluations: float) -> Iterator[SearchState]:
    """Yield the states of the run in a folder, which may be new."""
    evaluator = Free()
    config = SearchConfig(seed=0, evaluations=evaluations, population=64, batch=64)
    protocol = content_hash(evaluator.protocol())
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        ledger.begin_run(
            RunRecord(
                run="long",
                seed=0,
                space=SPACE.name,
                evaluator="free",
                config={},
                protocol=evaluator.protocol(),
                manifest={},
                status="running",
                seconds=0.0,
                summary=None,
            )
        )
        memory = LedgerMemory(ledger, "long", protocol)
        yield from Search(SPACE, evaluator, memory, config).run()


def resumed(folder: Path, evaluations: float) -> None:
    """Resume a run that is all but done, and print what that took."""
    began, worked = time.perf_counter(), time.process_time()
    for state in search(folder, evaluations + 1e6):
        found = {
            "seconds": time.perf_counter() - began,  # to the first new generation, measured
            "worked": time.process_time() - worked,
            "measured": len(state.archive),
            "rss": _peak(),
        }
        print(json.dumps(found))
        return


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=float, default=20_000)
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.resume:
        resumed(asked.resume, asked.evaluations)
        return
    parts = Parts()
    parts.watch("the ledger", LedgerMemory, "recall", "keep", "note", "advance", "settle", "steps")
    parts.watch("breeding and the sieve", Breeder, "breed")
    with TemporaryDirectory() as name:
        folder = Path(name)
        before = _peak()
        began, worked = time.perf_counter(), time.process_time()
        told = 0
        for state in search(folder, asked.evaluations):
            if len(state.archive) >= told + 10_000:
                told = len(state.archive)
                spent = time.perf_counter() - began
                said = f"{told} evaluated, {state.slot} proposed, {spent:.0f} s, {_peak():.0f} MiB"
                print(said, flush=True)
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        command = [sys.executable, __file__, "--resume", name]
        command += ["--evaluations", str(asked.evaluations)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - this very script
        again = json.loads(done.stdout)
        size = (folder / "ledger.sqlite").stat().st_size / MIB
    found = {
        "evaluated": len(state.archive),
        "proposed": state.slot,
        "seconds": round(seconds, 1),
        "ms per evaluated": round(1000 * seconds / len(state.archive), 2),
        "ms of processor per evaluated": round(1000 * worked / len(state.archive), 2),
        **{
            f"  of them {part}": round(1000 * spent / len(state.archive), 3)
            for part, spent in parts.spent.items()
        },
        "MiB of memory, beyond the program's": round(_peak() - before),
        "MiB of ledger": round(size),
        "seconds to resume": round(again["seconds"], 1),
        "seconds of processor to resume": round(again["worked"], 1),
        "MiB of the resumed process": round(again["rss"]),
        "resumed with": again["measured"],
        "bred again / resumed": round(seconds / again["seconds"]),
    }
    for what, value in found.items():
        print(f"{what:38} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
