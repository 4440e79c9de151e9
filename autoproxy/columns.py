"""What the numbers of a report mean, and how people read them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from autoproxy.evaluation import Direction


@dataclass(frozen=True, slots=True)
class Column:
    """A number that a report gives of every metric.

    An evaluator lists its columns in the protocol of its reports, as `columns`; the first one
    ranks. What a number means is part of what determines it, so reports whose columns differ
    never share a table. A row may also have the ends of an interval, under `low` and `high`.

    Attributes:
        name: Under which rows and exports have it.
        unit: Empty for a number without one.
        direction: Which way is better; None where neither is, and never for the first.
        digits: Behind the point, where people read it.
        title: Heading of the column; empty: name and unit.
        reference: Hand-made metric that the first column is also given as a ratio to, or empty.

    >>> Column.from_json(Column("tau", direction=Direction.MAXIMIZE).to_json()).low
    'tau_low'
    """

    name: str
    unit: str = ""
    direction: Direction | None = None
    digits: int = 3
    title: str = ""
    reference: str = ""

    @property
    def low(self) -> str:
        """Name of the lower end of its interval."""
        return f"{self.name}_low"

    @property
    def high(self) -> str:
        """Name of the upper end of its interval."""
        return f"{self.name}_high"

    @property
    def names(self) -> tuple[str, str, str]:
        """All names that it may have in a row."""
        return (self.name, self.low, self.high)

    @property
    def heading(self) -> str:
        """What stands above it."""
        return self.title or (f"{self.name} ({self.unit})" if self.unit else self.name)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, for a protocol."""
        return {**asdict(self), "direction": self.direction.value if self.direction else None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the column that `to_json` wrote."""
        direction = values["direction"]
        return cls(**{**values, "direction": Direction(direction) if direction else None})


REFERENCE = "wanda"
"""The hand-made metric that ratios of perplexity are taken to, and progress is shown against."""

PRUNING = (
    Column("perplexity", direction=Direction.MINIMIZE, digits=2, reference=REFERENCE),
    Column("kl", "nats", Direction.MINIMIZE, title="KL"),
)
"""Columns of a protocol that lists none: those that were measured before protocols listed any."""

HEADING = ("model", "condition", "group", "mode", "text", "tokens", "length", "calibration")
"""Entries of a protocol that head its table; the rest stands behind its hash."""

FURTHER = ("benchmark", "quality", "architectures", "rows", "labels", "split")
"""More of them, of reports that are not of pruning; CSV has a column where any protocol has one."""

_ENTRY = ("role", "name", "run", "seed", "seeds", "interval", "ratio", "complexity", "text")
FIXED = frozenset(("protocol", "formula", "index", *HEADING, *FURTHER, *_ENTRY))
"""What a board or a report says of a metric besides; no column has such a name."""


def columns_of(protocol: Mapping[str, Any]) -> tuple[Column, ...]:
    """Return the columns of the reports under a protocol; the first one ranks.

    Raises:
        ValueError: It lists none, one twice, a first one without direction, or a taken name.
    """
    if "columns" not in protocol:
        return PRUNING
    columns = tuple(Column.from_json(column) for column in protocol["columns"])
    names = [name for column in columns for name in column.names]
    free = len(FIXED.union(names)) == len(FIXED) + len(names)
    if not (free and columns and columns[0].direction):
        raise ValueError(
            "a protocol lists columns of different names, the first with a direction, none of "
            f"them called {', '.join(sorted(FIXED))}; got {names}"
        )
    return columns


def heading(protocol: Mapping[str, Any]) -> str:
    """Return what a table is of, in one line."""
    words = [word for word in (*HEADING, *FURTHER) if protocol.get(word) is not None]
    return ", ".join(f"{word} {protocol[word]}" for word in words)


def headings(columns: Sequence[Column]) -> list[str]:
    """Return what stands above the columns, and above the ratio to the first's reference.

    >>> headings(PRUNING)
    ['perplexity', '/ Wanda', 'KL']
    """
    first, *others = columns
    ratio = [f"/ {first.reference.capitalize()}"] if first.reference else []
    return [first.heading, *ratio, *(column.heading for column in others)]


def cells(columns: Sequence[Column], entry: Mapping[str, Any]) -> list[str]:
    """Return what stands below the headings for one metric of a board.

    >>> cells(PRUNING, {"perplexity": 20.0, "interval": 0.5, "ratio": None, "kl": 0.25})
    ['20.00 ± 0.50', '', '0.250']
    """
    first, *others = columns
    half = entry["interval"]
    value = _cell(first, entry) + ("" if half is None else f" ± {half:.{first.digits}f}")
    ratio = "" if entry["ratio"] is None else f"{entry['ratio']:.3f}"
    return [value, *([ratio] if first.reference else []), *(_cell(c, entry) for c in others)]


def ends(first: Column, entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the ends of the interval of the first column, None where a metric has none.

    >>> ends(PRUNING[0], {"perplexity": 20.0, "interval": 0.5})
    (19.5, 20.5)
    """
    value, low, high = (entry.get(name) for name in first.names)
    if low is not None and high is not None:
        return low, high
    half = entry["interval"]
    return None if value is None or half is None else (value - half, value + half)


def change_in_words(change: Mapping[str, float]) -> str:
    """Return a change with its interval, in percent.

    >>> change_in_words({"change": -0.033, "low": -0.05, "high": -0.016, "draws": 5})
    '-3.3 % [-5.0, -1.6]'
    """
    value, low, high = (100 * change[name] for name in ("change", "low", "high"))
    return f"{value:+.1f} % [{low:+.1f}, {high:+.1f}]"


def _cell(column: Column, entry: Mapping[str, Any]) -> str:
    """Return a number with its interval, or nothing where there is none."""
    value, low, high = (
        None if entry.get(name) is None else f"{entry[name]:.{column.digits}f}"
        for name in column.names
    )
    if value is None:
        return ""
    return value if low is None or high is None else f"{value} [{low}, {high}]"
