"""Tuning how much of each decoder layer is dropped, and writing it for `--allocation`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoproxy.commands import loading
from autoproxy.commands.metrics import asked_metric, check_kind
from autoproxy.commands.progress import Clock, Progress, Show
from autoproxy.commands.workspace import Workspace, write_json
from autoproxy.errors import ConfigError
from autoproxy.export.formula import to_infix


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateOrder:
    """What is to be tuned.

    Attributes:
        metric: Name, run, JSON file or text of a metric; or None.
        baseline: Name of a hand-made metric; or None. Exactly one of the two is given.
        space: Space that has the hand-made metrics.
        evaluator: Name of the evaluator.
        options: Of the evaluator, None where nothing is said.
        trials: Allocations to try.
    """

    metric: str | None
    baseline: str | None
    space: str
    evaluator: str
    options: Mapping[str, Any]
    trials: int


def allocate(workspace: Workspace, order: AllocateOrder, out: Path, show: Show) -> dict[str, Any]:
    """Tune an allocation for a metric and write it to `out`, whole or not at all.

    Raises:
        ConfigError: The request cannot be met; the message says what can.
    """
    if order.trials < 2:
        raise ConfigError(f"trials must be at least 2, got {order.trials}: uniform, and another")
    if out.suffix != ".json":
        raise ConfigError(f"--out {out} must end in .json, which is how --allocation knows a file")
    if out.exists():
        raise ConfigError(f"{out} exists, and nothing is overwritten; choose another --out")
    name, expression = asked_metric(
        workspace,
        metric=order.metric,
        baseline=order.baseline,
        space=order.space,
        methods=loading.methods(order.evaluator),
    )
    said = {word: value for word, value in order.options.items() if value is not None}
    kind: loading.Tuner = loading.able(order.evaluator, "allocate", "has no allocation to tune")
    check_kind(name, expression, kind.root_of(said))
    workspace.prepare()
    notices: list[str] = []
    clock = Clock()

    def note(text: str) -> None:
        notices.append(text)
        show(Progress("statistics", notice=text))

    show(Progress("statistics"))
    with loading.evaluator(order.evaluator, said, cache=workspace.cache, notice=note) as opened:
        tuner: Any = opened  # that it can was seen before the model was loaded
        found: dict[str, Any] = tuner.allocate(
            expression,
            trials=order.trials,
            tell=lambda done, _: show(Progress("trials", done, order.trials, clock.seconds)),
        )
    write_json(out, found, instead="another --out")
    formula = to_infix(expression)
    return {"out": str(out), "name": name, "formula": formula, **found, "notices": notices}
