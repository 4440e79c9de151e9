"""A metric's JSON: it comes back whole, or is refused with words."""

import copy
import json
from typing import Any

import pytest

from autoproxy.errors import ConfigError
from autoproxy.export.manifest import from_json, to_json
from autoproxy.language.canonical import key
from autoproxy.language.parse import parse
from tests.autoproxy.export.drawn import baselines, drawn

SHEET = {"source run": "r", "value": "0.25 nats", "odd": 'quote " and ü and \n'}


@pytest.mark.parametrize("expression", [*baselines().values(), *drawn(40)], ids=str)
def test_it_comes_back_through_a_file(expression: Any) -> None:
    text = json.dumps(to_json(expression, SHEET), allow_nan=False)
    found, sheet = from_json(json.loads(text))
    assert found == expression
    assert dict(sheet) == SHEET
    assert json.loads(text)["key"] == key(expression)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": "mul(abs(W), x_mean)"}, "does not fit its key"),
        ({"key": "0" * 32}, "does not fit its key"),
        ({"key": None}, "does not fit its key"),
        ({"version": 2}, "version 2"),
        ({"version": None}, "version None"),
        ({"format": "other"}, "no metric of AutoProxy"),
        ({"text": "mul(abs(W), x_nrom)"}, "did you mean 'x_norm'"),
        ({"text": ""}, "empty"),
        ({"text": None}, "unknown terminal|malformed|constants"),
    ],
)
def test_what_was_edited_is_refused(changes: dict[str, Any], words: str) -> None:
    content = to_json(parse("mul(abs(W), x_norm)"), SHEET)
    before = copy.deepcopy(content)
    with pytest.raises(ConfigError, match=words):
        from_json({**content, **changes})
    assert content == before


@pytest.mark.parametrize("content", [None, [], "text", 3, {}, {"text": "W"}])
def test_what_is_something_else_is_refused(content: object) -> None:
    with pytest.raises(ConfigError, match="no metric of AutoProxy"):
        from_json(content)


@pytest.mark.parametrize("sheet", [None, [1], "words", 3])
def test_a_data_sheet_that_is_none_is_refused(sheet: object) -> None:
    content = to_json(parse("W"), {})
    with pytest.raises(ConfigError, match="data_sheet"):
        from_json({**content, "data_sheet": sheet})
