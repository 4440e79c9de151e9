"""A metric as JSON: its text form and its data sheet."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoproxy.errors import ConfigError
from autoproxy.language.canonical import key
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse

FORMAT = "autoproxy-metric"
VERSION = 1


def to_json(expression: Expression, data_sheet: Mapping[str, str]) -> dict[str, Any]:
    """Return a metric as plain values.

    Args:
        expression: The metric.
        data_sheet: Where it came from and what it was worth, as words.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "text": str(expression),
        "key": key(expression),
        "data_sheet": dict(data_sheet),
    }


def read_json(path: Path) -> object:
    """Return what a JSON file holds.

    Raises:
        ConfigError: There is no such file, or it is no JSON.
    """
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
    return content


def from_json(content: object) -> tuple[Expression, Mapping[str, str]]:
    """Return the metric and the data sheet that `to_json` wrote.

    Raises:
        ConfigError: The content is something else, of another version, or was edited.

    >>> metric, sheet = from_json(to_json(parse("abs(W)"), {"source run": "r"}))
    >>> str(metric), dict(sheet)
    ('abs(W)', {'source run': 'r'})
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(
            f'this is no metric of AutoProxy: a JSON object with "format": "{FORMAT}" was '
            "expected; export one: autoproxy export NAME --form json"
        )
    if content.get("version") != VERSION:
        raise ConfigError(
            f"the metric has format version {content.get('version')}, this program reads {VERSION}"
        )
    expression = parse(str(content.get("text", "")))
    if key(expression) != content.get("key"):
        raise ConfigError(
            f"the metric's text {expression} does not fit its key {content.get('key')}; the file "
            "was edited; export it again, or use the text itself"
        )
    sheet = content.get("data_sheet", {})
    if not isinstance(sheet, dict):
        raise ConfigError(f"the metric's data_sheet must be an object of words, got {sheet!r}")
    return expression, sheet
