"""One metric, one model, one text: what it is worth there, with the whole protocol."""

from collections.abc import Mapping
from typing import Any

from autoproxy.commands import loading
from autoproxy.commands.metrics import asked_metric
from autoproxy.commands.reporting import Named, Reporter
from autoproxy.commands.workspace import Workspace
from autoproxy.errors import ConfigError
from autoproxy.export.formula import to_infix
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
        baseline: Name of a hand-made metric; or None. Exactly one of the two is given.
        space: Space that has the hand-made metric, and says which kind a formula has.
        evaluator: Name of the evaluator.
        options: Of the evaluator; `seed` is the seed of the calibration draw.

    Raises:
        ConfigError: The request cannot be met; the message says what can.
    """
    name, expression = asked_metric(workspace, metric=metric, baseline=baseline, space=space)
    asked = loading.space(space)
    if kind_of(expression) is not asked.root:
        raise ConfigError(
            f"{expression} is of kind {kind_of(expression).value}, but space {asked.name!r} "
            f"rates a {asked.root.value}; multiply by W, for example, to get a Weight"
        )
    workspace.prepare()
    said = {word: value for word, value in options.items() if value is not None}
    notices: list[str] = []
    with (
        Ledger.open(workspace.ledger) as ledger,
        loading.evaluator(evaluator, said, cache=workspace.cache, notice=notices.append) as opened,
    ):
        _check_provided(expression.terminals(), opened.provides)
        role = "baseline" if baseline is not None else "evaluated"
        condition, *_ = opened.conditions
        reporter = Reporter(ledger, condition, None, lambda _: None)
        rows = reporter.report([Named(role, name, expression)], [int(options["seed"])])
        dense, row = rows[0], rows[-1]
        return {
            "metric": name,
            "text": str(expression),
            "formula": to_infix(expression),
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


def _check_provided(asked: frozenset[str], provided: frozenset[str]) -> None:
    missing = sorted(asked - provided)
    if missing:
        raise ConfigError(
            f"the evaluator does not provide {', '.join(missing)}; it provides "
            f"{', '.join(sorted(provided))}"
        )
