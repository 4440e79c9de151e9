"""The README: its Python runs, its commands exist, its links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from autoproxy.cli import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not TEXT.strip(), reason="README.md is still empty")


def blocks(*languages: str) -> list[str]:
    """Return the fenced blocks of these languages."""
    return [code for language, code in FENCE.findall(TEXT) if language in languages]


def command_lines() -> Iterator[list[str]]:
    """Yield the words of every command in the shell blocks."""
    for code in blocks("console", "sh", "bash", "shell"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield words


def autoproxy_lines() -> list[list[str]]:
    return [words[1:] for words in command_lines() if Path(words[0]).name == "autoproxy"]


def parse(words: list[str]) -> None:
    """Parse a command line as the program does, and stop before the command runs."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("autoproxy", list(words))
    name, command, rest = group.resolve_command(context, list(words))
    command.make_context(name, rest, parent=context)


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.findall(r"@@\w+@@|TODO|FIXME|XXX", TEXT)


def test_python_comes_early() -> None:
    assert blocks("python")
    assert blocks("console", "sh", "bash")


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102 - our own text


@pytest.mark.parametrize("words", autoproxy_lines(), ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    parse(words)


def test_the_parser_bites() -> None:
    """A README with a mistake would be found out."""
    for words in (["serch"], ["search", "--modle", "x"], ["search", "--evaluations", "many"]):
        with pytest.raises(Exception, match=r"modle|serch|many|number|command|option"):
            parse(words)
    parse(["search", "--evaluations", "3", "--no-random-search"])


def test_the_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in command_lines():
        if words[0] == "make":
            assert set(words[1:]) <= targets


def test_links_and_folders_exist() -> None:
    prose = FENCE.sub("", TEXT)
    links = [link for link in re.findall(r"\]\(([^)#]+)", prose) if "://" not in link]
    folders = re.findall(r"^\| `([\w/]+/)`", TEXT, flags=re.MULTILINE)
    missing = [name for name in (*links, *folders) if not (ROOT / name).exists()]
    assert not missing
