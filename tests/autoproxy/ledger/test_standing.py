"""How a run stands, as a view reads it: against the rows themselves, in both databases."""

import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoproxy.errors import StorageError
from autoproxy.evaluation import Measured
from autoproxy.ledger import standing
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import Evaluation, Event, RunRecord
from tests.postgres import Server, program


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "ledger ä%20.sqlite")  # a name that a URI must spell
        return
    if program("initdb") is None and not shutil.which("initdb"):
        pytest.skip("PostgreSQL is not installed: there is no initdb")
    server = Server()
    yield server.url
    server.remove()


def record(name: str, direction: str) -> RunRecord:
    config = {"direction": direction, "search": {"evaluations": 9.0}}
    return RunRecord(name, 0, "s", "e", config, {"model": "m"}, {}, "running", 7.0, None)


def fill(ledger: Ledger, name: str, direction: str) -> list[Event]:
    """Store a run of three whole generations and a part; return its events."""
    rng = random.Random(name)
    ledger.begin_run(record(name, direction))
    protocol = ledger.remember_protocol({"model": "m"})
    events = []
    for slot in range(80):
        fate = rng.choice(["measured", "screened", "dropped"])
        fidelity = {"measured": 1.0, "screened": 0.25, "dropped": None}[fate]
        value = None if fidelity is None else rng.randrange(6) / 8  # equals are common
        rule = "repeat" if fate == "dropped" else None
        row = (name, slot, f"{name}{slot}", f"W + {slot}", "seed", (), fate, rule, None)
        events.append(Event(*row, fidelity, value, rng.randrange(4), slot // 20))
        ledger.append(events[-1])
        if value is not None and fidelity is not None:
            outcome = Measured(value, fidelity)
            ledger.remember(Evaluation(f"{name}{slot}", protocol, fidelity, "W", None, outcome))
    for generation in range(3):
        spent = sum(e.fidelity or 0 for e in events if e.generation == generation)
        ledger.add_step(name, generation, {"spent": spent, "new": 0.1 * generation, "seen": {}})
    return events


@pytest.mark.parametrize("direction", ["min", "max"])
def test_it_agrees_with_the_rows(place: str, direction: str) -> None:
    with Ledger.open(place) as ledger:
        fill(ledger, "other", "min")
        events = fill(ledger, "mine", direction)
    with Ledger.open(place, read_only=True) as ledger:
        assert ledger.run_names() == ["other", "mine"]
        found = ledger.standing("mine")
    assert found.spent == pytest.approx(sum(e.fidelity or 0 for e in events))
    assert (found.generations, found.status, found.seconds) == (3, "running", 7.0)
    assert found.new == pytest.approx(0.2)
    assert found.funnel == Counter(e.rule or e.fate for e in events)
    assert not found.reported
    sign = 1 if direction == "min" else -1
    best: dict[int, Event] = {}
    for event in sorted(events, key=lambda e: (sign * (e.value or 0), e.slot)):
        if event.fate == "measured":
            best.setdefault(event.complexity, event)
    told = {one.complexity: (one.slot, one.text, one.value) for one in found.best}
    assert told == {size: (e.slot, e.text, e.value) for size, e in best.items()}
    assert 0 <= time.time() - found.news.timestamp() < 60


def test_a_run_of_an_earlier_version_says_in_its_summary_which_way_is_better(
    tmp_path: Path,
) -> None:
    objective = {"name": "tau", "unit": "", "direction": "max"}
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        events = fill(ledger, "mine", "max")
        old = replace(record("old", "max"), config={"search": {}})
        ledger.begin_run(old)
        for event in events:
            ledger.append(replace(event, run="old"))
        summary = {"objective": objective, "search": {"spent": 2.5}}
        ledger.update_run("old", status="done", summary=summary)
        found = ledger.standing("old")
        assert found.best == ledger.standing("mine").best
    assert (found.objective, found.direction.value, found.spent) == ("tau", "max", 2.5)


def test_a_run_that_only_began_stands_too(place: str) -> None:
    with Ledger.open(place) as ledger:
        ledger.begin_run(record("new", "min"))
        found = ledger.standing("new")
    assert (found.spent, found.generations, found.best, found.funnel) == (0.0, 0, (), {})
    assert found.new is None


@pytest.mark.parametrize("read_only", [False, True])
def test_it_is_of_one_moment_while_another_writes(
    place: str, read_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = standing._steps
    with Ledger.open(place) as writer, Ledger.open(place, read_only=read_only) as ledger:
        events = fill(writer, "mine", "min")
        before = ledger.standing("mine")

        def late(*words: Any) -> Any:  # the row of the run was read, the rest was not
            writer.append(replace(events[0], slot=999, value=-9.0))
            writer.add_step("mine", 3, {"spent": 100.0, "new": 0.5, "seen": {}})
            return look(*words)

        monkeypatch.setattr(standing, "_steps", late)
        assert ledger.standing("mine") == before
        assert ledger.standing("mine").spent > before.spent + 50


def test_who_reads_cannot_write(place: str) -> None:
    with Ledger.open(place) as ledger:
        fill(ledger, "mine", "min")
    with Ledger.open(place, read_only=True) as ledger:
        with pytest.raises(StorageError, match="read-only"):
            ledger.update_run("mine", status="done")
        assert ledger.standing("mine").status == "running"


def test_who_reads_waits_for_no_writer_and_none_for_it(tmp_path: Path) -> None:
    place = tmp_path / "ledger.sqlite"
    with Ledger.open(place) as ledger:
        fill(ledger, "mine", "min")
    writer = sqlite3.connect(place, isolation_level=None, timeout=0)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE runs SET status = 'done'")
    began = time.monotonic()
    with Ledger.open(place, read_only=True) as ledger:
        assert ledger.standing("mine").status == "running"
        writer.execute("COMMIT")
        assert ledger.standing("mine").status == "done"
        writer.execute("BEGIN EXCLUSIVE")  # at once, or an error: there is no time to wait
        writer.execute("ROLLBACK")
    assert time.monotonic() - began < 10
    writer.close()


def test_who_reads_makes_and_mends_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no ledger at"):
        Ledger.open(tmp_path / "none.sqlite", read_only=True)
    assert not list(tmp_path.iterdir())
    foreign = tmp_path / "foreign.sqlite"
    sqlite3.connect(foreign).close()
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    before = foreign.read_bytes()
    with pytest.raises(StorageError, match="is no ledger"):
        Ledger.open(foreign, read_only=True)
    assert foreign.read_bytes() == before
    old = tmp_path / "old.sqlite"
    with Ledger.open(old):
        pass
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE schema_version SET version = 2")
    connection.close()
    with pytest.raises(StorageError, match="schema version 2"):
        Ledger.open(old, read_only=True)
