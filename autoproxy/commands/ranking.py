"""Architectures in the order that proxies give them, and how well that order was."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoproxy.commands import loading
from autoproxy.commands.metrics import find_metric, oriented
from autoproxy.commands.workspace import Workspace
from autoproxy.errors import ConfigError
from autoproxy.export.proxy import ORIENTATION, sampling_matters
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of
from autoproxy.language.types import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOrder:
    """What is to be ranked, and by what.

    Attributes:
        proxies: Each an expression, a hand-made proxy, a method of the evaluator's own, a run, or
            a metric's JSON file.
        every: All hand-made proxies and methods, too.
        space: Space that has the hand-made proxies.
        evaluator: Name of the evaluator.
        options: Of the evaluator.
    """

    proxies: Sequence[str]
    every: bool
    space: str
    evaluator: str
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.proxies and not self.every:
            raise ConfigError(
                "give --proxy NAME or --proxy 'TEXT' (such as 'layers_sum(all_sum(abs(W * g)))'), "
                "or --all for every hand-made one; see autoproxy list --space prediction"
            )


def rank_architectures(workspace: Workspace, order: RankOrder) -> dict[str, Any]:
    """Return scores, order and rank correlations of the networks of a benchmark, and `notices`.

    Raises:
        ConfigError: The request cannot be met; the message says what can.
    """
    ranker: loading.Ranker = loading.able(order.evaluator, "rank", "ranks no networks")
    known = {b.name: b for b in loading.space(order.space).baselines}
    methods = loading.methods(order.evaluator)
    asked: dict[str, tuple[Expression | None, int]] = {}
    notices = []
    for word in order.proxies:
        if word in methods:
            asked[word] = None, 1
            continue
        expression, sheet = _proxy(workspace, word, order.space, methods)
        asked[word] = expression, -1 if sheet.get(ORIENTATION) == oriented(-1) else 1
        if warning := _otherwise(expression, sheet, order.options.get("rows")):
            notices.append(f"{word}: {warning}")
    if order.every:
        asked |= {name: (baseline.expression, baseline.sign) for name, baseline in known.items()}
        asked |= dict.fromkeys(methods, (None, 1))
    workspace.prepare()
    said = {name: value for name, value in order.options.items() if value is not None}
    return {**ranker.rank(said, asked, cache=workspace.cache), "notices": notices}


def _otherwise(expression: Expression, sheet: Mapping[str, str], rows: int | None) -> str | None:
    """Return a warning where a formula was searched on other outputs than it is ranked on."""
    warning = sampling_matters(expression, sheet)
    if warning is None or sheet["rows"] == str(rows):
        return None
    return f"{warning}; --rows {sheet['rows']} ranks as the search did"


def _proxy(
    workspace: Workspace, word: str, space: str, methods: Collection[str]
) -> tuple[Expression, Mapping[str, str]]:
    """Return the expression that a word stands for, and its data sheet."""
    _, expression, sheet = find_metric(workspace, word, space, besides=methods)
    kind = kind_of(expression)
    if kind is not Kind.MODEL:
        raise ConfigError(
            f"{word!r} is of kind {kind.value}, but a proxy gives one number for a whole network; "
            "put an aggregation over layers on top, such as layers_sum(all_sum(...))"
        )
    return expression, sheet
