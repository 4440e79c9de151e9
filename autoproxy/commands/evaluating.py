"""One metric, one model, one text: what it is worth there, with the whole protocol."""

from collections.abc import Mapping
from typing import Any

from autoproxy.commands import loading
from autoproxy.commands.metrics import asked_metric
from autoproxy.commands.reporting import Named, Reporter
from autoproxy.commands.workspace import Workspace
from autoproxy.errors import ConfigError
from autoproxy.export.formula import to_infix
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of
from autoproxy.ledger.ledger import Ledger


def evaluate_metric(
    workspace: Workspace,
    *,
    metric: str | None,
    baseline: str | None,
    space: str,
    evaluator: str,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Measure a metric on the report text.

    Args:
        workspace: Where the value is kept.
        metric: An expression, a run or a metric's JSON file; or None.
        baseline: Name of a hand-made metric, or of a method of the evaluator's own; or None.
            Exactly one of the two is given.
        space: Space that has the hand-made metric, and says which kind a formula has.
        evaluator: Name of the evaluator.
        options: Of the evaluator; `seed` is the seed of the calibration draw.

    Raises:
        ConfigError: The request cannot be met; the message says what can.
    """
    if metric is None and baseline in loading.methods(evaluator):
        named = Named("baseline", str(baseline), None)
    else:
        name, expression = asked_metric(workspace, metric=metric, baseline=baseline, space=space)
        _check_kind(expression, space)
        named = Named("baseline" if baseline is not None else "evaluated", name, expression)
    workspace.prepare()
    said = {word: value for word, value in options.items() if value is not None}
    notices: list[str] = []
    with (
        Ledger.open(workspace.ledger) as ledger,
        loading.evaluator(evaluator, said, cache=workspace.cache, notice=notices.append) as opened,
    ):
        if named.expression is not None:
            _check_provided(named.expression.terminals(), opened.provides)
        condition, *_ = opened.conditions
        reporter = Reporter(ledger, condition, None, lambda _: None)
        rows = reporter.report([named], [int(options["seed"])])
        dense, row = rows[0], rows[-1]
        return {
            "metric": named.name,
            "text": row.text,
            "formula": to_infix(named.expression) if named.expression else "(a method)",
            "value": row.kl,
            "kl": row.kl,
            "perplexity": row.perplexity,
            "dense_perplexity": dense.perplexity,
            "seed": row.seed,
            "objective": opened.objective.name,
            "unit": opened.objective.unit,
            "protocol": dict(condition.report_protocol()),
            "notices": notices,
        }


def _check_kind(expression: Expression, space: str) -> None:
    asked = loading.space(space)
    if kind_of(expression) is not asked.root:
        raise ConfigError(
            f"{expression} is of kind {kind_of(expression).value}, but space {asked.name!r} "
            f"rates a {asked.root.value}; multiply by W, for example, to get a Weight"
        )


def _check_provided(asked: frozenset[str], provided: frozenset[str]) -> None:
    missing = sorted(asked - provided)
    if missing:
        raise ConfigError(
            f"the evaluator does not provide {', '.join(missing)}; it provides "
            f"{', '.join(sorted(provided))}"
        )
