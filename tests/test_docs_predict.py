"""docs/predict.md: its commands parse, and it names every benchmark and word that it should."""

import pytest

from evaluators.benchmarks.table import BENCHMARKS
from evaluators.prediction import REFERENCES
from tests.documents import DOCS, autoproxy_lines, parse, read

TEXT = read(DOCS / "predict.md")


@pytest.mark.parametrize("words", autoproxy_lines(TEXT), ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("word", [*BENCHMARKS, *REFERENCES])
def test_it_names(word: str) -> None:
    assert f"`{word}`" in TEXT
