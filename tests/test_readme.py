"""The README: its Python runs, its commands exist, its links lead somewhere."""

import re
from pathlib import Path

import pytest

from tests import documents
from tests.documents import FENCE, ROOT, SHELL, autoproxy_lines, command_lines, parse

TEXT = documents.read(ROOT / "README.md")

pytestmark = pytest.mark.skipif(not TEXT.strip(), reason="README.md is still empty")


def blocks(*languages: str) -> list[str]:
    """Return the fenced blocks of these languages."""
    return [block.code for block in documents.blocks(TEXT, *languages)]


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.findall(r"@@\w+@@|TODO|FIXME|XXX", TEXT)


def test_python_comes_early() -> None:
    assert blocks("python")
    assert blocks(*SHELL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102 - our own text


@pytest.mark.parametrize("words", autoproxy_lines(TEXT), ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    parse(words)


def test_the_parser_bites() -> None:
    """A README with a mistake would be found out."""
    for words in (["serch"], ["search", "--modle", "x"], ["search", "--evaluations", "many"]):
        with pytest.raises(Exception, match=r"modle|serch|many|number|command|option"):
            parse(words)
    parse(["search", "--evaluations", "3", "--no-random-search"])


def test_the_targets_of_make_exist() -> None:
    for words in command_lines(TEXT):
        if words[0] == "make":
            assert set(words[1:]) <= documents.targets_of_make()


def test_links_and_folders_exist() -> None:
    prose = FENCE.sub("", TEXT)
    links = [link for link in re.findall(r"\]\(([^)#]+)", prose) if "://" not in link]
    folders = re.findall(r"^\| `([\w/]+/)`", TEXT, flags=re.MULTILINE)
    missing = [name for name in (*links, *folders) if not (ROOT / name).exists()]
    assert not missing
