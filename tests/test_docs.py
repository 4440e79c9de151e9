"""The site: it builds, its links lead somewhere, its commands exist, and its Python runs."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from autoproxy.cli import main
from evaluators.models import locate
from tests.documents import (
    DOCS,
    FENCE,
    MARKED,
    ROOT,
    Block,
    autoproxy_lines,
    blocks,
    command_lines,
    links,
    parse,
    read,
    targets_of_make,
    words_of,
)

PAGES = {
    str(path.relative_to(DOCS)): read(path)
    for path in sorted(DOCS.rglob("*.md"))
    if "_build" not in path.parts
}
WALKED = ("write-a-space.md", "write-an-evaluator.md")
"""Pages whose files, commands and Python are run from the first to the last, in one folder."""

SMALL = ("--calibration-blocks", "8", "--validation-blocks", "3", "--confirm-blocks", "2")
"""What a search of a language model on a page is given besides: how much it reads, no more."""

ELSEWHERE = {"prune.md": "tests/test_docs_prune.py"}
"""Pages whose Python is run by a test of their own."""

LOADED = {
    ("script", "src"),
    ("img", "src"),
    ("source", "src"),
    ("iframe", "src"),
    ("link", "href"),
}
"""Attributes that a browser follows by itself."""


class Page(HTMLParser):
    """What a built page links to, loads, and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id":
                self.anchors.add(value)
            elif (tag, name) in LOADED:
                self.loads.append(value)
            elif name == "href":
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, built as `make docs` does, without a network.

    In this process, which has imported what the API page documents.
    """
    sphinx = pytest.importorskip("sphinx.cmd.build", reason="it comes with the dev group")
    place = tmp_path_factory.mktemp("site")
    command = next(
        line for line in read(ROOT / "Makefile").splitlines() if "-m sphinx" in line
    ).split()
    assert command[1:3] == ["-m", "sphinx"]
    assert command[-2:] == ["docs", "docs/_build/html"]
    words = [*command[3:-1], "-d", str(place / "trees"), str(place / "html")]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries; what Sphinx finds, it prints
        patch.chdir(ROOT)
        patch.setattr(sys, "path", [*sys.path])
        for name in ("http_proxy", "https_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = sphinx.main(words)
    assert (code, said.getvalue()) == (0, "")
    return place / "html"


@pytest.fixture(scope="module")
def built(site: Path) -> Mapping[Path, Page]:
    return {path: Page(read(path)) for path in sorted(site.rglob("*.html"))}


def _call(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    around = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        words, check=False, cwd=folder, env=around, capture_output=True, text=True
    )


# --- the site -------------------------------------------------------------------------------


def test_every_page_is_built(site: Path) -> None:
    assert all((site / name).with_suffix(".html").is_file() for name in PAGES)


def test_links_and_anchors_lead_somewhere(built: Mapping[Path, Page]) -> None:
    dead = []
    for path, page in built.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = built[target].anchors if target in built else set()
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                dead.append((path.name, link))
    assert not dead


def test_nothing_is_loaded_from_elsewhere(site: Path, built: Mapping[Path, Page]) -> None:
    loads = {load for page in built.values() for load in page.loads}
    assert loads
    assert not [load for load in loads if urlsplit(load).scheme or urlsplit(load).netloc]
    styles = "".join(read(path) for path in site.rglob("*.css"))
    assert not re.findall(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)]*""", styles)


def test_the_api_has_its_docstrings(site: Path) -> None:
    page = read(site / "api.html")
    assert "Which expressions a search may propose." in page
    assert "autoproxy.language.parse.parse" in page
    assert 'class="field-list' in page  # Args and Returns were read as such


def test_search_of_the_site_is_not_a_page_of_ours() -> None:
    """Sphinx writes these itself, over ours."""
    assert not {"search.md", "genindex.md", "py-modindex.md"} & set(PAGES)


# --- the pages on a Git host ----------------------------------------------------------------


def test_links_lead_to_files() -> None:
    dead = [
        (name, link)
        for name, text in PAGES.items()
        for link in links(text)
        if not ((DOCS / name).parent / link.partition("#")[0]).is_file() and link[0] != "#"
    ]
    assert not dead


def test_every_page_is_reachable_from_the_index() -> None:
    reached: set[str] = set()
    ahead = ["index.md"]
    while ahead:
        name = ahead.pop()
        if name in reached or name not in PAGES:  # a picture leads nowhere
            continue
        reached.add(name)
        ahead += _linked_from(name)
    assert reached == set(PAGES)


def _linked_from(name: str) -> list[str]:
    folder = (DOCS / name).parent
    found = [folder / link.partition("#")[0] for link in links(PAGES[name]) if link[0] != "#"]
    if name != "index.md":  # whose list is for people, its trees for the site; see below
        found += [path for entry in _entries(PAGES[name]) for path in folder.glob(f"{entry}.md")]
    return [str(path.resolve().relative_to(DOCS)) for path in found]


def test_the_list_of_the_index_is_its_tree() -> None:
    listed = re.findall(r"^- \[[^\]]+\]\(([^)]+)\.md\)", PAGES["index.md"], re.MULTILINE)
    assert listed == _entries(PAGES["index.md"])
    captions = re.findall(r"^:caption: (.*)$", PAGES["index.md"], re.MULTILINE)
    assert captions == re.findall(r"^## (.*)$", PAGES["index.md"], re.MULTILINE)


def _entries(text: str) -> list[str]:
    trees = [block.code for block in blocks(text, "{toctree}")]
    lines = [line for tree in trees for line in tree.splitlines()]
    return [line for line in lines if line and not line.startswith(":")]


def test_nothing_is_left_to_fill_in() -> None:
    left = re.compile(r"@@\w+@@|\b(?:TODO|FIXME|XXX)\b")
    assert not {name: left.findall(text) for name, text in PAGES.items() if left.search(text)}


# --- commands -------------------------------------------------------------------------------

COMMANDS = [(name, words) for name, text in PAGES.items() for words in autoproxy_lines(text)]


@pytest.mark.parametrize(
    ("name", "words"), COMMANDS, ids=[f"{name}: {' '.join(words)}" for name, words in COMMANDS]
)
def test_commands_parse(name: str, words: list[str]) -> None:
    parse(words)


def test_other_commands_exist() -> None:
    for text in PAGES.values():
        for words in command_lines(text):
            if words[0] == "make":
                assert set(words[1:]) <= targets_of_make()
            if words[0] == "python" and words[1].endswith(".py"):
                assert (ROOT / words[1]).is_file()


# --- Python ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WALKED)
def test_a_walk_through_works_from_the_first_to_the_last(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are written, commands are run, Python is executed: as a reader would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    try:
        for block in blocks(PAGES[name], "python", "sh", "toml"):
            _follow(block)
    finally:
        for module in set(sys.modules) - known:
            if (tmp_path / f"{module}.py").exists():
                del sys.modules[module]


def _follow(block: Block) -> None:
    if block.file:
        Path(block.file).write_text(block.code, encoding="utf-8")
    elif block.language == "python":
        _execute(block.code, "page")
    elif block.language == "sh":
        for words in words_of(block.code):
            _run(words)


def _execute(code: str, name: str) -> None:
    """Run it; it prints what the comments `# -> ...` behind its prints say."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(code, name, "exec"), {"__name__": "page"})  # noqa: S102 - our own text
    promised = re.findall(r"print\(.*\)  # -> (.*)$", code, flags=re.MULTILINE)
    assert [line for line in said.getvalue().splitlines() if line in promised] == promised


def _run(words: list[str]) -> None:
    if words[0] == "autoproxy":
        words = [*words, *SMALL] if words[1] == "search" and "--evaluator" not in words else words
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main(words[1:]) == 0, words
    elif words[0] == "cp":
        shutil.copy(words[1].replace("AUTOPROXY", str(ROOT)), words[2])
    else:
        assert words[0] == "pytest"
        done = _call([sys.executable, "-m", *words], Path.cwd())
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"\d\d passed", done.stdout)


RUN = [
    (name, number, block.code)
    for name, text in PAGES.items()
    if name not in (*WALKED, *ELSEWHERE)
    for number, block in enumerate(blocks(text, "python"))
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with what pages say was there before: models, `mine.py` and a text."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(locate("starter")[0], folder / "model")
    (folder / "calibration.txt").write_text("The rain fell on the town all day. " * 80)
    metric = ["--metric", "abs(W) * x_norm ** 0.75"]
    kept = ["--results", str(folder / "results")]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(["prune", "starter", *metric, "--out", str(folder / "pruned"), *kept]) == 0
        words = ["export", metric[1], "--name", "mine", "--out", str(folder / "mine.py"), *kept]
        assert main(words) == 0
    return folder


@pytest.mark.parametrize(("name", "number", "code"), RUN, ids=[f"{n} {i}" for n, i, _ in RUN])
def test_python_runs(
    name: str, number: int, code: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    _execute(code, name)


def test_pages_whose_python_is_run_elsewhere_name_the_test() -> None:
    assert all((ROOT / test).is_file() for test in ELSEWHERE.values())
    assert set(WALKED) | set(ELSEWHERE) <= set(PAGES)


# --- the helpers ----------------------------------------------------------------------------


def test_blocks_are_read_as_a_reader_would() -> None:
    text = "x\n```{toctree}\na\n```\n<!-- not run: why -->\n\n```python\n1/0\n```\n"
    text += "```sh\nls # a\n```\n"
    assert [block.language for block in blocks(text, "python", "sh", "{toctree}")] == [
        "{toctree}",
        "sh",
    ]
    assert len(FENCE.findall(text)) == 3
    assert len(MARKED.findall(text)) == 1
    assert list(command_lines(text)) == [["ls"]]
    assert autoproxy_lines("    autoproxy list\n") == [["list"]]
    assert Block("python", "# a_b.py\nx = 1\n").file == "a_b.py"
    assert links("[a](b.md#c) `[d](e)` [f](https://g)") == ["b.md#c"]
