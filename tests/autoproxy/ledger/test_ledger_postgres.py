"""The ledger in PostgreSQL: a server of the tests' own, or the empty one of AUTOPROXY_POSTGRES."""

import math
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from autoproxy.errors import StorageError
from autoproxy.evaluation import Measured
from autoproxy.ledger import connection
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import Evaluation, Event, ReportRow, RunRecord
from autoproxy.ledger.schema import EVALUATIONS, METADATA
from tests.postgres import Server
from tests.saying import Run

GIVEN = os.environ.get("AUTOPROXY_POSTGRES", "")

CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    own = Server()
    yield own
    own.remove()


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest) -> str:
    return GIVEN or request.getfixturevalue("server").url


@pytest.fixture
def fresh(server: Server) -> Iterator[str]:
    """A database without tables, on a server that may be stopped."""
    yield server.url
    engine = connection.connect(server.url)
    METADATA.drop_all(engine)
    engine.dispose()


def evaluation(value: float) -> Evaluation:
    outcome = Measured(value, 1.0, details={"worst": float("inf")})
    return Evaluation(value.hex()[:32], "p", 1.0, "W", None, outcome)


def event(slot: int) -> Event:
    return Event("r", slot, "k", "W", "seed", ("a",), "measured", None, None, 1.0, 0.1, 1, 0)


def record(status: str) -> RunRecord:
    return RunRecord("r", 0, "s", "e", {}, {"model": "m"}, {}, status, 0.0, None)


def test_it_keeps_what_it_is_told_and_refuses_contradictions(url):
    values = [5e-324, 1.7976931348623157e308, -0.0, 0.1 + 2**-56]
    with ThreadPoolExecutor(4) as pool:  # all of them may be the first to make the tables
        ledgers = list(pool.map(lambda _: Ledger.open(url), values))
    for ledger, value in zip(ledgers, values, strict=True):
        ledger.remember(evaluation(value))
        ledger.remember(evaluation(value))
    numbers = {"perplexity": math.inf, "kl": 0.1}
    report = ReportRow(None, "baseline", "wanda", "W", "k", 1, 0, numbers, {"tokens": 1})
    ledgers[0].append(event(0))
    ledgers[0].add_reports([report, report])
    for value in values:
        assert ledgers[-1].recall(value.hex()[:32], "p", 1.0) == evaluation(value).outcome
    ledgers[1].append(event(0), event(1))
    with pytest.raises(StorageError, match="does not repeat itself: slot 1"):
        ledgers[1].append(event(2), replace(event(1), text="x_norm"))
    assert ledgers[-1].events("r") == [event(0), event(1), event(2)]
    assert ledgers[-1].reports() == [report]
    other = Evaluation(values[0].hex()[:32], "p", 1.0, "W", None, Measured(2.0, 1.0))
    with pytest.raises(StorageError, match="not deterministic"):
        ledgers[0].remember(other)
    for ledger in ledgers:
        ledger.close()
    engine = connection.connect(url)
    METADATA.drop_all(engine)
    engine.dispose()


def test_a_connection_that_is_cut_again_and_again_loses_and_doubles_nothing(fresh):
    stop, cuts = threading.Event(), []
    admin = connection.connect(fresh).execution_options(isolation_level="AUTOCOMMIT")

    def cut() -> None:
        with admin.connect() as connected:
            while not stop.wait(0.01):
                cuts.append(connected.execute(sa.text(CUT)).rowcount)

    with Ledger.open(fresh) as ledger, ThreadPoolExecutor(1) as pool:
        knife = pool.submit(cut)
        ledger.begin_run(record("running"))
        count = 0
        while sum(cuts) < 20:
            ledger.remember(evaluation(float(count)))
            ledger.append(event(count))
            assert ledger.recall(float(count).hex(), "p", 1.0) is not None
            count += 1
        ledger.begin_run(record("running"))
        ledger.update_run("r", status="done")
        stop.set()
        knife.result()
        assert ledger.run("r").status == "done"
        assert ledger.events("r") == [event(slot) for slot in range(count)]
    with admin.connect() as connected:
        rows = connected.execute(sa.select(EVALUATIONS.c.value)).scalars()
        assert sorted(rows) == [float(number) for number in range(count)]
    admin.dispose()


def test_a_server_that_crashes_and_comes_back_is_waited_for(server, fresh):
    with Ledger.open(fresh) as ledger, ThreadPoolExecutor(1) as pool:
        ledger.remember(evaluation(1.0))
        server.stop()
        stored = pool.submit(ledger.remember, evaluation(2.0))
        time.sleep(0.5)
        assert not stored.done()
        server.start()
        stored.result(timeout=30)
        assert ledger.recall((1.0).hex(), "p", 1.0) == evaluation(1.0).outcome
        assert ledger.recall((2.0).hex(), "p", 1.0) == evaluation(2.0).outcome


def test_a_server_that_stays_away_is_told_so_and_a_new_run_fails_at_once(
    server, fresh, monkeypatch
):
    monkeypatch.setattr(connection, "OUTAGE", 0.3)
    secret = fresh.replace("me@", "me:secret@")
    with Ledger.open(secret) as ledger:
        server.stop()
        try:
            with pytest.raises(StorageError, match="has been away for") as caught:
                ledger.remember(evaluation(1.0))
            start = time.monotonic()
            with pytest.raises(StorageError, match="cannot be used") as refused:
                Ledger.open(secret)
            assert time.monotonic() - start < 5
        finally:
            server.start()
    for told in (caught, refused):
        assert "secret" not in str(told.value)
        assert "me:***@" in str(told.value)


def test_what_no_waiting_mends_is_not_waited_for(fresh):
    with Ledger.open(fresh) as ledger:
        engine = connection.connect(fresh)
        METADATA.drop_all(engine)
        engine.dispose()
        start = time.monotonic()
        with pytest.raises(StorageError, match="does not exist"):
            ledger.recall("k", "p", 1.0)
        assert time.monotonic() - start < 5


def test_the_command_line_takes_its_place_from_a_flag_or_the_environment(
    fresh, run: Run, tmp_path, monkeypatch
):
    report = ReportRow(
        None, "baseline", "wanda", "W", "k", 1, 0, {"perplexity": 7.5}, {"model": "m"}
    )
    with Ledger.open(fresh) as ledger:
        ledger.add_reports([report])
    words = ("leaderboard", "--results", tmp_path, "--json")
    assert "7.5" not in run(*words).out
    assert "7.5" in run(*words, "--ledger", fresh).out
    (tmp_path / "ledger.sqlite").unlink()
    (tmp_path / "reports.jsonl").unlink()
    monkeypatch.setenv("AUTOPROXY_LEDGER", fresh)
    assert "7.5" in run(*words).out
    assert not (tmp_path / "ledger.sqlite").exists()
    said = run(*words, "--ledger", "postgresql://me:secret@host:port/db")
    assert said.code == 2
    assert "secret" not in said.err + said.out
