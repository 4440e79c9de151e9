"""How the ledger reaches its database, and what it says when it cannot."""

import contextlib
import re
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from autoproxy.errors import StorageError

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds that a writer waits for another one."""

OUTAGE = 300.0
"""Seconds that a database server may be away in the middle of a run, as when it is restarted."""

_ALIVE: Mapping[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""Makes a connection that a router dropped in silence an error within a minute or two."""


def connect(where: Path | str, *, read_only: bool = False) -> Engine:
    """Return the way to the database at `where`; nothing is opened yet.

    Args:
        where: Path of an SQLite file, or a database URL.
        read_only: Let the database itself refuse to store anything, or to make the file.

    Raises:
        StorageError: It is no URL, of another database, or the driver is missing.
    """
    url = _url(where)
    if read_only:
        return _reading(url)
    engine = _engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
    return engine


def _engine(url: URL, **options: Any) -> Engine:
    backend = url.get_backend_name()
    if backend not in {"sqlite", "postgresql"}:
        raise StorageError(
            f"a ledger cannot be kept in {backend!r}; give the path of an SQLite file, or a "
            "URL that begins with postgresql://"
        )
    try:
        return sa.create_engine(
            url, connect_args=_ALIVE if backend == "postgresql" else {}, **options
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise StorageError(
            f"the driver for {url.drivername} is missing ({error}); install it with "
            "`pip install 'autoproxy[postgres]'`, or give the path of an SQLite file"
        ) from None


def _reading(url: URL) -> Engine:
    """Return a way that only reads, and that no writer waits for."""
    if url.get_backend_name() == "postgresql":
        return _engine(url, execution_options={"postgresql_readonly": True})
    if url.get_backend_name() == "sqlite":
        where = Path(url.database or "").resolve().as_uri()
        url = url.set(database=where, query={"mode": "ro", "uri": "true"})
    engine = _engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _wait_for_locks)
    return engine


def _url(where: Path | str) -> URL:
    if "://" not in str(where):
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(str(where))
    except (ArgumentError, ValueError):  # its message may hold the password
        raise StorageError(
            f"{without_password(str(where))!r} is no database URL; write a path, or for example "
            "postgresql://user@host/database"
        ) from None
    if url.drivername == "postgresql":  # SQLAlchemy 2.0 would take the driver before
        return url.set(drivername="postgresql+psycopg")
    return url


def without_password(url: str) -> str:
    """Return a URL as it may be shown, even if it is none.

    >>> without_password("postgresql://me:secret@host/db?sslmode=require&password=secret")
    'postgresql://me:***@host/db?sslmode=require&password=***'
    """
    bare = re.sub(r"(?<=://)([^:/?#]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)(password=)[^&]*", r"\1***", bare)


def without_account(where: Path | str) -> str:
    """Return where a ledger is as it may be kept in a file: a whole path, or a URL of no account.

    Raises:
        StorageError: It is no URL.

    >>> without_account("postgresql://me:secret@host:5433/db?sslmode=require&password=secret")
    'postgresql://host:5433/db'
    """
    url = _url(where)
    if url.get_backend_name() == "sqlite":
        return str(Path(url.database or "").resolve())
    backend = url.get_backend_name()
    bare = URL.create(backend, host=url.host, port=url.port, database=url.database)
    return bare.render_as_string()


def _configure_sqlite(connection: Any, _record: object) -> None:
    """Set what makes SQLite safe under `kill -9` and several processes.

    `synchronous=NORMAL` keeps every commit when the process dies. A power cut may cost the
    latest ones, never the file; they are measured again, to the same values. FULL would make
    each row 4 ms slower.

    The driver begins a transaction before a statement that writes, and none before one that
    reads. It begins as a writer, at once: a reader that turns writer may be refused half-way.
    (To listen for SQLAlchemy's `begin` instead doubles what a small transaction costs.)
    """
    _wait_for_locks(connection)
    connection.execute("PRAGMA synchronous=NORMAL")
    _use_wal(connection)
    connection.isolation_level = "IMMEDIATE"


def _wait_for_locks(connection: Any, _record: object = None) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself
    connection.execute(f"PRAGMA busy_timeout={PATIENCE * 1000:.0f}")


def _use_wal(connection: Any) -> None:
    """Let readers work beside one writer; patient, since SQLite itself does not wait here."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def at_one_moment(connection: Connection) -> None:
    """Let all that a transaction is going to read be of one moment."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def lock_for_creation(connection: Connection) -> None:
    """Let one process at a time make the tables, all or none."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CREATION_LOCK})")


_CREATION_LOCK = 0x4155_544F_5052_4F58  # "AUTOPROX"


def cut_off(error: Exception) -> bool:
    """Return whether an error says that a database server went away, and may come back."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # it was not even reached; a lock that SQLite waited for is another matter
        return isinstance(error, OperationalError) and not isinstance(error.orig, sqlite3.Error)
    return str(state).startswith(("08", "57P", "53300"))


def patiently(attempt: Callable[[], T], where: str) -> T:
    """Return what `attempt` returns, which is called again while the server is away.

    Raises:
        StorageError: It is away for longer than `OUTAGE` seconds.
    """
    deadline, pause = time.monotonic() + OUTAGE, 0.05
    while True:
        try:
            return attempt()
        except DBAPIError as error:
            if not cut_off(error):
                raise
            if time.monotonic() + pause > deadline:
                cause = str(error.orig).strip().partition("\n")[0]
                raise StorageError(
                    f"the database server of the ledger {where} has been away for {OUTAGE:.0f} s "
                    f"({cause}); all rows so far are kept: see that it runs, then go on with: "
                    "autoproxy resume"
                ) from None
        time.sleep(pause)
        pause = min(5.0, 2 * pause)


def storage_error(where: str, error: Exception) -> StorageError:
    """Return `error` of the database in words for people.

    >>> str(storage_error("a.sqlite", OSError("database or disk is full")))
    'the ledger a.sqlite cannot grow: the disk is full; free some space: all rows so far are kept'
    """
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    said = str(cause).strip().partition("\n")[0]
    for fragment, wrong, advice in _WORDS:
        if fragment in said.lower():
            return StorageError(f"the ledger {where} {wrong}; {advice}")
    return StorageError(f"the ledger {where} cannot be used: {said}; {_ELSEWHERE}")


_ELSEWHERE = "choose another with --results DIR or --ledger PLACE"

_WORDS = (
    (
        "not a database",
        "is not a database: the file holds something else",
        f"move it away, or {_ELSEWHERE}",
    ),
    (
        "readonly",
        "is read-only",
        f"let it and its folder be written, or {_ELSEWHERE}",
    ),
    (
        "unable to open",
        "cannot be opened",
        f"its folder must exist and be writable; make it so, or {_ELSEWHERE}",
    ),
    (
        "is full",
        "cannot grow: the disk is full",
        "free some space: all rows so far are kept",
    ),
    (
        "disk i/o",
        "cannot be written: the disk refuses",
        "see that it has room and is in order: all rows so far are kept",
    ),
    (
        "locked",
        f"is held by another process for over {PATIENCE:.0f} s",
        "wait for it to end, or stop it",
    ),
    (
        "malformed",
        "is damaged",
        f"put a copy in its place, or {_ELSEWHERE}",
    ),
)


def close_quietly(engine: Engine) -> None:
    """Close all connections; for use while another error is on its way."""
    with contextlib.suppress(SQLAlchemyError):
        engine.dispose()
