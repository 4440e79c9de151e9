"""Documents as their tests read them: fenced blocks, commands and links of a page of Markdown."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from autoproxy.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
MARKED = re.compile(r"^<!-- not run: [^\n]+ -->\n+```.*?^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# ([\w.-]+\.\w+)\n")
_INDENTED = re.compile(r"^    (autoproxy .*)$", flags=re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SHELL = ("console", "sh", "bash", "shell")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        language: Word behind the fence.
        code: What is in it.
    """

    language: str
    code: str

    @property
    def file(self) -> str | None:
        """Name of the file that it is, where its first line is one, such as `# my_space.py`."""
        named = _NAMED.match(self.code)
        return named[1] if named else None


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[Block]:
    """Return the fenced blocks of these languages, but for those below `<!-- not run: why -->`."""
    found = FENCE.findall(MARKED.sub("", text))
    return [Block(language, code) for language, code in found if language in languages]


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of every command: of shell blocks, and of indented lines of autoproxy."""
    for block in blocks(text, *SHELL):
        yield from words_of(block.code)
    yield from words_of("\n".join(_INDENTED.findall(FENCE.sub("", text))))


def words_of(code: str) -> Iterator[list[str]]:
    """Yield the words of every command of a shell block."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words:
            yield words


def autoproxy_lines(text: str) -> list[list[str]]:
    """Return what stands behind `autoproxy` in every such command."""
    return [words[1:] for words in command_lines(text) if Path(words[0]).name == "autoproxy"]


def parse(words: list[str]) -> None:
    """Parse a command line as the program does, and stop before the command runs."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("autoproxy", list(words))
    name, command, rest = group.resolve_command(context, list(words))
    command.make_context(name, rest, parent=context)


def targets_of_make() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))


def links(text: str) -> list[str]:
    """Return where the links of a page lead, but for those that leave the project."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    return [link for link in _LINK.findall(prose) if "://" not in link]
