"""docs/predict.md: its commands parse, and it names every benchmark and word that it should."""

import shlex
from pathlib import Path

import pytest

from evaluators.benchmarks.table import BENCHMARKS
from evaluators.prediction import REFERENCES
from tests.test_readme import FENCE, parse

TEXT = (Path(__file__).parents[1] / "docs" / "predict.md").read_text(encoding="utf-8")
SHELL = "".join(code for language, code in FENCE.findall(TEXT) if language == "sh")


@pytest.mark.parametrize("line", SHELL.splitlines())
def test_commands_parse(line: str) -> None:
    parse(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("word", [*BENCHMARKS, *REFERENCES])
def test_it_names(word: str) -> None:
    assert f"`{word}`" in TEXT
