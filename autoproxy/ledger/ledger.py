"""The ledger: an append-only record in SQL, asked before measuring and told right after."""

import contextlib
import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, SQLAlchemyError

from autoproxy.errors import ConfigError, StorageError
from autoproxy.evaluation import Failed, Measured, Outcome, content_hash
from autoproxy.ledger.records import Evaluation, Event, ReportRow, RunRecord
from autoproxy.ledger.schema import (
    EVALUATIONS,
    EVENTS,
    METADATA,
    PROTOCOLS,
    REPORTS,
    RUNS,
    SCHEMA_VERSION,
    VERSION,
)


class Ledger:
    """Every evaluation of every run, in an SQLite file or a PostgreSQL database.

    Each call that stores something is one transaction, on disk when the call returns, so a
    process may be killed at any moment and loses nothing that it was told is stored.
    """

    def __init__(self, engine: Engine, where: str) -> None:
        self._engine = engine
        self._where = where

    @classmethod
    def open(cls, where: Path | str) -> Self:
        """Open a ledger, and make it where there is none.

        Args:
            where: Path of an SQLite file, or a database URL.

        Raises:
            StorageError: It cannot be opened, is no ledger, or has another schema version.
        """
        url = _url(where)
        shown = url.render_as_string(hide_password=True)
        engine = sa.create_engine(url)
        if url.get_backend_name() == "sqlite":
            sa.event.listen(engine, "connect", _configure_sqlite)
        ledger = cls(engine, shown if "://" in str(where) else str(where))
        try:
            ledger._check_version()
        except StorageError:
            engine.dispose()
            raise
        return ledger

    def _check_version(self) -> None:
        """Make the tables of a new ledger; leave one of another version as it is."""
        with self._transaction() as connection:
            if not sa.inspect(connection).has_table(VERSION.name):
                METADATA.create_all(connection)
                connection.execute(sa.insert(VERSION).values(version=SCHEMA_VERSION))
                return
            found = connection.execute(sa.select(VERSION.c.version)).scalar()
        if found != SCHEMA_VERSION:
            raise StorageError(
                f"ledger {self._where} has schema version {found}, this program reads "
                f"{SCHEMA_VERSION}; use the program that wrote it, or another --results DIR"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; what was stored stays."""
        self._engine.dispose()

    def recall(self, key: str, protocol: str, fidelity: float) -> Outcome | None:
        """Return what is known of a candidate under a protocol, or None."""
        table = EVALUATIONS.c
        query = sa.select(EVALUATIONS).where(
            table.key == key, table.protocol == protocol, table.fidelity == fidelity
        )
        with self._transaction() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _outcome(row)

    def remember(self, evaluation: Evaluation) -> None:
        """Store an evaluation; storing the same one twice changes nothing.

        Raises:
            StorageError: The ledger has another value for it: the evaluator is not
                deterministic, or its protocol leaves something out.
        """
        outcome = evaluation.outcome
        measured = isinstance(outcome, Measured)
        row = {
            "key": evaluation.key,
            "protocol": evaluation.protocol,
            "fidelity": evaluation.fidelity,
            "text": evaluation.text,
            "identity": evaluation.identity,
            "value": outcome.value if isinstance(outcome, Measured) else None,
            "details": dict(outcome.details) if isinstance(outcome, Measured) else None,
            "reason": outcome.reason if isinstance(outcome, Failed) else None,
            "seconds": outcome.seconds,
            "recorded": _now(),
        }
        if self._insert(EVALUATIONS, row):
            return
        known = self.recall(evaluation.key, evaluation.protocol, evaluation.fidelity)
        same = known is not None and isinstance(known, Measured) == measured
        if same and isinstance(known, Measured) and isinstance(outcome, Measured):
            same = known.value == outcome.value
        if not same:
            raise StorageError(
                f"{evaluation.text} gave {outcome} where the ledger has {known}, under one "
                "protocol: the evaluator is not deterministic, or its protocol is not complete"
            )

    def remember_protocol(self, protocol: Mapping[str, Any]) -> str:
        """Store a protocol and return its content hash."""
        digest = content_hash(dict(protocol))
        self._insert(PROTOCOLS, {"protocol": digest, "content": dict(protocol)})
        return digest

    def begin_run(self, record: RunRecord) -> None:
        """Store that a run has begun, or goes on."""
        row = {
            "run": record.run,
            "seed": record.seed,
            "space": record.space,
            "evaluator": record.evaluator,
            "config": dict(record.config),
            "protocol": self.remember_protocol(record.protocol),
            "manifest": dict(record.manifest),
            "status": record.status,
            "seconds": record.seconds,
            "summary": None if record.summary is None else dict(record.summary),
            "recorded": _now(),
        }
        if not self._insert(RUNS, row):
            self.update_run(record.run, status=record.status)

    def update_run(
        self,
        run: str,
        *,
        status: str,
        seconds: float | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        """Store how a run stands."""
        changes: dict[str, Any] = {"status": status}
        if seconds is not None:
            changes["seconds"] = seconds
        if summary is not None:
            changes["summary"] = dict(summary)
        with self._transaction() as connection:
            connection.execute(sa.update(RUNS).where(RUNS.c.run == run).values(**changes))

    def runs(self) -> list[RunRecord]:
        """Return all runs, oldest first."""
        query = (
            sa.select(RUNS, PROTOCOLS.c.content)
            .join(PROTOCOLS, PROTOCOLS.c.protocol == RUNS.c.protocol)
            .order_by(RUNS.c.recorded, RUNS.c.run)
        )
        with self._transaction() as connection:
            rows = connection.execute(query).all()
        return [_run_record(row) for row in rows]

    def append(self, event: Event) -> None:
        """Store what became of a proposal; a replay that repeats it changes nothing.

        Raises:
            StorageError: The ledger has another fate for this slot: the replay diverged.
        """
        row = _event_row(event)
        if self._insert(EVENTS, row):
            return
        query = sa.select(EVENTS).where(EVENTS.c.run == event.run, EVENTS.c.slot == event.slot)
        with self._transaction() as connection:
            known = _event(connection.execute(query).one())
        if known != event:
            raise StorageError(
                f"run {event.run!r} does not repeat itself: slot {event.slot} was {known.text} "
                f"({known.fate}), now it is {event.text} ({event.fate}); the program or the "
                "libraries changed since it began; start a new run"
            )

    def events(self, run: str) -> list[Event]:
        """Return what became of each proposal of a run, in order."""
        query = sa.select(EVENTS).where(EVENTS.c.run == run).order_by(EVENTS.c.slot)
        with self._transaction() as connection:
            return [_event(row) for row in connection.execute(query)]

    def funnel(self, run: str) -> dict[str, int]:
        """Return how many proposals of a run each rule dropped, and what became of the rest."""
        return dict(Counter(event.rule or event.fate for event in self.events(run)))

    def add_reports(self, rows: Sequence[ReportRow]) -> None:
        """Store measurements on the report text; repeating one changes nothing."""
        for row in rows:
            values = {
                name: getattr(row, name)
                for name in ("role", "name", "text", "key", "complexity", "seed")
            }
            values |= {
                "run": row.run or "",  # a NULL would never be equal to itself
                "perplexity": row.perplexity,
                "kl": row.kl,
                "protocol": self.remember_protocol(row.protocol),
                "recorded": _now(),
            }
            self._insert(REPORTS, values)

    def reports(self) -> list[ReportRow]:
        """Return all measurements on report texts, in the order they were stored."""
        query = (
            sa.select(REPORTS, PROTOCOLS.c.content)
            .join(PROTOCOLS, PROTOCOLS.c.protocol == REPORTS.c.protocol)
            .order_by(REPORTS.c.number)
        )
        with self._transaction() as connection:
            rows = connection.execute(query).all()
        return [_report_row(row) for row in rows]

    def _insert(self, table: sa.Table, row: Mapping[str, Any]) -> bool:
        """Insert a row; return False, with nothing changed, when its key is there already."""
        try:
            with self._transaction() as connection:
                connection.execute(sa.insert(table).values(**row))
        except IntegrityError:
            return False
        return True

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except DatabaseError as error:
            raise StorageError(
                f"the ledger {self._where} cannot be used: {error.orig}; see that the disk has "
                "room and the folder can be written, or choose another with --results DIR"
            ) from error
        except SQLAlchemyError as error:
            raise StorageError(f"the ledger {self._where} cannot be used: {error}") from error


def _url(where: Path | str) -> URL:
    if "://" not in str(where):
        return URL.create("sqlite", database=str(where))
    try:
        return make_url(str(where))
    except ArgumentError as error:
        raise ConfigError(f"{where!r} is no database URL: {error}") from None


def _configure_sqlite(connection: Any, _record: object) -> None:
    """Readers beside one writer (WAL), every commit on disk, a patient wait for the lock."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _outcome(row: sa.Row[Any]) -> Outcome:
    if row.value is None:
        return Failed(row.reason, row.seconds)
    return Measured(row.value, row.fidelity, row.seconds, row.details)


def _event_row(event: Event) -> dict[str, Any]:
    row = {column.name: getattr(event, column.name) for column in EVENTS.columns}
    return row | {"parents": list(event.parents)}


def _event(row: sa.Row[Any]) -> Event:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented way to a dictionary
    return Event(**values | {"parents": tuple(row.parents)})


def _run_record(row: sa.Row[Any]) -> RunRecord:
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


def _report_row(row: sa.Row[Any]) -> ReportRow:
    return ReportRow(
        run=row.run or None,
        role=row.role,
        name=row.name,
        text=row.text,
        key=row.key,
        complexity=row.complexity,
        seed=row.seed,
        perplexity=row.perplexity,
        kl=row.kl,
        protocol=row.content,
    )
