"""One metric, one model, one text: what it is worth there, with the whole protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoproxy.columns import columns_of
from autoproxy.commands import loading
from autoproxy.commands.metrics import asked_candidate
from autoproxy.commands.reporting import Named, Reporter
from autoproxy.commands.workspace import Workspace, append_line
from autoproxy.errors import ConfigError
from autoproxy.export.formula import to_infix
from autoproxy.language.canonical import canonical
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of
from autoproxy.language.types import Kind
from autoproxy.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOrder:
    """What is to be measured.

    Attributes:
        metric: An expression, a run or a metric's JSON file; or None.
        baseline: Name of a hand-made metric, or of a method of the evaluator's own; or None.
            Exactly one of the two is given.
        space: Space that has the hand-made metric, and says which kind a formula has.
        evaluator: Name of the evaluator.
        options: Of the evaluator; `seed` is the seed of the calibration draw.
        tasks: Names of zero-shot tasks, with commas between them; None for none.
        task_limit: Documents of each task; None for all.
        shots: Examples before each question; None for what each task says.
    """

    metric: str | None
    baseline: str | None
    space: str
    evaluator: str
    options: Mapping[str, Any]
    tasks: str | None = None
    task_limit: int | None = None
    shots: int | None = None

    def __post_init__(self) -> None:
        if self.tasks is None and not (self.task_limit is self.shots is None):
            raise ConfigError("--task-limit and --shots are of tasks; add --tasks NAME,NAME")


def evaluate_metric(workspace: Workspace, order: EvaluateOrder) -> dict[str, Any]:
    """Measure a metric on the report text, and on zero-shot tasks where they are asked for.

    Args:
        workspace: Where the value is kept.
        order: What is to be measured.

    Raises:
        ConfigError: The request cannot be met; the message says what can.
    """
    name, expression = asked_candidate(
        workspace,
        metric=order.metric,
        baseline=order.baseline,
        space=order.space,
        methods=loading.methods(order.evaluator),
    )
    if expression is not None:
        _check_kind(expression, order.space)
        expression = canonical(expression)
    named = Named("baseline" if order.baseline is not None else "evaluated", name, expression)
    harness = _open_tasks(order)
    workspace.prepare()
    said = {word: value for word, value in order.options.items() if value is not None}
    notices: list[str] = []
    with (
        Ledger.open(workspace.ledger) as ledger,
        loading.evaluator(
            order.evaluator, said, cache=workspace.cache, notice=notices.append
        ) as opened,
    ):
        if named.expression is not None:
            loading.check_rated(loading.space(order.space), opened)
            _check_provided(named.expression.terminals(), opened.provides)
        condition, *_ = opened.conditions
        reporter = Reporter(ledger, condition, None, lambda _: None)
        seed = loading.first_seed(opened, int(order.options["seed"]))
        rows = reporter.report([named], [seed])
        if named.name in reporter.reasons:
            raise ConfigError(f"{named.name} has no value: {reporter.reasons[named.name]}")
        row = rows[-1]
        dense = rows[0].values if rows[0].role == "dense" else {}
        ranking = columns_of(row.protocol)[0].name
        found = {
            "metric": named.name,
            "text": row.text,
            "formula": to_infix(named.expression) if named.expression else "(a method)",
            "value": row.values.get(opened.objective.name, row.values[ranking]),
            **row.values,
            **({f"dense_{ranking}": dense[ranking]} if dense else {}),
            "seed": row.seed,
            "objective": opened.objective.name,
            "unit": opened.objective.unit,
            "protocol": dict(condition.report_protocol()),
            "notices": notices,
        }
        if harness is None:
            return found
        scorer: Any = condition  # that it can was seen when the tasks were opened
        found["tasks"] = scorer.score_tasks(named.expression or named.name, harness)
    append_line(
        workspace.tasks, {**found, "made_with": loading.manifest(loading.space(order.space))}
    )
    return found


def _open_tasks(order: EvaluateOrder) -> object | None:
    """Return the harness with the tasks, before any model is loaded, or None."""
    if order.tasks is None:
        return None
    names = [name.strip() for name in order.tasks.split(",")]
    runner: loading.TaskRunner = loading.able(order.evaluator, "open_tasks", "runs no tasks")
    return runner.open_tasks(names, limit=order.task_limit, shots=order.shots)


def _check_kind(expression: Expression, space: str) -> None:
    asked = loading.space(space)
    if kind_of(expression) is not asked.root:
        kind = kind_of(expression)
        raise ConfigError(
            f"{expression} is of kind {kind.value}, but space {asked.name!r} rates a "
            f"{asked.root.value}; {_way_out(kind)}"
        )


def _way_out(kind: Kind) -> str:
    """Return what to do with a formula of a kind that the space does not rate."""
    rated = [space.name for space in loading.every_space() if space.root is kind]
    ways = [f"give a --space that rates a {kind.value}: {', '.join(rated)}"] if rated else []
    if kind is not Kind.MODEL:
        ways += ["multiply by W, for example, to get a Weight"]
    return "; or ".join(ways)


def _check_provided(asked: frozenset[str], provided: frozenset[str]) -> None:
    missing = sorted(asked - provided)
    if missing:
        raise ConfigError(
            f"the evaluator does not provide {', '.join(missing)}; it provides "
            f"{', '.join(sorted(provided))}"
        )
