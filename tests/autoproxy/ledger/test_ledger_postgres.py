"""The ledger in PostgreSQL: run with AUTOPROXY_POSTGRES=postgresql://user@host/empty_database."""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from autoproxy.errors import StorageError
from autoproxy.evaluation import Measured
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import Evaluation, Event, ReportRow

URL = os.environ.get("AUTOPROXY_POSTGRES", "")

pytestmark = pytest.mark.skipif(not URL, reason="AUTOPROXY_POSTGRES names no database")


def evaluation(value: float) -> Evaluation:
    outcome = Measured(value, 1.0, details={"worst": float("inf")})
    return Evaluation(value.hex()[:32], "p", 1.0, "W", None, outcome)


def test_it_keeps_what_it_is_told_and_refuses_contradictions():
    values = [5e-324, 1.7976931348623157e308, -0.0, 0.1 + 2**-56]
    with ThreadPoolExecutor(4) as pool:  # all of them may be the first to make the tables
        ledgers = list(pool.map(lambda _: Ledger.open(URL), values))
    for ledger, value in zip(ledgers, values, strict=True):
        ledger.remember(evaluation(value))
        ledger.remember(evaluation(value))
    event = Event("r", 0, "k", "W", "seed", ("a",), "measured", None, None, 1.0, 0.1, 1, 0)
    numbers = {"perplexity": math.inf, "kl": 0.1}
    report = ReportRow(None, "baseline", "wanda", "W", "k", 1, 0, numbers, {"tokens": 1})
    ledgers[0].append(event)
    ledgers[0].add_reports([report, report])
    for value in values:
        assert ledgers[-1].recall(value.hex()[:32], "p", 1.0) == evaluation(value).outcome
    assert ledgers[-1].events("r") == [event]
    assert ledgers[-1].reports() == [report]
    other = Evaluation(values[0].hex()[:32], "p", 1.0, "W", None, Measured(2.0, 1.0))
    with pytest.raises(StorageError, match="not deterministic"):
        ledgers[0].remember(other)
    for ledger in ledgers:
        ledger.close()
