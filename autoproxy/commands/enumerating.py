"""Every formula of a space up to a size: how many there are, which is best, how sure that is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoproxy.commands import loading
from autoproxy.commands.memory import LedgerMemory
from autoproxy.commands.metrics import find_metric
from autoproxy.commands.progress import Clock, Progress, Show
from autoproxy.commands.workspace import Workspace, name_after, write_json
from autoproxy.errors import ConfigError
from autoproxy.evaluation import Failed, content_hash
from autoproxy.export.formula import to_infix
from autoproxy.language.canonical import canonical
from autoproxy.language.complexity import complexity
from autoproxy.language.expression import Expression, constant
from autoproxy.language.parse import kind_of
from autoproxy.ledger.ledger import Ledger
from autoproxy.search.audit import Audit
from autoproxy.search.enumeration import Enumeration, totals
from autoproxy.search.optimum import Measuring, Standing
from autoproxy.spaces import SearchSpace

EVALUATOR = "pruning"
"""The evaluator where neither the user nor the space names one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnumerateOrder:
    """What is to be enumerated, and how it is judged.

    Attributes:
        space: Name of the space.
        size: Most nodes of a formula.
        evaluator: Name of the evaluator; None for the space's own.
        options: Of the evaluator; None in them says nothing.
        against: Runs, hand-made metrics, JSON files or expressions whose place is wanted.
        audit: Merged trees that are checked of each way to be merged.
        full: How many formulas are measured in full at most; None for all.
        seed: Of the evaluator's draws and of the audit.
    """

    space: str
    size: int
    evaluator: str | None
    options: Mapping[str, Any]
    against: tuple[str, ...] = ()
    audit: int = 300
    full: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.audit < 0:
            raise ConfigError(f"--audit must be at least 0, got {self.audit}")
        if self.full is not None and self.full < 1:
            raise ConfigError(f"--full must be at least 1, got {self.full}")


@dataclass(frozen=True, slots=True)
class _Rival:
    """A formula from elsewhere, with what it is worth here."""

    name: str
    expression: Expression
    value: float | None
    reason: str | None = None
    seconds: float = 0.0


def enumerate_space(workspace: Workspace, order: EnumerateOrder, show: Show) -> dict[str, Any]:
    """Enumerate, measure, audit; return the certificate, which is also in the results folder.

    Whatever is measured is in the ledger at once, so doing it again goes on where it was stopped,
    to the same certificate.

    Raises:
        AutoproxyError: Something that the user can mend; what was measured is kept.
    """
    space = loading.space(order.space)
    name = order.evaluator or str(space.run.get("evaluator", EVALUATOR))
    said = {word: value for word, value in order.options.items() if value is not None}
    against = _against(workspace, order, space)
    workspace.prepare()
    show(Progress("statistics"))
    with (
        Ledger.open(workspace.ledger) as ledger,
        loading.evaluator(
            name,
            {"seed": order.seed, **said},
            cache=workspace.cache,
            notice=lambda text: show(Progress("statistics", notice=text)),
        ) as evaluator,
    ):
        loading.check_terminals(space, evaluator)
        _check_provided(against, evaluator)
        others = (expression.terminals() for expression in against.values())
        evaluator.prepare(loading.needed_terminals(space, evaluator).union(*others))
        memory = LedgerMemory(ledger, "", ledger.remember_protocol(evaluator.protocol()))
        found = _Certifying(order, name, space, evaluator, memory, show).certificate(against)
    folder = workspace.folder / "enumerations" / _name(order, space, found)
    write_json(folder / "certificate.json", found)
    return {**found, "file": str(folder / "certificate.json")}


def _against(
    workspace: Workspace, order: EnumerateOrder, space: SearchSpace
) -> dict[str, Expression]:
    """Return the formulas whose place is wanted, by the word that asked for each."""
    found: dict[str, Expression] = {}
    for word in order.against:
        _, expression, _ = find_metric(workspace, word, order.space)
        if kind_of(expression) is not space.root:
            raise ConfigError(
                f"{word!r} is of kind {kind_of(expression).value}, but the formulas of space "
                f"{space.name!r} are of kind {space.root.value}; compare like with like"
            )
        found[word] = canonical(expression)
    return found


def _check_provided(against: Mapping[str, Expression], evaluator: loading.OpenEvaluator) -> None:
    for word, expression in against.items():
        missing = sorted(expression.terminals() - evaluator.provides)
        if missing:
            raise ConfigError(
                f"{word!r} reads {', '.join(missing)}, which the evaluator does not provide"
            )


def _name(order: EnumerateOrder, space: SearchSpace, found: Mapping[str, Any]) -> str:
    """Return the name of the folder: what was enumerated, and a hash of all that decides it."""
    protocol = found["protocol"]
    digest = content_hash([dict(protocol), space.digest, order.size, order.full])
    return f"{name_after(space.name, protocol)}-size{order.size}-{digest[:8]}"


class _Certifying:
    """The stages, once everything that they need is open."""

    def __init__(
        self,
        order: EnumerateOrder,
        name: str,
        space: SearchSpace,
        evaluator: loading.OpenEvaluator,
        memory: LedgerMemory,
        show: Show,
    ) -> None:
        self._order = order
        self._evaluator_name = name
        self._space = space
        self._evaluator = evaluator
        self._memory = memory
        self._show = show
        self._seconds: dict[str, float] = {}

    def certificate(self, against: Mapping[str, Expression]) -> dict[str, Any]:
        """Do every stage and say what came of it."""
        enumeration = self._enumerate()
        measuring = Measuring(self._evaluator, self._memory, full=self._order.full)
        handmade, asked = self._rivals(measuring, against)
        values = [rival.value for rival in asked if rival.value is not None]
        measuring.rivals = [*values, *self._best(handmade)]
        self._estimate(len(enumeration.formulas), handmade)
        self._measure(measuring, enumeration)
        audit = self._audit(enumeration, measuring)
        found = {
            **self._what(),
            "counts": {
                "by_size": [count.to_json() for count in enumeration.counts],
                "total": totals(enumeration.counts),
            },
            "merging": _merging(enumeration),
            "measured": _measured(measuring),
            "best": [_row(rank, one) for rank, one in enumerate(measuring.best, 1)],
            "baselines": [self._placed(rival, measuring) for rival in handmade],
            "against": [self._placed(rival, measuring) for rival in asked],
            "audit": audit,
            "seconds": self._seconds,
            "recalled": self._memory.recalled,
            "manifest": loading.manifest(self._space),
        }
        return {"claim": claim(found), **found}

    def _enumerate(self) -> Enumeration:
        clock = Clock()

        def tell(stage: str, done: int, total: int) -> None:
            self._show(Progress(stage, done, total, clock.seconds))

        enumeration = Enumeration(self._space, self._evaluator, self._order.size, tell)
        trees = sum(enumeration.words.formulas(size) for size in range(1, self._order.size + 1))
        told = f"{trees:,} formulas of at most {self._order.size} nodes, as trees"
        self._show(Progress("enumeration", notice=told))
        enumeration.run()
        self._seconds["enumeration"] = round(clock.seconds, 1)
        return enumeration

    def _rivals(
        self, measuring: Measuring, against: Mapping[str, Expression]
    ) -> tuple[list[_Rival], list[_Rival]]:
        """Measure the hand-made metrics and what was asked for, in full."""
        usable = loading.usable_baselines(self._space, self._evaluator)
        handmade = {baseline.name: canonical(baseline.expression) for baseline in usable}
        clock = Clock()
        total = len(handmade) + len(against)

        def valued(metrics: Mapping[str, Expression], done: int) -> Iterator[_Rival]:
            for number, (name, expression) in enumerate(metrics.items(), done):
                self._show(Progress("baselines", number, total, clock.seconds))
                yield self._rival(measuring, name, expression)

        rivals = list(valued(handmade, 0)), list(valued(against, len(handmade)))
        self._seconds["baselines"] = round(clock.seconds, 1)
        return rivals

    def _rival(self, measuring: Measuring, name: str, expression: Expression) -> _Rival:
        identity = self._evaluator.identity(expression)
        if isinstance(identity, Failed):
            return _Rival(name, expression, None, identity.reason)
        outcome = measuring.outcome(expression, 1.0, identity)
        if isinstance(outcome, Failed):
            return _Rival(name, expression, None, outcome.reason)
        return _Rival(name, expression, outcome.value, seconds=outcome.seconds)

    def _best(self, rivals: Sequence[_Rival]) -> list[float]:
        """Return the value of the best rival, if any has one."""
        sign = self._evaluator.objective.sign
        values = [rival.value for rival in rivals if rival.value is not None]
        return [min(values, key=lambda value: sign * value)] if values else []

    def _estimate(self, count: int, handmade: Sequence[_Rival]) -> None:
        """Say how long measuring takes at most, by what the hand-made metrics took."""
        took = [rival.seconds for rival in handmade if rival.seconds]
        told = f"{count:,} formulas of different order are left"
        if took:
            each = sum(took) / len(took)
            number = min(count, self._order.full or count)
            told += (
                f"; at {each:.2g} s each, measuring {number:,} of them in full takes "
                f"{number * each / 60:.1f} minutes, and less where some are left early"
            )
        self._show(Progress("measuring", notice=told))

    def _measure(self, measuring: Measuring, enumeration: Enumeration) -> None:
        clock = Clock()

        def tell(stage: str, done: int, total: int, best: Standing | None) -> None:
            shown = (str(best.formula.expression), best.value) if best else None
            self._show(Progress(stage, done, total, clock.seconds, best=shown))

        measuring.tell = tell
        measuring.run(enumeration.formulas)
        self._seconds["measuring"] = round(clock.seconds, 1)

    def _audit(self, enumeration: Enumeration, measuring: Measuring) -> dict[str, Any]:
        clock = Clock()

        def tell(done: int, total: int) -> None:
            self._show(Progress("audit", done, total, clock.seconds))

        def value(expression: Expression) -> float | None:
            return self._rival(measuring, "", expression).value

        audit = Audit(enumeration, self._order.audit, self._order.seed, value, tell)
        audit.run()
        found = audit.to_json()
        self._seconds["audit"] = round(clock.seconds, 1)
        return found

    def _what(self) -> dict[str, Any]:
        """Return what was enumerated, and all that determines the values."""
        space, evaluator = self._space, self._evaluator
        protocol = evaluator.protocol()
        return {
            "space": space.name,
            "space_hash": space.digest,
            "root": space.root.value,
            "size": self._order.size,
            "terminals": sorted(space.terminals),
            "primitives": sorted(space.primitives),
            "grid": {
                "constants": _numbers(space.constants),
                "exponents": _numbers(space.exponents if "pow" in space.primitives else ()),
            },
            "evaluator": self._evaluator_name,
            "objective": {
                "name": evaluator.objective.name,
                "unit": evaluator.objective.unit,
                "direction": evaluator.objective.direction.value,
            },
            "protocol": protocol,
            "protocol_hash": content_hash(protocol),
        }

    def _placed(self, rival: _Rival, measuring: Measuring) -> dict[str, Any]:
        """Return a rival with its place among the formulas, where that is known exactly."""
        value = rival.value
        known = value is not None and value <= measuring.bar and not measuring.screened
        return {
            "name": rival.name,
            "text": str(rival.expression),
            "formula": to_infix(rival.expression),
            "size": rival.expression.size,
            "value": value,
            "reason": rival.reason,
            "better": measuring.better(value) if value is not None and known else None,
        }


def _numbers(grid: Sequence[float]) -> list[float]:
    """Return numbers as formulas write them."""
    return [float(str(constant(value))) for value in grid]


def _merging(enumeration: Enumeration) -> dict[str, str]:
    by_value = "canonical form, then the bits of their values on real rows of every layer"
    return {
        "parts": by_value if enumeration.merges_by_value else "canonical form alone",
        "formulas": "order by algebra, then on real rows, then all that the objective sees",
    }


def _measured(measuring: Measuring) -> dict[str, Any]:
    return {
        "exact": measuring.screened == 0,
        "different": measuring.masks,
        "in_full": measuring.measured[1.0],
        "up_to": {f"{at:.6g}": count for at, count in sorted(measuring.measured.items())},
        "left_early": measuring.left,
        "screened": measuring.screened,
        "failed": dict(measuring.failed),
    }


def _row(rank: int, standing: Standing) -> dict[str, Any]:
    expression = standing.formula.expression
    return {
        "rank": rank,
        "value": standing.value,
        "size": standing.formula.size,
        "complexity": complexity(expression),
        "text": str(expression),
        "formula": to_infix(expression),
    }


def claim(found: Mapping[str, Any]) -> str:
    """Return in one sentence what a certificate says, and up to what.

    Args:
        found: The certificate without its claim.
    """
    objective, measured, audit = found["objective"], found["measured"], found["audit"]
    if not found["best"]:
        return f"No formula of at most {found['size']} nodes of space {found['space']} has a value."
    best = found["best"][0]
    better = "smaller" if objective["direction"] == "min" else "larger"
    grid = f"constants {found['grid']['constants']} and exponents {found['grid']['exponents']}"
    said = (
        f"No formula of at most {found['size']} nodes of space {found['space']}, with {grid}, has "
        f"a {better} {objective['name']} under this protocol than {best['formula']} "
        f"({best['value']:.6g} {objective['unit']})"
    )
    if not measured["exact"]:
        said += (
            f", among the {measured['different'] - measured['screened']:,} of "
            f"{measured['different']:,} different ones that the cheapest rung put first"
        )
    if audit["upper"] is None:
        return f"{said}; no merge was checked."
    said += (
        f", but for formulas that were merged wrongly: {audit['false']} of {audit['checked']} "
        f"checked merges were, at most {audit['upper']:.2%} of those of any way to be merged "
        f"({audit['confidence']:.0%} confidence)"
    )
    unseen = [way["what"] for way in audit["ways"].values() if not way["checked"]]
    if unseen and audit["drawn"] < audit["trees"]:
        said += f"; of {' and of '.join(unseen)} none was drawn, so nothing is known of these"
    if audit["gain"] is not None:
        said += f"; the value of none of these is better by more than {max(0, audit['gain']):.2g}"
    return f"{said}."
