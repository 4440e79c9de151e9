"""The ledger: what it was told it keeps, and it refuses what cannot be true."""

import datetime as dt
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoproxy.errors import StorageError
from autoproxy.evaluation import Failed, Measured, Outcome, content_hash
from autoproxy.ledger.connection import connect
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import Evaluation, Event, ReportRow, RunRecord
from autoproxy.ledger.schema import SCHEMA_VERSION

MEASURED = Measured(0.1, 0.25, 3.5, {"perplexity": 1 / 3, "worst": float("inf")})
PROTOCOL = {"model": "starter", "tokens": 4096, "group": "row"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger.open(path) as opened:
        yield opened


def evaluation(key: str = "k", outcome: Outcome = MEASURED) -> Evaluation:
    return Evaluation(key, "p", 0.25, "abs(W)", "mask", outcome)


def event(slot: int = 0, run: str = "a") -> Event:
    return Event(
        run=run,
        slot=slot,
        key="k",
        text="abs(W)",
        origin="crossover",
        parents=("x", "y"),
        fate="measured",
        rule=None,
        reason=None,
        fidelity=1.0,
        value=0.1,
        complexity=2,
        generation=3,
    )


def dropped(slot: int, rule: str) -> Event:
    return replace(
        event(slot), fate="dropped", rule=rule, reason="ties", fidelity=None, value=None, key=""
    )


def record(run: str = "a") -> RunRecord:
    return RunRecord(
        run=run,
        seed=2**40,
        space="importance",
        evaluator="pruning",
        config={"evaluations": 60.0},
        protocol=PROTOCOL,
        manifest={"torch": "2"},
        status="running",
        seconds=0.0,
        summary=None,
    )


def report(name: str = "wanda", seed: int = 0, perplexity: float = 20.5) -> ReportRow:
    return ReportRow(
        run=None,
        role="baseline",
        name=name,
        text="mul(abs(W), x_norm)",
        key="k",
        complexity=4,
        seed=seed,
        values={"perplexity": perplexity, "kl": 0.25},
        protocol=PROTOCOL,
    )


# --- evaluations -----------------------------------------------------------------------------


def test_recall_gives_back_what_was_remembered(path):
    failed = Failed("not finite on layer 3", 0.5)
    with Ledger.open(path) as ledger:
        ledger.remember(evaluation())
        ledger.remember(evaluation("f", failed))
    with Ledger.open(path) as ledger:
        assert ledger.recall("k", "p", 0.25) == MEASURED
        assert ledger.recall("f", "p", 0.25) == failed


@pytest.mark.parametrize("asked", [("other", "p", 0.25), ("k", "q", 0.25), ("k", "p", 1.0)])
def test_recall_needs_key_protocol_and_fidelity(ledger, asked):
    ledger.remember(evaluation())
    assert ledger.recall(*asked) is None


def test_remembering_twice_changes_nothing(ledger):
    ledger.remember(evaluation())
    ledger.remember(evaluation(outcome=replace(MEASURED, seconds=99.0)))
    assert ledger.recall("k", "p", 0.25) == MEASURED


@pytest.mark.parametrize(
    "other", [replace(MEASURED, value=0.1 + 2**-56), Failed("no")], ids=["value", "failed"]
)
def test_another_outcome_for_the_same_is_refused(ledger, other):
    ledger.remember(evaluation())
    with pytest.raises(StorageError, match="not deterministic"):
        ledger.remember(evaluation(outcome=other))
    assert ledger.recall("k", "p", 0.25) == MEASURED


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(value=finite, detail=st.floats(allow_nan=False), fidelity=st.floats(1e-6, 1))
@settings(max_examples=200, deadline=None)
def test_floats_come_back_bit_for_bit(shared_ledger, value, detail, fidelity):
    key = content_hash([value, repr(detail), fidelity])
    outcome = Measured(value, fidelity, 0.0, {"d": detail})
    shared_ledger.remember(Evaluation(key, "p", fidelity, "W", None, outcome))
    known = shared_ledger.recall(key, "p", fidelity)
    assert known is not None
    assert known.value.hex() == (value + 0.0).hex()  # there is one zero
    assert known.details["d"].hex() == detail.hex()
    assert known.fidelity.hex() == fidelity.hex()


@pytest.fixture(scope="module")
def shared_ledger(tmp_path_factory):
    with Ledger.open(tmp_path_factory.mktemp("shared") / "ledger.sqlite") as opened:
        yield opened


def test_a_protocol_is_known_by_its_content(ledger):
    digest = ledger.remember_protocol(PROTOCOL)
    assert digest == content_hash(PROTOCOL)
    assert ledger.remember_protocol(dict(reversed(PROTOCOL.items()))) == digest


def test_times_are_written_in_utc(ledger, path):
    before = dt.datetime.now(dt.UTC)
    ledger.remember(evaluation())
    with closing(sqlite3.connect(path)) as connection:
        (text,) = connection.execute("SELECT recorded FROM evaluations").fetchone()
    written = dt.datetime.fromisoformat(text)
    assert written.utcoffset() == dt.timedelta(0)
    assert before <= written <= dt.datetime.now(dt.UTC)


# --- runs and events -------------------------------------------------------------------------


def test_a_run_is_stored_updated_and_read(ledger):
    ledger.begin_run(record())
    assert ledger.run("a") == record()
    ledger.update_run("a", status="done", seconds=12.5, summary={"best": 0.1})
    done = replace(record(), status="done", seconds=12.5, summary={"best": 0.1})
    assert ledger.run("a") == done


def test_a_run_that_goes_on_keeps_what_was_known(ledger):
    ledger.begin_run(record())
    ledger.update_run("a", status="interrupted", seconds=5.0)
    ledger.begin_run(record())
    assert ledger.run("a") == replace(record(), seconds=5.0)


def test_a_new_run_cannot_have_the_name_of_another(ledger):
    ledger.begin_run(record(), fresh=True)
    ledger.update_run("a", status="done", seconds=5.0)
    with pytest.raises(StorageError, match="autoproxy resume a; or give another --name"):
        ledger.begin_run(record(), fresh=True)
    assert ledger.run("a") == replace(record(), status="done", seconds=5.0)


def test_runs_are_listed_oldest_first(ledger):
    for name in ("z", "a", "m"):
        ledger.begin_run(record(name))
    assert [run.run for run in ledger.runs()] == ["z", "a", "m"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seed": 1}, "seed"),
        ({"space": "structured"}, "space"),
        ({"evaluator": "ranking"}, "evaluator"),
        ({"protocol": {**PROTOCOL, "tokens": 1}}, "protocol"),
    ],
)
def test_a_run_cannot_go_on_as_another_one(ledger, change, word):
    ledger.begin_run(record())
    with pytest.raises(StorageError, match=f"begun with {word}"):
        ledger.begin_run(replace(record(), **change))


def test_a_run_cannot_go_on_over_another_version_of_its_space(ledger):
    old, new = {"space_hash": "aaa", "torch": "2"}, {"space_hash": "bbb", "torch": "2"}
    ledger.begin_run(replace(record(), manifest=old))
    ledger.begin_run(replace(record(), manifest={**old, "torch": "3"}))  # this may change
    with pytest.raises(StorageError, match=r"restore the space's words.* or start a new run"):
        ledger.begin_run(replace(record(), manifest=new))
    ledger.begin_run(record())  # nothing is said of its space
    ledger.begin_run(record("b"))
    ledger.begin_run(replace(record("b"), manifest=new))


def test_an_unknown_run_is_refused_with_the_nearest(ledger):
    ledger.begin_run(record("importance-s0"))
    with pytest.raises(StorageError, match="did you mean 'importance-s0'"):
        ledger.run("importance-s1")
    with pytest.raises(StorageError, match="unknown run"):
        ledger.update_run("importance-s1", status="done")


def test_events_come_back_in_the_order_of_slots(ledger):
    events = [event(2), dropped(0, "behaviour"), event(1)]
    for one in events:
        ledger.append(one)
    ledger.append(event(0, run="other"))
    assert ledger.events("a") == sorted(events, key=lambda e: e.slot)
    assert ledger.events("a", valued=True) == [event(1), event(2)]


def test_replaying_the_same_events_changes_nothing(ledger):
    for _ in range(2):
        ledger.append(event())
        ledger.append(dropped(1, "algebra"))
    assert ledger.events("a") == [event(), dropped(1, "algebra")]


@pytest.mark.parametrize(
    "change",
    [
        {"text": "W"},
        {"value": 0.1 + 2**-56},
        {"parents": ("y", "x")},
        {"fate": "failed"},
        {"generation": 4},
        {"fidelity": None},
    ],
    ids=str,
)
def test_a_replay_that_diverges_is_refused(ledger, change):
    ledger.append(event())
    with pytest.raises(StorageError, match="does not repeat itself: slot 0"):
        ledger.append(replace(event(), **change))
    assert ledger.events("a") == [event()]


def test_a_replay_goes_on_where_the_record_ends(ledger):
    ledger.append()
    ledger.append(event(0), dropped(1, "algebra"))
    ledger.append(dropped(1, "algebra"), event(2))
    assert ledger.events("a") == [event(0), dropped(1, "algebra"), event(2)]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_of_many_that_diverges_is_refused_by_its_slot(ledger, place):
    ledger.append(event(7))
    events = [event(1), event(2)]
    events.insert(place, replace(event(7), text="W"))
    with pytest.raises(StorageError, match="does not repeat itself: slot 7"):
        ledger.append(*events)
    assert ledger.events("a") == [event(1), event(2), event(7)]


def test_what_is_told_together_is_there_together_or_not_at_all(ledger):
    broken = replace(event(1), origin=None)  # which no row may have
    with pytest.raises(StorageError):
        ledger.append(event(0), broken, event(2))
    assert ledger.events("a") == []


def test_the_funnel_counts_rules_and_fates(ledger):
    rules = ["algebra", "behaviour", "behaviour"]
    for slot, rule in enumerate(rules):
        ledger.append(dropped(slot, rule))
    ledger.append(event(3))
    ledger.append(event(3, run="other"))
    assert ledger.funnel("a") == Counter({"behaviour": 2, "algebra": 1, "measured": 1})


def test_rungs_are_of_a_run_s_own_formulas_under_its_own_protocol(ledger):
    """Another protocol's values are of other blocks, perhaps of another model."""
    ledger.append(event())
    ledger.append(replace(event(1), key="never measured"))
    ledger.append(replace(event(0, run="other"), key="of another run"))
    for key, protocol, fidelity, value in [
        ("k", "p", 0.5, 0.2),
        ("k", "p", 0.25, 0.4),
        ("k", "p", 1.0, 0.1),
        ("k", "q", 0.25, 9.0),
        ("k", "q", 0.75, 9.0),
        ("of another run", "p", 0.25, 0.3),
    ]:
        ledger.remember(Evaluation(key, protocol, fidelity, "W", None, Measured(value, fidelity)))
    ledger.remember(Evaluation("k", "p", 0.125, "W", None, Failed("not finite")))
    found = ledger.rungs("a", "p")
    assert found == {"k": {0.25: 0.4, 0.5: 0.2}}
    assert list(found["k"]) == [0.25, 0.5]
    assert ledger.rungs("a", "none") == {}


# --- reports ---------------------------------------------------------------------------------


def test_reports_come_back_and_repeats_take_their_place(ledger):
    rows = [report(), report(seed=1), report("ria")]
    ledger.add_reports(rows)
    ledger.add_reports(rows[:1])
    assert ledger.reports() == rows
    ledger.add_reports([report(perplexity=21.0)])
    assert ledger.reports() == [report(perplexity=21.0), *rows[1:]]


def test_a_report_without_a_number_is_an_error_and_not_lost_in_silence():
    with pytest.raises(ValueError, match="NaN"):
        report(perplexity=float("nan"))


# --- what cannot be a ledger -----------------------------------------------------------------


def test_another_schema_version_is_refused_and_left_alone(path):
    Ledger.open(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    before = path.read_bytes()
    with pytest.raises(StorageError, match=f"schema version 99.*reads {SCHEMA_VERSION}.*--results"):
        Ledger.open(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(path):
    path.write_text("notes\n" * 1000)
    with pytest.raises(StorageError, match=r"is not a database.*--results"):
        Ledger.open(path)
    assert path.read_text() == "notes\n" * 1000


def test_the_database_of_another_program_is_refused_and_left_alone(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE runs (distance REAL)")
    with pytest.raises(StorageError, match="another program: it has the tables runs"):
        Ledger.open(path)
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("runs",)]


def test_an_empty_file_becomes_a_ledger(path):
    path.touch()
    with Ledger.open(path) as ledger:
        assert ledger.runs() == []


def test_where_none_is_to_be_made_only_a_ledger_is_opened(path):
    with pytest.raises(StorageError, match="there is no ledger at"):
        Ledger.open(path, make=False)
    assert not path.exists()
    path.touch()
    with pytest.raises(StorageError, match="is no ledger"):
        Ledger.open(path, make=False)
    with Ledger.open(path):
        pass
    with Ledger.open(path, make=False) as ledger:
        ledger.remember(evaluation())
        assert ledger.recall("k", "p", 0.25) == MEASURED


def test_a_folder_that_is_missing_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot be opened; its folder must exist"):
        Ledger.open(tmp_path / "none" / "ledger.sqlite")


def test_a_ledger_that_is_read_only_can_be_read_and_says_why_not_written(path):
    with Ledger.open(path) as ledger:
        ledger.remember(evaluation())
    with Ledger.open(f"sqlite:///file:{path}?mode=ro&uri=true") as ledger:
        assert ledger.recall("k", "p", 0.25) == MEASURED
        with pytest.raises(StorageError, match="is read-only; let it and its folder be written"):
            ledger.remember(evaluation("new"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://host/base", "cannot be kept in 'mysql'"),
        ("postgresql+nodriver://host/base", "driver.*is missing"),
        ("://", "no database URL"),
    ],
)
def test_a_url_of_no_use_is_refused(url, words):
    with pytest.raises(StorageError, match=words):
        connect(url)


def test_a_password_is_never_shown():
    pytest.importorskip("psycopg")
    with pytest.raises(StorageError) as caught:
        Ledger.open("postgresql://u:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)


# --- disk full, several writers --------------------------------------------------------------


def test_a_full_disk_is_told_in_words_and_keeps_every_row(path):
    with Ledger.open(path) as ledger:
        ledger.remember(evaluation("first"))
        code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path.cwd())!r})
from autoproxy.errors import StorageError
from autoproxy.evaluation import Measured
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import Evaluation
ledger = Ledger.open({str(path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for number in range(10_000):
    row = Evaluation(f"k{{number}}", "p", 1.0, "W" * 500, None, Measured(float(number), 1.0))
    try:
        ledger.remember(row)
    except StorageError as error:
        print(number, error)
        break
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        count, _, message = done.stdout.partition(" ")
        assert "the disk" in message
        assert "all rows so far are kept" in message
        for number in range(int(count)):
            assert ledger.recall(f"k{number}", "p", 1.0) == Measured(float(number), 1.0)
        assert ledger.recall(f"k{count}", "p", 1.0) is None
        ledger.remember(evaluation("last"))
    assert int(count) > 10


def test_a_writer_waits_for_another(path, ledger):
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, lambda: other.execute("COMMIT"))
        timer.start()
        ledger.remember(evaluation())
        timer.join()
    assert ledger.recall("k", "p", 0.25) == MEASURED


def test_a_writer_that_never_ends_is_named(path, monkeypatch):
    monkeypatch.setattr("autoproxy.ledger.connection.PATIENCE", 0.05)
    with Ledger.open(path) as ledger, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="held by another process"):
            ledger.remember(evaluation())


def test_a_reader_does_not_wait_for_a_writer(path, ledger):
    ledger.remember(evaluation())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert ledger.recall("k", "p", 0.25) == MEASURED
