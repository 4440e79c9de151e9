"""Between the values of the ledger and the rows of its tables."""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row

from autoproxy.evaluation import Failed, Individual, Measured, Outcome
from autoproxy.ledger.records import Evaluation, Event, ReportRow, RunRecord
from autoproxy.ledger.schema import EVALUATIONS, EVENTS


def evaluation_row(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as a row."""
    row: dict[str, Any] = {
        "key": evaluation.key,
        "protocol": evaluation.protocol,
        "fidelity": evaluation.fidelity,
        "text": evaluation.text,
        "identity": evaluation.identity,
        "value": None,
        "details": None,
        "reason": None,
        "seconds": evaluation.outcome.seconds,
        "recorded": _now(),
    }
    match evaluation.outcome:
        case Measured(value=value, details=details):
            return row | {"value": value, "details": plain(details)}
        case Failed(reason=reason):
            return row | {"reason": reason}


def outcome_of(row: Row[Any]) -> Outcome:
    """Return what an evaluation's row says."""
    if row.value is None:
        return Failed(row.reason, row.seconds)
    return Measured(row.value, row.fidelity, row.seconds, _numbers(row.details))


def plain(details: Mapping[str, float]) -> dict[str, float | str]:
    """Return numbers as JSON has them; it has no infinities, so they are written out."""
    return {name: v if math.isfinite(v) else str(v) for name, v in details.items()}


def _numbers(details: Mapping[str, float | str]) -> dict[str, float]:
    return {name: float(v) if isinstance(v, str) else v for name, v in details.items()}


def event_row(event: Event) -> dict[str, Any]:
    """Return an event as a row."""
    row = {column.name: getattr(event, column.name) for column in EVENTS.columns}
    return row | {"parents": list(event.parents)}


def event_of(row: Row[Any]) -> Event:
    """Return the event that a row holds."""
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented way to a dictionary
    return Event(**values | {"parents": tuple(row.parents)})


MEASURED = (
    *(EVENTS.c[name] for name in ("text", "key", "complexity", "value", "slot", "origin")),
    *(EVENTS.c.parents, EVALUATIONS.c.details, EVENTS.c.generation),
)
"""The columns of an event and its evaluation that make an individual, in the order of its fields.

A run may have 100,000 of them, which are read to resume it: no more is asked for than is needed.
"""


def individual_of(row: Sequence[Any]) -> Individual:
    """Return who was measured, of a row of `MEASURED`."""
    text, key, complexity, value, slot, origin, parents, details, generation = row
    return Individual(
        text, key, complexity, value, slot, origin, tuple(parents), _numbers(details), generation
    )


def run_row(record: RunRecord, protocol: str) -> dict[str, Any]:
    """Return a run as a row, with the hash of its protocol."""
    return {
        "run": record.run,
        "seed": record.seed,
        "space": record.space,
        "evaluator": record.evaluator,
        "config": dict(record.config),
        "protocol": protocol,
        "manifest": dict(record.manifest),
        "status": record.status,
        "seconds": record.seconds,
        "summary": None if record.summary is None else dict(record.summary),
        "recorded": _now(),
    }


def run_of(row: Row[Any]) -> RunRecord:
    """Return the run that a row, joined with its protocol, holds."""
    return RunRecord(
        run=row.run,
        seed=row.seed,
        space=row.space,
        evaluator=row.evaluator,
        config=row.config,
        protocol=row.content,
        manifest=row.manifest,
        status=row.status,
        seconds=row.seconds,
        summary=row.summary,
    )


def report_row(report: ReportRow, protocol: str) -> dict[str, Any]:
    """Return a measurement on the report text as a row, with the hash of its protocol."""
    return {
        "run": report.run or "",  # a NULL would never be equal to itself
        "role": report.role,
        "name": report.name,
        "text": report.text,
        "key": report.key,
        "complexity": report.complexity,
        "seed": report.seed,
        "values": plain(report.values),
        "protocol": protocol,
        "recorded": _now(),
    }


def report_of(row: Row[Any]) -> ReportRow:
    """Return the measurement that a row, joined with its protocol, holds."""
    return ReportRow(
        run=row.run or None,
        role=row.role,
        name=row.name,
        text=row.text,
        key=row.key,
        complexity=row.complexity,
        seed=row.seed,
        values=_numbers(row._mapping["values"]),  # noqa: SLF001 - rows have a method `values`
        protocol=row.content,
    )


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")
