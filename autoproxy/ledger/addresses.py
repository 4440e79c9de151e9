"""Addresses of the leaderboard's rows: TABLE/NAME, by which one command repeats them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoproxy.columns import heading
from autoproxy.errors import ConfigError, unknown_name
from autoproxy.evaluation import content_hash
from autoproxy.ledger.records import ReportRow

DIGITS = 12
"""Hex digits of a hash that people read and write."""

ALL = "all"


@dataclass(frozen=True, slots=True)
class Claim:
    """What one row of the leaderboard claims: a metric under one protocol, with all its seeds.

    Attributes:
        table: Hash of the protocol, whole.
        rows: One a seed, by rising seed; at least one.
        address: The shortest by which `find` finds it.
    """

    table: str
    rows: tuple[ReportRow, ...]
    address: str


def claims_of(rows: Iterable[ReportRow]) -> list[Claim]:
    """Return what the leaderboard of these rows claims, table after table."""
    found: dict[tuple[str, str], dict[tuple[str, str, str], dict[int, ReportRow]]] = {}
    for row in sorted(rows, key=lambda row: (row.role, row.name, row.key, row.run or "")):
        table = (heading(row.protocol), content_hash(dict(row.protocol)))
        metrics = found.setdefault(table, {})
        metrics.setdefault((row.role, row.name, row.key), {})[row.seed] = row
    return [
        Claim(digest, tuple(by_seed[seed] for seed in sorted(by_seed)), f"{digest[:DIGITS]}/{word}")
        for (_, digest), metrics in sorted(found.items(), key=lambda item: item[0])
        for by_seed, word in zip(metrics.values(), _shortest(list(metrics)), strict=True)
    ]


def find(claims: Sequence[Claim], asked: str) -> list[Claim]:
    """Return the claims that an address means: one, those of a table, or `all`.

    Args:
        claims: Those of one leaderboard.
        asked: `all`; a table, by the first digits of its protocol's hash; or TABLE/NAME, where
            ROLE:NAME and ROLE:NAME:KEY stand for a name that several have.

    Raises:
        ConfigError: It means nothing, or more than one; the message has the choices.
    """
    if asked == ALL:
        return list(claims)
    start, slash, name = asked.partition("/")
    tables = sorted({claim.table[:DIGITS] for claim in claims})
    meant = [table for table in tables if start and table.startswith(start.lower()[:DIGITS])]
    if not meant:
        raise ConfigError(f"{unknown_name('table', start, tables)}; or write {ALL}")
    if len(meant) > 1:
        raise ConfigError(
            f"{start!r} begins several tables' hashes; write more digits: {', '.join(meant)}"
        )
    here = [claim for claim in claims if claim.table.startswith(meant[0])]
    return [_named(here, name, meant[0])] if slash else here


def _named(here: Sequence[Claim], name: str, table: str) -> Claim:
    """Return the claim of that name in a table."""
    found = _meant([_names(claim.rows[0]) for claim in here], name)
    addresses = [claim.address for claim in here]
    if not found:
        names = [address.partition("/")[2] for address in addresses]
        raise ConfigError(unknown_name(f"row of table {table}", name, names))
    if len(found) > 1:
        choices = ", ".join(addresses[place] for place in found)
        raise ConfigError(f"several rows of table {table} are called {name!r}; write {choices}")
    return here[found[0]]


def _names(row: ReportRow) -> tuple[str, str, str]:
    """Return what a claim may be called within its table; the last is its own alone."""
    return _forms((row.role, row.name, row.key))


def _forms(identity: tuple[str, str, str]) -> tuple[str, str, str]:
    role, name, key = identity
    return (name, f"{role}:{name}", f"{role}:{name}:{key[:DIGITS]}")


def _shortest(identities: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return for each the shortest form that means it alone."""
    forms = [_forms(identity) for identity in identities]
    return [
        next((form for form in own if _meant(forms, form) == [place]), own[-1])
        for place, own in enumerate(forms)
    ]


def _meant(forms: Sequence[tuple[str, str, str]], name: str) -> list[int]:
    """Return the places that a name means; a fuller form goes before a shorter one."""
    for level in (2, 1, 0):
        if found := [place for place, own in enumerate(forms) if own[level] == name]:
            return found
    return []
