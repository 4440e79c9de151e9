"""The report: metrics on a text that no search saw, calibrated with several seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoproxy.commands.loading import Condition
from autoproxy.commands.progress import Clock, Progress, Show
from autoproxy.evaluation import Measured, Objective, Outcome, content_hash
from autoproxy.language.canonical import canonical, key
from autoproxy.language.complexity import complexity
from autoproxy.language.expression import Expression
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import ReportRow
from autoproxy.spaces import Baseline


def best_of(
    measured: Mapping[str, tuple[Baseline, Outcome]], objective: Objective, count: int
) -> list[str]:
    """Return the names of the `count` best hand-made metrics, best first.

    Of those with one value in six digits, such as OBD and Wanda per row, which rounding alone can
    tell apart, the simplest stands for all.

    Args:
        measured: Outcomes by name; those that did not come to a value are passed over.
        objective: Which way is better.
        count: At most so many.
    """
    order = sorted(
        (float(f"{objective.sign * outcome.value:.5e}"), complexity(baseline.expression), name)
        for name, (baseline, outcome) in measured.items()
        if isinstance(outcome, Measured)
    )
    first: dict[float, str] = {}
    for value, _, name in order:
        first.setdefault(value, name)
    return list(first.values())[:count]


@dataclass(frozen=True, slots=True)
class Named:
    """A metric with the name and the role under which it is listed.

    Attributes:
        role: `baseline`, `discovered`, `random-search` or `evaluated`.
        name: Under which it is listed.
        expression: The metric; None for the evaluator's own method of that name.
    """

    role: str
    name: str
    expression: Expression | None

    @property
    def key(self) -> str:
        """Content hash of what is measured."""
        if self.expression is None:
            return content_hash({"method": self.name})
        return key(self.expression)


class Reporter:
    """Measures metrics on the report text and keeps each value the instant it is known.

    Args:
        ledger: Where values are kept; what it knows is not measured again.
        condition: Measures.
        run: Run that the metrics belong to, None for none.
        show: Told of every step.

    Attributes:
        reasons: Why metrics have no value, by their names.
    """

    def __init__(self, ledger: Ledger, condition: Condition, run: str | None, show: Show) -> None:
        self._ledger = ledger
        self._condition = condition
        self._run = run
        self._show = show
        self._protocol = condition.report_protocol()
        self.reasons: dict[str, str] = {}

    def report(self, named: Sequence[Named], seeds: Iterable[int]) -> list[ReportRow]:
        """Return one row for each metric and seed, behind one for the dense model, if any.

        A metric without a value has no row: why is told, and is in `reasons` by its name.
        """
        clock = Clock()
        seeds = tuple(seeds)
        total = len(seeds) * len(named)
        rows = self._dense_rows()
        others = len(rows)
        for seed in seeds:
            missing = []
            for metric in named:
                known = self._known(metric, seed)
                if known is None:
                    missing.append(metric)
                else:
                    rows.append(known)
            self._show(Progress("report", len(rows) - others, total, clock.seconds))
            for row in self._measure(missing, seed):
                rows.append(row)
                self._show(Progress("report", len(rows) - others, total, clock.seconds))
        return rows

    def _measure(self, missing: Sequence[Named], seed: int) -> Iterable[ReportRow]:
        candidates = [
            metric.name if metric.expression is None else canonical(metric.expression)
            for metric in missing
        ]
        for values in self._condition.report(candidates, [seed]) if candidates else ():
            if "reason" in values:
                self._tell_reason(missing[values["index"]].name, values["reason"])
                continue
            found = {n: float(v) for n, v in values.items() if n not in {"seed", "index"}}
            row = self._row(missing[values["index"]], seed, found)
            self._ledger.add_reports([row])
            yield row

    def _tell_reason(self, name: str, reason: str) -> None:
        if name not in self.reasons:  # once, not for every seed
            self._show(Progress("report", notice=f"{name} has no value in the report: {reason}"))
        self.reasons[name] = reason

    def _known(self, metric: Named, seed: int) -> ReportRow | None:
        """Return the row of this metric, reusing what was measured under another name."""
        digest = metric.key
        for row in self._on_record():
            if (row.key, row.seed) == (digest, seed):
                if (row.role, row.name) == (metric.role, metric.name):
                    return row
                copy = self._row(metric, seed, row.values)
                self._ledger.add_reports([copy])
                return copy
        return None

    def _dense_rows(self) -> list[ReportRow]:
        for row in self._on_record():
            if row.role == "dense":
                return [row]
        dense = self._condition.dense()
        if dense is None:
            return []
        row = ReportRow(
            run=None,
            role="dense",
            name="dense",
            text="",
            key="",
            complexity=0,
            seed=0,
            values=dense,
            protocol=self._protocol,
        )
        self._ledger.add_reports([row])
        return [row]

    def _on_record(self) -> list[ReportRow]:
        """Return what the ledger has under this protocol, by whatever run and name."""
        own = dict(self._protocol)
        return [row for row in self._ledger.reports() if dict(row.protocol) == own]

    def _row(self, metric: Named, seed: int, values: Mapping[str, float]) -> ReportRow:
        expression = None if metric.expression is None else canonical(metric.expression)
        own = metric.role != "baseline"
        return ReportRow(
            run=self._run if own else None,
            role=metric.role,
            name=metric.name,
            text=metric.name if expression is None else str(expression),
            key=metric.key,
            complexity=0 if expression is None else complexity(expression),
            seed=seed,
            values=values,
            protocol=self._protocol,
        )
