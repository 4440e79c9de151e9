"""The discovered formulas that this repository ships."""

import json
from pathlib import Path

from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of, parse
from autoproxy.language.types import Kind

METRICS = Path(__file__).parents[3] / "results" / "metrics"


def shipped_metrics(*, predictions: bool) -> list[Path]:
    """The JSON files of those that score whole networks, or of those that score weights."""
    return [
        path
        for path in sorted(METRICS.glob("*.json"))
        if (kind_of(expression_of(path)) is Kind.MODEL) == predictions
    ]


def expression_of(path: Path) -> Expression:
    """The formula of a metric's JSON file."""
    return parse(json.loads(path.read_text(encoding="utf-8"))["text"])
