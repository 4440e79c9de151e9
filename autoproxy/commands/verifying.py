"""Rows of the leaderboard, measured again: the same, within a tolerance, or not."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoproxy.commands import loading
from autoproxy.commands.loading import Condition
from autoproxy.commands.plan import read_run_file
from autoproxy.commands.progress import Clock, Progress, Show
from autoproxy.commands.workspace import Workspace
from autoproxy.errors import AutoproxyError, ConfigError, StorageError
from autoproxy.evaluation import content_hash
from autoproxy.language.canonical import canonical
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.ledger.addresses import ALL, DIGITS, Claim, claims_of, find
from autoproxy.ledger.archive import from_lines

TOLERANCE = 1e-3
"""Relative difference that another machine or build of torch may make."""

BUILD = ("torch", "transformers", "device", "version", "meanings", "definitions")
"""Entries of a protocol that say what measured; all others say what was measured."""

LATER = ("sign_draw", "text_hash")
"""Entries that protocols did not have at first; what one does not say cannot be told apart."""

SAME, CLOSE, DIFFERS, OPEN = "same", "within tolerance", "differs", "not verified"
"""What can become of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOrder:
    """Which rows are to be measured again.

    Attributes:
        row: An address, as `ledger.addresses.find` takes it.
        tolerance: Relative difference up to which values agree.
        places: Options of the evaluator that stand for what the protocol says: other places of the
            same `model`, `text`, `calibration`, `allocation` or `table`, and the `device`. None
            says nothing.
    """

    row: str
    tolerance: float = TOLERANCE
    places: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise ConfigError(f"--tolerance must be 0 or more, got {self.tolerance}")
        if self.row == ALL and self.said.keys() - {"device"}:
            flags = ", ".join(f"--{name}" for name in sorted(self.said.keys() - {"device"}))
            raise ConfigError(f"{flags} is of one table; write --verify TABLE instead of {ALL}")

    @property
    def said(self) -> dict[str, Any]:
        """The places that are said."""
        return {name: value for name, value in self.places.items() if value is not None}


@dataclass(slots=True)
class _Check:
    """What is known of one claim so far."""

    claim: Claim
    values: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None
    wrong: bool = False  # whether the reason speaks against the row

    def see(self, seed: int, measured: Mapping[str, float]) -> None:
        """Take in what was measured with one seed."""
        reported = next(row.values for row in self.claim.rows if row.seed == seed)
        for name in sorted(reported.keys() | measured.keys()):
            one, other = reported.get(name), measured.get(name)
            self.values.append(
                {
                    "seed": seed,
                    "name": name,
                    "reported": one,
                    "measured": other,
                    "difference": relative_difference(one, other),
                }
            )

    def to_json(self, tolerance: float) -> dict[str, Any]:
        """Return it as plain values, with its verdict."""
        first = self.claim.rows[0]
        worst = max(self.values, key=lambda value: value["difference"], default=None)
        return {
            "row": self.claim.address,
            "role": first.role,
            "text": first.text,
            "seeds": [row.seed for row in self.claim.rows],
            "verdict": self.verdict(tolerance),
            "difference": worst["difference"] if worst else None,
            "worst": worst,
            "reason": self.reason,
            "values": self.values,
        }

    def verdict(self, tolerance: float) -> str:
        """Return what became of the row."""
        differences = [value["difference"] for value in self.values]
        if self.wrong or any(difference > tolerance for difference in differences):
            return DIFFERS
        if {value["seed"] for value in self.values} != {row.seed for row in self.claim.rows}:
            return OPEN
        return CLOSE if any(differences) else SAME


def relative_difference(one: float | None, other: float | None) -> float:
    """Return |one - other| / the larger magnitude: 0 for the same, infinite where one is missing.

    >>> relative_difference(2.0, 1.0), relative_difference(0.0, -0.0)
    (0.5, 0.0)
    """
    if one is None or other is None:
        return math.inf
    if one == other:
        return 0.0
    found = abs(one - other) / max(abs(one), abs(other))
    return found if math.isfinite(found) else math.inf


def verify(workspace: Workspace, order: VerifyOrder, show: Show) -> dict[str, Any]:
    """Measure rows of the leaderboard again and compare; nothing but the cache is written.

    An interruption ends it early: rows that were not reached are not verified.

    Args:
        workspace: Whose `reports.jsonl` has the rows.
        order: Which rows.
        show: Told of every step.

    Returns:
        `tolerance`, `rows` (each with `row`, `verdict`, the largest relative `difference`,
        `worst`, `values`, `reason`), `notes`, `agree` (all were verified, none
        differs) and `stopped`.

    Raises:
        ConfigError: There are no such rows, or what was asked for by name cannot be measured here.
    """
    claims = find(claims_of(_rows(workspace)), order.row)
    checks = [_Check(claim) for claim in claims]
    verifier = _Verifier(workspace, order, show, sum(len(claim.rows) for claim in claims))
    stopped = False
    try:
        for table in dict.fromkeys(claim.table for claim in claims):
            verifier.check_table([check for check in checks if check.claim.table == table])
    except KeyboardInterrupt:
        stopped = True
        for check in checks:
            check.reason = check.reason or "stopped before all of it was measured"
    rows = [check.to_json(order.tolerance) for check in checks]
    return {
        "tolerance": order.tolerance,
        "rows": rows,
        "notes": verifier.notes,
        "agree": bool(rows) and all(row["verdict"] in {SAME, CLOSE} for row in rows),
        "stopped": stopped,
    }


def _rows(workspace: Workspace) -> list[Any]:
    path = workspace.reports
    try:
        return from_lines(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {path}, so there are no rows to verify; write it from the ledger with: "
            "autoproxy leaderboard; or name another folder with --results"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} cannot be read: {error}; restore the file") from None


class _Verifier:
    """Measures tables one after another.

    Attributes:
        notes: What a reader of the verdicts should know, once each.
    """

    def __init__(self, workspace: Workspace, order: VerifyOrder, show: Show, total: int) -> None:
        self._workspace = workspace
        self._order = order
        self._show = show
        self._total = total
        self._done = 0
        self._clock = Clock()
        self.notes: list[str] = []

    def check_table(self, checks: Sequence[_Check]) -> None:
        """Measure the claims of one table; where it cannot be had, say why."""
        claim = checks[0].claim
        protocol = claim.rows[0].protocol
        try:
            name, options = self._options(protocol)
            opened = loading.evaluator(
                name, options, cache=self._workspace.cache, notice=self._note
            )
            with opened as evaluator:
                condition, *_ = evaluator.conditions
                self._check_protocol(claim.table[:DIGITS], protocol, condition.report_protocol())
                self._measure(checks, condition, loading.methods(name))
        except ConfigError as error:
            if self._order.row != ALL:
                raise _in_table(claim.table[:DIGITS], protocol, error) from error
            for check in checks:
                check.reason = check.reason or str(error)
            self._tell(sum(len(check.claim.rows) for check in checks))

    def _options(self, protocol: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the evaluator that measured under a protocol, and its options."""
        name = str(protocol.get("evaluator"))
        kind: loading.Repeater = loading.able(
            name, "options_of", "does not say what its protocols were asked by"
        )
        options = dict(kind.options_of(protocol))
        if "model" in options:
            options["model"] = _known_place(self._workspace, options["model"])
        return name, {**options, **self._order.said}

    def _check_protocol(
        self, table: str, wanted: Mapping[str, Any], found: Mapping[str, Any]
    ) -> None:
        """See that what is at hand is what the rows were measured on; note what measures."""
        names = {name for name in wanted if f"{name}_hash" in wanted}
        wanted, found = _unnamed(wanted, names), _unnamed(found, names)
        changed = [n for n in sorted({*wanted, *found}) if wanted.get(n) != found.get(n)]
        told = {n: f"{n} {wanted.get(n, 'none')!s}, here {found.get(n, 'none')!s}" for n in changed}
        later = {name for name in LATER if name not in wanted}
        if other := [told[name] for name in changed if name not in later.union(BUILD)]:
            raise ConfigError(
                f"what is at hand is not what the rows were measured on: {'; '.join(other)}"
            )
        if changed:
            said = "; ".join(told.values())
            self._note(f"table {table} was measured by another build: {said}")

    def _measure(
        self, checks: Sequence[_Check], condition: Condition, methods: Mapping[str, str]
    ) -> None:
        asked: list[tuple[_Check, Expression | str]] = []
        for check in checks:
            if check.claim.rows[0].role == "dense":
                check.see(check.claim.rows[0].seed, condition.dense() or {})
                self._tell()
                continue
            try:
                asked.append((check, _candidate(check.claim, methods)))
            except AutoproxyError as error:
                check.reason, check.wrong = str(error), True
                self._tell(len(check.claim.rows))
        for seed in sorted({row.seed for check, _ in asked for row in check.claim.rows}):
            here = [pair for pair in asked if any(r.seed == seed for r in pair[0].claim.rows)]
            for at, found in _reported(condition, [candidate for _, candidate in here], seed):
                check = here[at][0]
                if isinstance(found, str):
                    check.reason, check.wrong = f"seed {seed}: {found}", True
                else:
                    check.see(seed, found)
                self._tell()

    def _tell(self, count: int = 1) -> None:
        self._done += count
        self._show(Progress("verify", self._done, self._total, self._clock.seconds))

    def _note(self, told: str) -> None:
        if told not in self.notes:
            self.notes.append(told)
            self._show(Progress("verify", self._done, self._total, notice=told))


def _candidate(claim: Claim, methods: Mapping[str, str]) -> Expression | str:
    """Return what a claim is about: its own formula, or a method of the evaluator.

    Raises:
        ConfigError: There is no such method, or the text is no formula.
    """
    row = claim.rows[0]
    if row.key == content_hash({"method": row.name}):
        if row.name not in methods:
            raise ConfigError(f"the evaluator has no method {row.name!r} any more")
        return row.name
    return canonical(parse(row.text))


def _reported(
    condition: Condition, candidates: Sequence[Expression | str], seed: int
) -> Iterator[tuple[int, dict[str, float] | str]]:
    """Yield the place of each candidate with its values, or with why it has none."""
    done = 0
    while done < len(candidates):
        start = done
        try:
            for values in condition.report(candidates[start:], [seed]):
                if "reason" in values:
                    yield start + values["index"], str(values["reason"])
                    done += 1
                    continue
                found = {n: float(v) for n, v in values.items() if n not in {"seed", "index"}}
                yield start + values["index"], found
                done += 1
        except StorageError:
            raise
        except AutoproxyError as error:  # of the first that has no values yet
            yield done, str(error)
            done += 1


def _unnamed(protocol: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """Return a protocol without the names of what stands beside them by its hash."""
    left = {name: value for name, value in protocol.items() if name not in names}
    departures = {n: v for n, v in left.pop("departures", {}).items() if n not in names}
    return {**left, **({"departures": departures} if departures else {})}


def _known_place(workspace: Workspace, name: str) -> str:
    """Return the folder of that name that a run here was given, else the name itself."""
    for run in workspace.runs():
        tables = read_run_file(workspace.run_folder(run) / "run.toml")
        place = tables.get("evaluator", {}).get("model", "")
        if Path(place).name == name and Path(place).is_dir():
            return str(place)
    return name


def _in_table(table: str, protocol: Mapping[str, Any], error: ConfigError) -> ConfigError:
    """Return an error that says what the table needs, and how to give it."""
    hashed = {"table", *(name for name in protocol if name.endswith("_hash"))}
    wanted = [
        f"{name.removesuffix('_hash')} {protocol.get(name.removesuffix('_hash'))} "
        f"({name} {protocol[name]})"
        for name in sorted(hashed & protocol.keys())
    ]
    return ConfigError(
        f"table {table} cannot be verified here: {error}. It was measured on "
        f"{', '.join(wanted) or 'nothing that has a hash'}; paths are relative to where you are. "
        "Another place of the same content is given by --model, --text, --calibration, "
        "--allocation or --table, and checked by its hash"
    )
