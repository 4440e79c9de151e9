"""The ledger against signals that come at each moment of a call, inside the libraries too."""

import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import sqlalchemy as sa

from autoproxy.evaluation import Measured
from autoproxy.interruption import INTERRUPTIONS
from autoproxy.ledger import connection
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import Evaluation, RunRecord
from autoproxy.ledger.schema import EVALUATIONS
from tests.postgres import Server

RUN = RunRecord("r", 0, "s", "e", {}, {"model": "m"}, {}, "running", 0.0, None)


@pytest.fixture(autouse=True)
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C interrupts, as it does where nobody asked for anything else."""
    monkeypatch.setattr(connection, "PATIENCE", 0.2)  # a lock that stays is an error soon
    before = {number: signal.getsignal(number) for number in INTERRUPTIONS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A ledger, and how many moments lie from one that is tried to the next."""
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.sqlite"), 1
        return
    server = Server()
    yield server.url, 17
    server.remove()


def evaluation(name: str) -> Evaluation:
    return Evaluation(name, "p", 1.0, "W", None, Measured(0.1, 1.0))


def moments(work: Callable[[], object], number: int = 0) -> int:
    """Do some work, send SIGINT at one of its moments, and return how many it had till then.

    A moment is where a function begins or ends, Python's or C's: there Python looks for signals.
    """
    count = 0

    def look(frame: FrameType, event: str, given: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            signal.raise_signal(signal.SIGINT)

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_an_interruption_at_any_moment_harms_nothing(place: tuple[str, int]) -> None:
    where, step = place
    with Ledger.open(where) as ledger, Ledger.open(where) as other:
        ledger.begin_run(RUN)
        ledger.remember(evaluation("first"))
        for number in itertools.count(1, step):
            ledger.update_run("r", status="running")
            row = evaluation(str(number))
            try:
                whole = moments(lambda row=row: ledger.remember(row), number)
                break
            except KeyboardInterrupt as error:  # holds all frames that it came through
                ledger.update_run("r", status="interrupted")
                assert other.run("r").status == "interrupted"
                other.remember(row)
                ledger.remember(row)
                hidden = error.__context__
                assert hidden is None
        assert 200 < whole < number  # it was too short for that moment, and lost no interruption
    engine = connection.connect(where)
    with engine.begin() as reader:
        keys = reader.execute(sa.select(EVALUATIONS.c.key)).scalars().all()
    engine.dispose()
    assert sorted(keys) == sorted(["first", *map(str, range(1, number + 1, step))])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_while_a_ledger_is_made_leaves_it_to_the_next(tmp_path: Path) -> None:
    """Some come while a library frees something, where Python drops them: then it is made."""
    last = moments(lambda: Ledger.open(tmp_path / "whole.sqlite").close())
    caught: list[BaseException] = []
    for number in range(1, last, last // 40):
        path = tmp_path / f"{number}.sqlite"
        try:
            moments(lambda path=path: Ledger.open(path).close(), number)
        except KeyboardInterrupt as error:
            caught.append(error)  # holds all frames that it came through
        with Ledger.open(path) as ledger:
            ledger.begin_run(RUN)
    assert len(caught) > 30
