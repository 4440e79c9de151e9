"""The leaderboard: report rows of many runs, grouped by protocol and ranked."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from autoproxy.evaluation import content_hash
from autoproxy.ledger.records import ReportRow

REFERENCE = "wanda"
"""The hand-made metric that ratios are taken to."""

HEADING = ("model", "condition", "group", "mode", "text", "tokens", "length", "calibration")
"""Entries of a protocol that head its table; the rest stands behind its hash."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One metric under one protocol.

    Attributes:
        role: `discovered`, `baseline`, `random-search`, `evaluated` or `dense`.
        name: Under which it is listed.
        run: Run that discovered it, or empty.
        seeds: Calibration draws that it was measured with.
        perplexity: Mean over the draws.
        interval: Half the width of the 95 % interval of that mean (Student's t), None for one.
        kl: Mean over the draws, in nats.
        ratio: Mean over the draws that both have of perplexity / Wanda's, or None.
        complexity: Sum of the costs of its primitives.
        text: Canonical form.
    """

    role: str
    name: str
    run: str
    seeds: int
    perplexity: float
    interval: float | None
    kl: float
    ratio: float | None
    complexity: int
    text: str


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
            "entries": [asdict(entry) for entry in self.entries],
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
    """Return the rows grouped by protocol and ranked by mean perplexity.

    The order of the rows does not matter.
    """
    by_protocol: dict[str, list[ReportRow]] = {}
    for row in sorted(rows, key=_order):
        by_protocol.setdefault(content_hash(dict(row.protocol)), []).append(row)
    groups = [_group(digest, members) for digest, members in by_protocol.items()]
    return tuple(sorted(groups, key=lambda g: (_heading(g.protocol), g.digest)))


def entries_of(rows: Sequence[ReportRow]) -> tuple[Entry, ...]:
    """Return the metrics of rows under one protocol, best first."""
    metrics: dict[tuple[str, str, str], dict[int, ReportRow]] = {}
    for row in sorted(rows, key=_order):
        metrics.setdefault((row.role, row.name, row.key), {})[row.seed] = row
    reference = next(
        (m for (role, name, _), m in metrics.items() if (role, name) == ("baseline", REFERENCE)),
        {},
    )
    entries = [_entry(by_seed, reference) for by_seed in metrics.values()]
    return tuple(
        sorted(entries, key=lambda e: (e.perplexity, e.complexity, e.role, e.name, e.text))
    )


def _order(row: ReportRow) -> tuple[Any, ...]:
    """Return what rows are sorted by, so that nothing depends on the order they came in."""
    values = (row.perplexity, row.kl, row.complexity)
    return (row.role, row.name, row.key, row.seed, row.run or "", row.text, *values)


def to_markdown(groups: Sequence[Group]) -> str:
    """Return the leaderboard as Markdown; the same groups give the same bytes."""
    lines = [
        "# Leaderboard",
        "",
        "Made by `autoproxy leaderboard` from the ledger. Perplexity on a text that no search",
        "saw: mean over calibration seeds and half the 95 % interval (Student's t on perplexity).",
        "/ Wanda: mean of the ratios to Wanda's perplexity, seed by seed. KL in nats.",
        "",
    ]
    for group in groups:
        lines += [f"## {_heading(group.protocol)}", "", f"Protocol `{group.digest[:12]}`", ""]
        lines += ["| | metric | role | perplexity | / Wanda | KL | seeds | complexity | formula |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        lines += [_line(place, entry) for place, entry in enumerate(group.entries, 1)]
        lines += [""]
    return "\n".join(lines).rstrip("\n") + "\n"


def to_csv(groups: Sequence[Group]) -> str:
    """Return the leaderboard as CSV, one line a metric, floats exact."""
    buffer = io.StringIO()
    names = list(Entry.__dataclass_fields__)
    # The protocol's `text` is what was read; the metric's own text is called `formula` here.
    titles = ["formula" if name == "text" else name for name in names]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["protocol", *HEADING, *titles])
    for group in groups:
        heading = [group.protocol.get(word, "") for word in HEADING]
        for entry in group.entries:
            values = [getattr(entry, name) for name in names]
            cells = ["" if value is None else value for value in values]
            writer.writerow([group.digest, *heading, *cells])
    return buffer.getvalue()


def _group(digest: str, rows: Sequence[ReportRow]) -> Group:
    return Group(dict(sorted(rows[0].protocol.items())), digest, entries_of(rows))


def _heading(protocol: Mapping[str, Any]) -> str:
    return _cell(", ".join(f"{word} {protocol[word]}" for word in HEADING if word in protocol))


def _entry(by_seed: Mapping[int, ReportRow], reference: Mapping[int, ReportRow]) -> Entry:
    rows = list(by_seed.values())
    mean, half = mean_and_interval([row.perplexity for row in rows])
    shared = [
        row.perplexity / reference[s].perplexity for s, row in by_seed.items() if s in reference
    ]
    first = rows[0]
    return Entry(
        role=first.role,
        name=first.name,
        run=first.run or "",
        seeds=len(rows),
        perplexity=mean,
        interval=half,
        kl=_mean([row.kl for row in rows]),
        ratio=_mean(shared) if shared and first.role != "dense" else None,
        complexity=first.complexity,
        text=first.text,
    )


def _line(place: int, entry: Entry) -> str:
    half = "" if entry.interval is None else f" ± {entry.interval:.2f}"
    ratio = "" if entry.ratio is None else f"{entry.ratio:.3f}"
    name = f"**{entry.name}**" if entry.role == "discovered" else entry.name
    cells = (
        str(place),
        name,
        entry.role,
        f"{entry.perplexity:.2f}{half}",
        ratio,
        f"{entry.kl:.3f}",
        str(entry.seeds),
        str(entry.complexity or ""),
        f"`{entry.text}`" if entry.text else "",
    )
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Return text that cannot end its cell or its line."""
    return " ".join(text.split()).replace("|", r"\|")
