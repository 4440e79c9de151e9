"""Bringing ledgers and report lines of earlier versions up to date, in place."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from autoproxy.ledger.rows import plain
from autoproxy.ledger.schema import REPORTS, SCHEMA_VERSION, STEPS, VERSION

OLDEST = 1
"""The earliest schema version that can be brought up to date."""

FIRST_VALUES = ("perplexity", "kl")
"""The values of every report row of version 1, each in a column of its own."""


def migrate(connection: Connection, version: int) -> None:
    """Turn the tables of an earlier version into those of this one, all or none.

    Args:
        connection: With a transaction that writes, of which this is a part.
        version: Of the tables as they are.
    """
    if version < 2:
        _name_values(connection)
    _add_steps(connection)
    connection.execute(sa.update(VERSION).values(version=SCHEMA_VERSION))


def _name_values(connection: Connection) -> None:
    """Version 2 keeps the values of a report by name, since not all reports are of pruning.

    Rows keep their order; nothing is lost.
    """
    old = connection.execute(sa.text("SELECT * FROM reports ORDER BY number")).mappings().all()
    connection.execute(sa.text("DROP TABLE reports"))
    REPORTS.create(connection)
    for row in old:
        values = with_values({name: row[name] for name in row if name != "number"})
        connection.execute(
            sa.insert(REPORTS).values(**{**values, "values": plain(values["values"])})
        )


def _add_steps(connection: Connection) -> None:
    """Version 3 records whole generations, and what a repetition repeats.

    A run of an earlier version has no generations on record: it is resumed by replay.
    """
    STEPS.create(connection)
    connection.execute(sa.text("ALTER TABLE events ADD COLUMN same_as INTEGER"))


def with_values(row: dict[str, Any]) -> dict[str, Any]:
    """Return a report row of version 1 as one of version 2; any other stays as it is.

    >>> with_values({"name": "wanda", "perplexity": 20.0, "kl": 0.5})
    {'name': 'wanda', 'values': {'perplexity': 20.0, 'kl': 0.5}}
    """
    if "values" in row:
        return row
    values = {name: row[name] for name in FIRST_VALUES}
    return {**{n: v for n, v in row.items() if n not in FIRST_VALUES}, "values": values}
