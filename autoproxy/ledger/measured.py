"""The archive of a run: every formula that was measured, as values and as CSV."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from autoproxy.errors import ConfigError
from autoproxy.evaluation import content_hash
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import Event

COLUMNS = (
    *("slot", "generation", "origin", "fate", "value", "fidelity", "complexity", "key", "text"),
    *("parents", "rungs"),
)
"""Of the CSV: one line a formula, in the order of proposals."""

_CUT = "\0"
"""What a line that was cut off has where cells are missing."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Every formula that a run measured, also those that were left on a cheap rung.

    Attributes:
        events: In the order of proposals; each has a value and the fidelity that it belongs to.
        rungs: For each key, its values on cheaper rungs by their fidelity.
    """

    events: tuple[Event, ...]
    rungs: Mapping[str, Mapping[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, ledger: Ledger, run: str) -> Self:
        """Return what the ledger has of a run.

        Raises:
            StorageError: There is no such run.
        """
        record = ledger.run(run)
        events = tuple(ledger.events(run, valued=True))
        return cls(events, ledger.rungs(run, content_hash(dict(record.protocol))))

    @classmethod
    def from_csv(cls, text: str, run: str) -> Self:
        """Return what `to_csv` wrote.

        Raises:
            ConfigError: The text is something else.
        """
        events, rungs = [], {}
        rows = csv.DictReader(io.StringIO(text), restval=_CUT)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise ConfigError(
                f"the archive of run {run!r} should have the columns {', '.join(COLUMNS)}, but has "
                f"{', '.join(rows.fieldnames or ()) or 'none'}; write it again: autoproxy archive "
                f"{run} --out FILE"
            )
        for row in rows:
            try:
                events.append(_event(row, run))
                if row["rungs"]:
                    rungs[row["key"]] = _rungs(row["rungs"])
            except ValueError as error:
                raise ConfigError(
                    f"the archive of run {run!r} cannot be read in line {rows.line_num}: {error}"
                ) from None
        return cls(tuple(events), rungs)

    def to_csv(self) -> str:
        """Return one line a formula; floats are exact, lists are separated by spaces."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(self.row, self.events))
        return text.getvalue()

    def row(self, event: Event) -> dict[str, Any]:
        """Return one of the events as a line of the CSV."""
        row = {name: getattr(event, name) for name in COLUMNS if name != "rungs"}
        steps = sorted(self.rungs.get(event.key, {}).items())
        rungs = " ".join(f"{fidelity!r}:{value!r}" for fidelity, value in steps)
        return {**row, "parents": " ".join(event.parents), "rungs": rungs}


def _event(row: Mapping[str, str], run: str) -> Event:
    """Return the event of a line; a line that was cut off has no last cell."""
    if _CUT in row.values():
        raise ValueError("it ends too early")
    return Event(
        run=run,
        slot=int(row["slot"]),
        key=row["key"],
        text=row["text"],
        origin=row["origin"],
        parents=tuple(row["parents"].split()),
        fate=row["fate"],
        rule=None,
        reason=None,
        fidelity=float(row["fidelity"]),
        value=float(row["value"]),
        complexity=int(row["complexity"]),
        generation=int(row["generation"]),
    )


def _rungs(text: str) -> dict[float, float]:
    pairs = (word.split(":") for word in text.split())
    return {float(fidelity): float(value) for fidelity, value in pairs}
