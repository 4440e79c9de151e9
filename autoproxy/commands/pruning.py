"""Pruning a model for good: a folder that loads anywhere, its masks, and how it was made."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoproxy.commands import loading
from autoproxy.commands.metrics import asked_candidate, check_kind
from autoproxy.commands.progress import Progress, Show
from autoproxy.commands.workspace import Workspace, fresh_folder
from autoproxy.errors import ConfigError
from autoproxy.export.formula import to_infix
from autoproxy.language.canonical import canonical, key
from autoproxy.language.expression import Expression

RECIPE = "recipe.json"
FORMAT = {"format": "autoproxy-recipe", "version": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOrder:
    """What is to be pruned, by what.

    Attributes:
        metric: Name, run, JSON file or text of a metric; or None.
        baseline: Name of a hand-made metric, or of a method of the evaluator's own; or None.
            Exactly one of the two is given.
        space: Space that has the hand-made metrics.
        evaluator: Name of the evaluator that prunes.
        options: Of the evaluator, None where nothing is said; `seed` is of the calibration draw.
        check: Whether to measure perplexity before and after.
    """

    metric: str | None
    baseline: str | None
    space: str
    evaluator: str
    options: Mapping[str, Any]
    check: bool


def prune_model(workspace: Workspace, order: PruneOrder, out: Path, show: Show) -> dict[str, Any]:
    """Write the pruned model as a plain Hugging Face folder, with its masks and its recipe.

    Args:
        workspace: Where runs are looked for and statistics are kept.
        order: What to prune, by what.
        out: Folder to write; it appears when it is complete.
        show: Told each stage, and what is to be noted.

    Returns:
        The recipe, with `out` and `notices`.

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
    if not order.check and (order.options.get("text") or order.options.get("text_blocks")):
        raise ConfigError("--text and --text-blocks are what --check reads; add --check")
    said = {word: value for word, value in order.options.items() if value is not None}
    pruner: loading.Pruner = loading.able(order.evaluator, "prune", "cannot write pruned models")
    if expression is not None:
        check_kind(name, expression, pruner.root_of(said))
    notices: list[str] = []

    def tell(stage: str, notice: str | None) -> None:
        if notice is not None:
            notices.append(notice)
        show(Progress(stage, notice=notice))

    with fresh_folder(out) as folder:
        workspace.prepare()
        facts = pruner.prune(
            said,
            name if expression is None else expression,
            folder,
            check=order.check,
            cache=workspace.cache,
            tell=tell,
        )
        recipe = {
            **FORMAT,
            **_what(name, expression, order.space),
            **{word: value for word, value in facts.items() if word != "options"},
            "command": _command(order, expression, facts["options"], out),
            "made_with": loading.manifest(loading.space(order.space)),
        }
        text = json.dumps(recipe, indent=2) + "\n"
        (folder / RECIPE).write_text(text, encoding="utf-8")
    return {"out": str(out), **recipe, "notices": notices}


def _what(name: str, expression: Expression | None, space: str) -> dict[str, str]:
    """Return what pruned: a name, and the formula that it stands for, if it has one."""
    if expression is None:
        return {"metric": name}
    return {
        "metric": _known_name(name, expression, space),
        "text": str(expression),
        "formula": to_infix(expression),
        "key": key(expression),
    }


def _known_name(name: str, expression: Expression, space: str) -> str:
    """Return what a metric is called wherever it came from: its hand-made name, if it has one."""
    baselines = loading.space(space).baselines
    known = [one.name for one in baselines if canonical(one.expression) == expression]
    return name if name in known or not known else known[0]


def _command(
    order: PruneOrder, expression: Expression | None, options: Mapping[str, Any], out: Path
) -> str:
    """Return the command that does the same again: every option that decides it, written out."""
    what = (
        ["--baseline", str(order.baseline)] if expression is None else ["--metric", str(expression)]
    )
    words = ["autoproxy", "prune", str(options["model"]), *what]
    if order.evaluator != "pruning":
        words += ["--evaluator", order.evaluator]
    for name, value in options.items():
        if name != "model":
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words += [f"--{flag}" if value else f"--no-{flag}"]
                continue
            for one in value if isinstance(value, list) else [value]:
                words += [f"--{flag}", str(one)]
    return shlex.join([*words, *(["--check"] if order.check else []), "--out", str(out)])
