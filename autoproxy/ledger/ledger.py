"""The ledger: an append-only record in SQL, asked before measuring and told right after."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from autoproxy.errors import StorageError, unknown_name
from autoproxy.evaluation import Individual, Measured, Outcome, content_hash
from autoproxy.interruption import Uninterrupted
from autoproxy.ledger.connection import (
    close_quietly,
    connect,
    lock_for_creation,
    patiently,
    storage_error,
    without_password,
)
from autoproxy.ledger.migration import OLDEST, migrate
from autoproxy.ledger.records import Evaluation, Event, ReportRow, RunRecord
from autoproxy.ledger.rows import (
    MEASURED,
    evaluation_row,
    event_of,
    event_row,
    individual_of,
    outcome_of,
    report_of,
    report_row,
    run_of,
    run_row,
)
from autoproxy.ledger.schema import (
    EVALUATIONS,
    EVENTS,
    METADATA,
    PROTOCOLS,
    REPORTS,
    RUNS,
    SCHEMA_VERSION,
    STEPS,
    VERSION,
)
from autoproxy.ledger.standing import Standing, read_funnel, read_standing, run_names

T = TypeVar("T")


class Ledger:
    """Every evaluation of every run, in an SQLite file or a PostgreSQL database.

    Each call that stores something is one transaction, done when the call returns: a process may
    be killed at any moment, nothing that it was told is stored is lost, and no row is half
    there. Floats come back bit for bit, but for negative zero, which SQLite returns as zero.
    Several processes may use one ledger; in each, open it there. A database server that goes away
    is waited for. A signal that comes in the midst of a transaction interrupts after it: what is
    torn would hold the lock, and how the run stands could not be stored.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Ledger.open(f"{folder}/a.sqlite") as ledger:
    ...     row = Evaluation("k", "p", 1.0, "abs(W)", None, Measured(0.1, 1.0))
    ...     ledger.remember(row)
    ...     ledger.recall("k", "p", 1.0) == row.outcome
    True
    """

    def __init__(self, engine: Engine, where: str) -> None:
        self._engine = engine
        self._where = where

    @classmethod
    def open(cls, where: Path | str, *, read_only: bool = False, make: bool = True) -> Self:
        """Open a ledger, and make it where there is none.

        Args:
            where: Path of an SQLite file, or a database URL.
            read_only: Make, mend and store nothing; a run that writes never waits for it.
            make: Whether one is made; else there is an error where there is none.

        Raises:
            StorageError: It cannot be opened or written, is no ledger, or has another schema
                version.
        """
        if (read_only or not make) and "://" not in str(where) and not Path(where).is_file():
            raise StorageError(
                f"there is no ledger at {where}; name the one of the run: --results DIR or "
                "--ledger PLACE"
            )
        engine = connect(where, read_only=read_only)
        ledger = cls(engine, without_password(str(where)))
        try:
            ledger._check_version(read_only=read_only, make=make)
        except StorageError:
            close_quietly(engine)
            raise
        return ledger

    def _check_version(self, *, read_only: bool, make: bool) -> None:
        """Make the tables of a new ledger or mend an older one's, all or none; leave any other."""
        look = self._version if read_only else partial(self._made_or_mended, make=make)
        with self._spoken():
            found = self._once(look)  # a server that is not there is an error now, before any work
        if read_only and found is not None and OLDEST <= found < SCHEMA_VERSION:
            raise StorageError(
                f"the ledger {self._where} has schema version {found}, and is only read here; "
                f"bring it to version {SCHEMA_VERSION} first: autoproxy leaderboard, with its "
                "--results DIR or --ledger PLACE"
            )
        if found != SCHEMA_VERSION:
            raise StorageError(
                f"the ledger {self._where} has schema version {found}, this program reads "
                f"{SCHEMA_VERSION}; use the program that wrote it, or choose another with "
                "--results DIR or --ledger PLACE"
            )

    def _version(self, connection: Connection) -> int | None:
        """Return the schema version of the tables as they are."""
        if not sa.inspect(connection).has_table(VERSION.name):
            raise StorageError(
                f"{self._where} is no ledger: it has no table {VERSION.name}; name the one of the "
                "run: --results DIR or --ledger PLACE"
            )
        found: int | None = connection.execute(sa.select(VERSION.c.version)).scalar()
        return found

    def _made_or_mended(self, connection: Connection, *, make: bool) -> int | None:
        """Return the schema version of the tables, after what could be done for them."""
        lock_for_creation(connection)
        names = set(sa.inspect(connection).get_table_names())
        if make and VERSION.name not in names:
            self._refuse_foreign(names, connection)
            METADATA.create_all(connection)
            connection.execute(sa.insert(VERSION).values(version=SCHEMA_VERSION))
            return SCHEMA_VERSION
        found = self._version(connection)
        if found is not None and OLDEST <= found < SCHEMA_VERSION:
            migrate(connection, found)
            return SCHEMA_VERSION
        return found

    def _refuse_foreign(self, names: set[str], connection: Connection) -> None:
        """Refuse to move in with another program: a file that has tables, or a name taken."""
        alone = connection.dialect.name == "sqlite"
        foreign = names if alone else names & set(METADATA.tables)
        if foreign:
            raise StorageError(
                f"{self._where} is the database of another program: it has the tables "
                f"{', '.join(sorted(foreign))}; move it away, or choose another with "
                "--results DIR"
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
        address = {"key": key, "protocol": protocol, "fidelity": fidelity}
        row = self._do(lambda c: c.execute(_RECALL, address).one_or_none())
        return None if row is None else outcome_of(row)

    def remember(self, evaluation: Evaluation) -> None:
        """Store an evaluation; storing the same one twice changes nothing.

        Raises:
            StorageError: The ledger has another value for it: the evaluator is not
                deterministic, or its protocol leaves something out.
        """
        if self._insert(EVALUATIONS, evaluation_row(evaluation)):
            return
        known = self.recall(evaluation.key, evaluation.protocol, evaluation.fidelity)
        if not _agree(known, evaluation.outcome):
            raise StorageError(
                f"{evaluation.text} gave {evaluation.outcome} where the ledger has {known}, under "
                "one protocol: the evaluator is not deterministic, or its protocol is not "
                "complete; mend it and start with another --results DIR"
            )

    def remember_protocol(self, protocol: Mapping[str, Any]) -> str:
        """Store a protocol and return its content hash."""
        digest = content_hash(dict(protocol))
        self._insert(PROTOCOLS, {"protocol": digest, "content": dict(protocol)})
        return digest

    def begin_run(self, record: RunRecord, *, fresh: bool = False) -> None:
        """Store that a run has begun, or goes on.

        Args:
            record: The run.
            fresh: Whether it is a new one, whose name nobody may have had.

        Raises:
            StorageError: The ledger has a run of that name, which is to be new; or one with
                another seed, space, evaluator or protocol.
        """
        row = run_row(record, self.remember_protocol(record.protocol))
        if self._insert(RUNS, row):
            return
        if fresh:
            raise StorageError(self.has_run(record.run))
        self._check_same(record)
        self.update_run(record.run, status=record.status)

    def has_run(self, run: str) -> str:
        """Return what to tell who wants to begin a run whose name is taken."""
        return (
            f"the ledger {self._where} has a run {run!r} already; go on with it: autoproxy resume "
            f"{run}; or give another --name"
        )

    def _check_same(self, record: RunRecord) -> None:
        known = self.run(record.run)
        for name in ("seed", "space", "evaluator", "protocol"):
            old, new = getattr(known, name), getattr(record, name)
            if content_hash(old) != content_hash(new):
                raise StorageError(
                    f"run {record.run!r} was begun with {name} {old}, now it is {new}: its "
                    "values would not compare; start a new run, with another name"
                )
        old, new = (each.manifest.get("space_hash") for each in (known, record))
        if old and new and old != new:
            raise StorageError(
                f"run {record.run!r} was begun over another version of the space {record.space!r} "
                f"(hash {old}, now {new}), so it would not repeat itself; restore the space's "
                "words, numbers and limits, or start a new run, with another name: what was "
                "measured is known to it"
            )

    def update_run(
        self,
        run: str,
        *,
        status: str,
        seconds: float | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        """Store how a run stands.

        Raises:
            StorageError: There is no such run.
        """
        changes: dict[str, Any] = {"status": status}
        if seconds is not None:
            changes["seconds"] = seconds
        if summary is not None:
            changes["summary"] = dict(summary)
        query = sa.update(RUNS).where(RUNS.c.run == run).values(**changes)
        if not self._do(lambda connection: connection.execute(query).rowcount):
            self.run(run)  # says which runs there are

    def run(self, run: str) -> RunRecord:
        """Return one run.

        Raises:
            StorageError: There is none of that name; the message has the nearest.
        """
        records = {record.run: record for record in self.runs()}
        if run not in records:
            raise StorageError(f"{self._where}: {unknown_name('run', run, records)}")
        return records[run]

    def runs(self) -> list[RunRecord]:
        """Return all runs, oldest first."""
        query = (
            sa.select(RUNS, PROTOCOLS.c.content)
            .join(PROTOCOLS, PROTOCOLS.c.protocol == RUNS.c.protocol)
            .order_by(RUNS.c.recorded, RUNS.c.run)
        )
        rows = self._do(lambda connection: connection.execute(query).all())
        return [run_of(row) for row in rows]

    def append(self, *events: Event) -> None:
        """Store what became of proposals, at once; a replay that repeats it changes nothing.

        Raises:
            StorageError: The ledger has another fate for one of these slots, which stays: the
                replay diverged.
        """
        rows = [event_row(event) for event in events]
        query = _insertion(self._engine.dialect.name, EVENTS, ())
        if rows and self._do(lambda c: c.execute(query, rows).rowcount) != len(rows):
            self._check_repeated(events)  # some were there; or the driver has not counted

    def _check_repeated(self, events: Sequence[Event]) -> None:
        told = {(event.run, event.slot): event for event in events}
        query = sa.select(EVENTS).where(sa.tuple_(EVENTS.c.run, EVENTS.c.slot).in_(told))
        for known in map(event_of, self._do(lambda connection: connection.execute(query).all())):
            event = told[known.run, known.slot]
            if known != event:
                raise StorageError(
                    f"run {event.run!r} does not repeat itself: slot {event.slot} was "
                    f"{known.text} ({known.fate}), now it is {event.text} ({event.fate}); the "
                    "program or the libraries changed since it began; start a new run"
                )

    def events(self, run: str, *, valued: bool = False) -> list[Event]:
        """Return what became of each proposal of a run, in order.

        Args:
            run: Name.
            valued: Leave out those without a value, which are most of a long run.
        """
        query = sa.select(EVENTS).where(EVENTS.c.run == run).order_by(EVENTS.c.slot)
        if valued:
            query = query.where(EVENTS.c.value.is_not(None))
        rows = self._do(lambda connection: connection.execute(query).all())
        return [event_of(row) for row in rows]

    def measured(self, run: str, protocol: str) -> list[Individual]:
        """Return the proposals of a run that were measured in full, in order.

        Args:
            run: Name.
            protocol: Content hash of the protocol that it measures under.
        """
        known = sa.and_(
            EVALUATIONS.c.key == EVENTS.c.key,
            EVALUATIONS.c.protocol == protocol,
            EVALUATIONS.c.fidelity == 1.0,
        )
        query = (
            sa.select(*MEASURED)
            .join(EVALUATIONS, known)
            .where(EVENTS.c.run == run, EVENTS.c.fate == "measured")
            .order_by(EVENTS.c.slot)
        )
        rows = self._do(lambda connection: connection.execute(query).all())
        return [individual_of(row) for row in rows]

    def rungs(self, run: str, protocol: str) -> dict[str, dict[float, float]]:
        """Return for each formula of a run its values on cheap rungs, by key and fidelity.

        Args:
            run: Name.
            protocol: Content hash of the protocol that it measures under.
        """
        query = (
            sa.select(EVALUATIONS.c.key, EVALUATIONS.c.fidelity, EVALUATIONS.c.value)
            .where(
                EVALUATIONS.c.key.in_(sa.select(EVENTS.c.key).where(EVENTS.c.run == run)),
                EVALUATIONS.c.protocol == protocol,
                EVALUATIONS.c.fidelity < 1.0,
                EVALUATIONS.c.value.is_not(None),
            )
            .order_by(EVALUATIONS.c.key, EVALUATIONS.c.fidelity)
        )
        found: dict[str, dict[float, float]] = {}
        for row in self._do(lambda connection: connection.execute(query).all()):
            found.setdefault(row.key, {})[row.fidelity] = row.value
        return found

    def add_step(self, run: str, generation: int, content: Mapping[str, Any]) -> None:
        """Store what a whole generation of a run changed; the same one twice changes nothing."""
        row = {"run": run, "generation": generation, "content": dict(content)}
        self._insert(STEPS, row)

    def steps(self, run: str) -> list[tuple[int, dict[str, Any]]]:
        """Return the whole generations of a run, in order, and what each changed."""
        query = sa.select(STEPS).where(STEPS.c.run == run).order_by(STEPS.c.generation)
        rows = self._do(lambda connection: connection.execute(query).all())
        return [(row.generation, row.content) for row in rows]

    def funnel(self, run: str, generations: int | None = None) -> dict[str, int]:
        """Return how many proposals of a run each rule dropped, and what became of the rest.

        Args:
            run: Name.
            generations: Only the first so many; None for all.
        """
        return self._do(lambda connection: read_funnel(connection, run, generations))

    def run_names(self) -> list[str]:
        """Return the names of all runs, oldest first."""
        return self._do(run_names)

    def standing(self, run: str) -> Standing:
        """Return how a run that exists stands, all of it at one moment."""
        return self._do(lambda connection: read_standing(connection, run))

    def add_reports(self, rows: Sequence[ReportRow]) -> None:
        """Store measurements on the report text; a repeated one takes the place of the first."""
        for row in rows:
            values = report_row(row, self.remember_protocol(row.protocol))
            self._insert(REPORTS, values, replace=("text", "complexity", "values"))

    def reports(self) -> list[ReportRow]:
        """Return all measurements on report texts, in the order they were stored."""
        query = (
            sa.select(REPORTS, PROTOCOLS.c.content)
            .join(PROTOCOLS, PROTOCOLS.c.protocol == REPORTS.c.protocol)
            .order_by(REPORTS.c.number)
        )
        rows = self._do(lambda connection: connection.execute(query).all())
        return [report_of(row) for row in rows]

    def _insert(self, table: sa.Table, row: Mapping[str, Any], replace: Sequence[str] = ()) -> bool:
        """Insert a row, or put `replace` of it into the row of the same key, if any.

        Returns:
            Whether a row was written; False: its key is there already, nothing changed.
        """
        query = _insertion(self._engine.dialect.name, table, tuple(replace))
        return self._do(lambda connection: connection.execute(query, dict(row)).rowcount) > 0

    def _do(self, statement: Callable[[Connection], T]) -> T:
        """Return what a statement gives, done as one transaction.

        It is done again where the server went away meanwhile. That it may then be done twice, as
        its answer alone was lost, does no harm: no row is stored twice, and what an insertion
        finds there is compared with what it wanted to store.
        """
        with self._spoken():
            return patiently(partial(self._once, statement), self._where)

    def _once(self, statement: Callable[[Connection], T]) -> T:
        """Return what a statement gives, done as one transaction, once; no signal tears it."""
        with Uninterrupted(), self._engine.begin() as connection:
            return statement(connection)

    @contextlib.contextmanager
    def _spoken(self) -> Iterator[None]:
        """Say errors of the database in words for people."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:  # the second while it connects
            raise storage_error(self._where, error) from error


_RECALL = sa.select(EVALUATIONS).where(
    *(column == sa.bindparam(column.name) for column in EVALUATIONS.primary_key.columns)
)


@lru_cache
def _insertion(dialect: str, table: sa.Table, replace: tuple[str, ...]) -> Any:
    """Return the statement that inserts a row; made once, since that takes most of the time."""
    query = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    if not replace:
        return query.on_conflict_do_nothing(index_elements=list(table.primary_key.columns))
    unique = next(c for c in table.constraints if isinstance(c, sa.UniqueConstraint))
    return query.on_conflict_do_update(
        index_elements=list(unique.columns),
        set_={name: query.excluded[name] for name in replace},
    )


def _agree(a: Outcome | None, b: Outcome) -> bool:
    """Return whether two outcomes say the same; why something failed may be put otherwise."""
    if isinstance(a, Measured) and isinstance(b, Measured):
        return a.value == b.value
    return type(a) is type(b)
