"""docs/prune.md: its commands parse, and its Python runs on a folder that prune wrote."""

import ast
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from autoproxy.cli import main
from evaluators.writing import read_masks
from tests.documents import DOCS, autoproxy_lines, blocks, parse, read

TEXT = read(DOCS / "prune.md")
PYTHON = [block.code for block in blocks(TEXT, "python")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where the starter was pruned to `pruned`."""
    folder = tmp_path_factory.mktemp("docs")
    words = ["prune", "starter", "--metric", "abs(W)", "--out", str(folder / "pruned")]
    assert main([*words, "--results", str(folder / "results")]) == 0
    return folder


@pytest.mark.parametrize("words", autoproxy_lines(TEXT), ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    parse(words)


def test_masks_are_read_as_it_says(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    found: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(PYTHON[0], "prune.md", "exec"), found)  # noqa: S102 - our own text
    right = read_masks(place / "pruned" / "masks.safetensors")
    assert found["masks"].keys() == right.keys()
    assert all((found["masks"][name] == mask.numpy()).all() for name, mask in right.items())
    assert set(ast.literal_eval(said.getvalue()).values()) == {0.5}


def test_speed_is_measured_or_said_not_to_be(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(PYTHON[1], "prune.md", "exec"), {})  # noqa: S102 - our own text
    assert re.search("cannot be measured|times as fast|no layer can be converted", said.getvalue())


def test_every_python_block_is_run() -> None:
    assert len(PYTHON) == 2
