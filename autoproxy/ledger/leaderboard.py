"""The leaderboard: report rows of many runs, grouped by protocol and ranked."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from scipy import stats

from autoproxy.columns import (
    FURTHER,
    HEADING,
    PRUNING,
    Column,
    cells,
    columns_of,
    heading,
    headings,
)
from autoproxy.evaluation import Direction, content_hash
from autoproxy.ledger.addresses import DIGITS
from autoproxy.ledger.records import ReportRow


@dataclass(frozen=True, slots=True)
class Entry:
    """One metric under one protocol.

    Attributes:
        role: `discovered`, `baseline`, `random-search`, `evaluated` or `dense`.
        name: Under which it is listed.
        run: Run that discovered it, or empty.
        seeds: Calibration draws that it was measured with.
        values: Mean over the draws of each value, by name; the column that ranks is the first.
        interval: Half the width of the 95 % interval of the first one's mean (Student's t); None
            for one draw, or where the evaluator gives an interval itself.
        ratio: Mean over the draws that both have of the first / the reference's, or None.
        complexity: Sum of the costs of its primitives.
        text: Canonical form.
    """

    role: str
    name: str
    run: str
    seeds: int
    values: Mapping[str, float]
    interval: float | None
    ratio: float | None
    complexity: int
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, one level deep."""
        (first, value), *others = self.values.items()
        return {
            **{name: getattr(self, name) for name in ("role", "name", "run", "seeds")},
            first: value,
            "interval": self.interval,
            **dict(others),
            **{name: getattr(self, name) for name in ("ratio", "complexity", "text")},
        }


@dataclass(frozen=True, slots=True)
class Group:
    """All metrics that were measured under one protocol, best first."""

    protocol: Mapping[str, Any]
    digest: str
    entries: tuple[Entry, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "protocol": dict(self.protocol),
            "protocol_hash": self.digest,
            "entries": [entry.to_json() for entry in self.entries],
        }


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and half the width of its 95 % interval (Student's t), None for one.

    >>> mean_and_interval([1.0, 1.0, 1.0])
    (1.0, 0.0)
    """
    mean = _mean(values)
    if len(values) < 2 or math.isinf(mean):
        return mean, None
    squares = [(value - mean) * (value - mean) for value in values]
    error = math.sqrt(_mean(squares) / (len(values) - 1))
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * error


def _mean(values: Sequence[float]) -> float:
    """Return the mean, the same for every order of the values."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # a model in ruins: its perplexity is beyond floats
        return math.inf


def rank(rows: Iterable[ReportRow]) -> tuple[Group, ...]:
    """Return the rows grouped by protocol and ranked by the mean of the first column.

    The order of the rows does not matter.
    """
    by_protocol: dict[str, list[ReportRow]] = {}
    for row in sorted(rows, key=_order):
        by_protocol.setdefault(content_hash(dict(row.protocol)), []).append(row)
    groups = [_group(digest, members) for digest, members in by_protocol.items()]
    return tuple(sorted(groups, key=lambda g: (heading(g.protocol), g.digest)))


def entries_of(rows: Sequence[ReportRow]) -> tuple[Entry, ...]:
    """Return the metrics of rows under one protocol, best first."""
    if not rows:
        return ()
    columns = columns_of(rows[0].protocol)
    metrics = _by_metric(rows)
    reference = _draws(metrics, "baseline", columns[0].reference)
    entries = [_entry(by_seed, reference, columns) for by_seed in metrics.values()]
    return tuple(sorted(entries, key=lambda entry: _place(entry, columns[0])))


_Metrics = dict[tuple[str, str, str], dict[int, ReportRow]]
"""Rows by role, name and key, and then by calibration draw."""


def _by_metric(rows: Sequence[ReportRow]) -> _Metrics:
    metrics: _Metrics = {}
    for row in sorted(rows, key=_order):
        metrics.setdefault((row.role, row.name, row.key), {})[row.seed] = row
    return metrics


def _draws(metrics: _Metrics, role: str, name: str | None) -> Mapping[int, ReportRow]:
    """Return the rows of the metric of a role and a name, by draw; none where it is missing."""
    return next((draws for (r, n, _), draws in metrics.items() if (r, n) == (role, name)), {})


def changes(rows: Sequence[ReportRow], run: str) -> dict[str, dict[str, float]]:
    """Return how what a run discovered compares with every other metric, draw by draw.

    Two metrics share the luck of a calibration draw, so that their ratio is surer than either.
    Only where ratios have a meaning: where the first column has a reference.

    Args:
        rows: Under one protocol.
        run: Of the discovered metric.

    Returns:
        By name: `change`, the first column's mean ratio less 1 (of logarithms, so that a half and
        a double cancel); `low` and `high`, its 95 % interval (Student's t); `draws`, that both
        have. Metrics with fewer than two draws in common, or with a value that is not above zero
        and finite, are left out.
    """
    columns = columns_of(rows[0].protocol) if rows else PRUNING
    if not columns[0].reference:
        return {}
    first = columns[0].name
    metrics = _by_metric(rows)
    ours = _draws(metrics, "discovered", run)
    found: dict[str, dict[str, float]] = {}
    for (role, name, _), theirs in metrics.items():
        pairs = [(ours[s].values[first], theirs[s].values[first]) for s in ours if s in theirs]
        told = role not in ("discovered", "dense") and len(pairs) > 1
        if told and all(0 < value < math.inf for pair in pairs for value in pair):
            mean, half = mean_and_interval([math.log(one / other) for one, other in pairs])
            width = half or 0.0  # there are two draws, so there is a half
            change, low, high = (math.expm1(mean + part) for part in (0.0, -width, width))
            found[name] = {"change": change, "low": low, "high": high, "draws": len(pairs)}
    return found


def _place(entry: Entry, ranking: Column) -> tuple[Any, ...]:
    """Return what metrics are ranked by, the best first."""
    sign = -1.0 if ranking.direction is Direction.MAXIMIZE else 1.0
    value = sign * entry.values[ranking.name]
    return (value, entry.complexity, entry.role, entry.name, entry.text)


def _order(row: ReportRow) -> tuple[Any, ...]:
    """Return what rows are sorted by, so that nothing depends on the order they came in."""
    names = [column.name for column in columns_of(row.protocol)]
    values = [row.values.get(name, math.inf) for name in names]
    return (row.role, row.name, row.key, row.seed, row.run or "", row.text, values, row.complexity)


def to_markdown(groups: Sequence[Group], budgets: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the leaderboard as Markdown; the same groups and budgets give the same bytes.

    Args:
        groups: Its tables.
        budgets: What runs spent, in words, by their names; stands beside what they found.
    """
    lines = [
        "# Leaderboard",
        "",
        "Made by `autoproxy leaderboard` from the ledger. Perplexity on a text that no search",
        "saw: mean over calibration seeds and half the 95 % interval (Student's t on perplexity).",
        "/ Wanda: mean of the ratios to Wanda's perplexity, seed by seed. KL in nats. The command",
        "above a table measures its rows again, `/NAME` behind it one of them. Rows with fewer",
        "seeds are means over other draws: compare them with `/ Wanda`, or by seed in",
        "`reports.jsonl`.",
        "",
    ]
    if any("columns" in group.protocol for group in groups):
        lines += ["Tables with other columns are ranked by the first; [a, b] is the 95 % interval"]
        lines += ["that the evaluator gives, over what it reports on.", ""]
    if any(group.protocol.get("rows") for group in groups):
        lines += ["Where a table says `rows N`, spectra and extremes (`nuclear`, `erank`,"]
        lines += ["`all_max`, ...) are those of N outputs drawn from each layer, which may change"]
        lines += ["what a proxy is worth; `autoproxy rank` reads all of them.", ""]
    for group in groups:
        columns = columns_of(group.protocol)
        titles = ["", "metric", "role", *headings(columns), "seeds", "complexity", "formula"]
        title, about = _about(group.protocol)
        lines += [f"## {_cell(title)}", "", _cell(about), ""]
        lines += [
            f"| {' | '.join(map(_cell, titles))} |".replace("|  |", "| |"),
            "|---" * len(titles) + "|",
        ]
        lines += [_line(n, entry, columns, budgets) for n, entry in enumerate(group.entries, 1)]
        lines += [""]
    return "\n".join(lines).rstrip("\n") + "\n"


def to_csv(groups: Sequence[Group]) -> str:
    """Return the leaderboard as CSV, one line a metric, floats exact."""
    buffer = io.StringIO()
    words = [*HEADING, *(w for w in FURTHER if any(w in group.protocol for group in groups))]
    names = _names(groups)
    # The protocol's `text` is what was read; the metric's own text is called `formula` here.
    titles = ["formula" if name == "text" else name for name in names]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["protocol", *words, *titles])
    for group in groups:
        said = [group.protocol.get(word, "") for word in words]
        for entry in group.entries:
            values = entry.to_json()
            found = ["" if values.get(name) is None else values[name] for name in names]
            writer.writerow([group.digest, *said, *found])
    return buffer.getvalue()


def _names(groups: Sequence[Group]) -> list[str]:
    """Return the entries of a CSV line: those of pruning, then what other tables have."""
    values = {column.name: 0.0 for column in PRUNING}
    names = list(Entry("", "", "", 0, values, None, None, 0, "").to_json())
    found = (name for g in groups for c in columns_of(g.protocol) for name in c.names)
    used = {name for group in groups for entry in group.entries for name in entry.values}
    return list(dict.fromkeys([*names, *(name for name in found if name in used)]))


def _group(digest: str, rows: Sequence[ReportRow]) -> Group:
    return Group(dict(sorted(rows[0].protocol.items())), digest, entries_of(rows))


def _entry(
    by_seed: Mapping[int, ReportRow],
    reference: Mapping[int, ReportRow],
    columns: Sequence[Column],
) -> Entry:
    rows = list(by_seed.values())
    ranking = columns[0]
    known = {
        name: [row.values[name] for row in rows if name in row.values]
        for column in columns
        for name in column.names
    }
    half = None if known[ranking.low] else mean_and_interval(known[ranking.name])[1]
    shared = [
        row.values[ranking.name] / reference[seed].values[ranking.name]
        for seed, row in by_seed.items()
        if seed in reference
    ]
    first = rows[0]
    return Entry(
        role=first.role,
        name=first.name,
        run=first.run or "",
        seeds=len(rows),
        values={name: _mean(values) for name, values in known.items() if values},
        interval=half,
        ratio=_mean(shared) if shared and first.role != "dense" else None,
        complexity=first.complexity,
        text=first.text,
    )


def _about(protocol: Mapping[str, Any]) -> tuple[str, str]:
    """Return what heads a table, and what else it is of, behind the command that verifies it."""
    first = {name: protocol[name] for name in HEADING[:2] if name in protocol} or protocol
    rest = {name: value for name, value in protocol.items() if name not in first}
    command = f"`autoproxy leaderboard --verify {content_hash(dict(protocol))[:DIGITS]}`"
    return heading(first), ": ".join(filter(None, (command, heading(rest))))


def _line(place: int, entry: Entry, columns: Sequence[Column], budgets: Mapping[str, str]) -> str:
    budget = budgets.get(entry.run)
    name = f"**{entry.name}**" if entry.role == "discovered" else entry.name
    words = (
        str(place),
        name,
        f"{entry.role} ({budget})" if budget else entry.role,
        *cells(columns, entry.to_json()),
        str(entry.seeds),
        str(entry.complexity or ""),
        f"`{entry.text}`" if entry.text else "",
    )
    return f"| {' | '.join(map(_cell, words))} |"


def _cell(text: str) -> str:
    """Return text that cannot end its cell or its line."""
    return " ".join(text.split()).replace("|", r"\|")
