"""The archive as CSV: what is written reads back, and what is broken is told so."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.errors import ConfigError
from autoproxy.ledger import ledger
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.measured import COLUMNS, Archive
from autoproxy.ledger.records import Event, RunRecord
from autoproxy.ledger.rows import event_of

finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(alphabet="abcdefghij0123456789", min_size=1, max_size=8)
events = st.builds(
    Event,
    run=st.just("run"),
    slot=st.integers(0, 10**6),
    key=words,
    text=st.sampled_from(("abs(W)", "mul(abs(W), x_norm)", "pow(W, 1.5)")),
    origin=words,
    parents=st.lists(words, max_size=3).map(tuple),
    fate=st.sampled_from(("measured", "screened", "raced")),
    rule=st.none(),
    reason=st.none(),
    fidelity=st.floats(0.01, 1.0),
    value=finite,
    complexity=st.integers(1, 99),
    generation=st.integers(0, 999),
)


@given(
    listed=st.lists(events, max_size=6, unique_by=lambda event: event.key),
    values=st.dictionaries(st.floats(0.01, 0.99), finite, min_size=1, max_size=3),
)
def test_what_is_written_reads_back(listed: list[Event], values: dict[float, float]) -> None:
    archive = Archive(tuple(listed), {event.key: values for event in listed[::2]})
    assert Archive.from_csv(archive.to_csv(), "run") == archive


def test_other_programs_read_it() -> None:
    event = Event(
        "run", 3, "k", "abs(W)", "wrap", ("a", "b"), "measured", None, None, 1.0, 0.1, 2, 5
    )
    archive = Archive((event,), {"k": {0.5: math.pi, 0.25: 1.0}})
    (row,) = csv.DictReader(io.StringIO(archive.to_csv()))
    assert tuple(row) == COLUMNS
    assert (row["slot"], row["value"], row["parents"]) == ("3", "0.1", "a b")
    assert row["rungs"] == f"0.25:1.0 0.5:{math.pi!r}"


def test_what_was_never_measured_is_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of a long run was dropped: it would take half as much memory again."""
    kept = Event("r", 0, "k", "abs(W)", "random", (), "measured", None, None, 1.0, 0.5, 2, 0)
    others = [
        replace(kept, slot=slot, fate="dropped", rule="repeat", value=None, fidelity=None)
        for slot in range(1, 9)
    ]
    read: list[Event] = []

    def told(row: Any) -> Event:
        read.append(event_of(row))
        return read[-1]

    with Ledger.open(tmp_path / "ledger.sqlite") as opened:
        opened.begin_run(RunRecord("r", 0, "s", "e", {}, {"p": 1}, {}, "done", 0.0, None))
        opened.append(kept, *others)
        monkeypatch.setattr(ledger, "event_of", told)
        assert Archive.of(opened, "r").events == (kept,)
    assert read == [kept]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has none"),
        ("slot,text\n1,abs(W)\n", "but has slot, text"),
        (",".join(COLUMNS) + "\nx,0,o,measured,1,1,2,k,abs(W),,\n", "line 2"),
        (",".join(COLUMNS) + "\n1,0,o,measured,1,1,2,k,abs(W),,oops\n", "line 2"),
        (",".join(COLUMNS) + "\n1,0,o,measu", "ends too early"),
    ],
)
def test_what_is_no_archive_is_told_so(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Archive.from_csv(text, "run")
