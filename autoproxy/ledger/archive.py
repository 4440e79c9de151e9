"""Report rows as text: what is kept in the repository when the ledger itself is not."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from autoproxy.errors import StorageError
from autoproxy.evaluation import content_hash
from autoproxy.ledger.migration import with_values
from autoproxy.ledger.records import ReportRow

Identity = tuple[str | None, str, str, str, int, str]


def identity(row: ReportRow) -> Identity:
    """Return what makes two rows one: run, role, name, key, seed and protocol."""
    protocol = content_hash(dict(row.protocol))
    return (row.run, row.role, row.name, row.key, row.seed, protocol)


def to_lines(rows: Iterable[ReportRow]) -> str:
    """Return rows as lines of JSON, in an order of their own: each protocol, then its rows."""
    protocols: dict[str, dict[str, Any]] = {}
    values: list[dict[str, Any]] = []
    for row in rows:
        digest = content_hash(dict(row.protocol))
        protocols[digest] = dict(row.protocol)
        values.append({**asdict(row), "protocol": digest})
    lines = [{"protocol": digest, "content": protocols[digest]} for digest in sorted(protocols)]
    lines += sorted(
        values,
        key=lambda v: (
            *(str(v[name]) for name in ("protocol", "role", "name", "key")),
            *(v["seed"], v["run"] or ""),
        ),
    )
    return "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)


def from_lines(text: str, where: str) -> list[ReportRow]:
    """Return the rows that `to_lines` wrote, this version's or an earlier one's.

    Raises:
        StorageError: A line is not of that form; the message has its number.
    """
    protocols: dict[str, dict[str, Any]] = {}
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            value = json.loads(line)
            if "content" in value:
                protocols[value["protocol"]] = value["content"]
            else:
                found = with_values(value)
                rows.append(ReportRow(**{**found, "protocol": protocols[found["protocol"]]}))
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{where}, line {number}, is no row of a report ({error}); restore the file, for "
                "example with `git checkout`, or move it away"
            ) from None
    return rows
