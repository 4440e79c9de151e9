"""The report of a real small run: written by the command, looked at in a browser."""

import html
import re
import shlex
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoproxy.cli import main
from autoproxy.report.figures import RULES
from evaluators.pruning import PruningEvaluator
from tests.runs import SEARCH, summary_of, write_run_file
from tests.saying import Run, refused

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run_file, _ = write_run_file(folder, evaluations=10.0, tune=0.2, seed=8)
    assert main(["search", "--config", str(run_file), "--results", str(folder / "results")]) == 0
    return folder / "results"


@pytest.fixture(scope="module")
def site(results: Path) -> Path:
    out = results.parent / "site"
    assert main(["report", "--all", "--results", str(results), "--out", str(out)]) == 0
    return out


def test_a_run_leaves_its_archive_beside_its_summary(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results / "runs" / "tiny-run"
    out = results.parent / "again.csv"
    assert main(["archive", "tiny-run", "--results", str(results), "--out", str(out)]) == 0
    assert (folder / "archive.csv").read_bytes() == out.read_bytes()
    assert len((folder / "random.csv").read_text(encoding="utf-8").splitlines()) > 1
    summary = summary_of(results)
    assert {"proposed", *RULES} == set(summary["funnel"])  # each has its meaning on the page
    rows = out.read_text(encoding="utf-8").splitlines()[1:]
    spent = sum(float(row.split(",")[5]) for row in rows)
    # Who was screened when the budget ended, and promoted, was never raced and has no row.
    most = SEARCH["batch"] / 3
    assert 0 <= summary["search"]["spent"] - spent <= most


def test_a_report_replaces_a_report_and_nothing_else(
    results: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "old.html").write_text("of a run that is gone", encoding="utf-8")
    words = ["report", "--all", "--results", str(results), "--out", str(site)]
    assert main(words) == 0
    assert not (site / "old.html").exists()
    mine = results.parent / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work", encoding="utf-8")
    assert main([*words[:-1], str(mine)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert (mine / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_the_command_of_a_metric_s_page_exports_it(
    results: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy, ignore=shutil.ignore_patterns("cache"))
    (copy / "runs" / "tiny-run").rename(copy / "runs" / "other")  # the run itself is not there
    assert main(["report", "other", "--results", str(copy), "--out", str(tmp_path / "site")]) == 0
    code = (results / "metrics" / "tiny_run.py").read_text(encoding="utf-8")
    for pages, place in ((site, results), (tmp_path / "site", copy)):
        page = (pages / "metrics" / "tiny_run.html").read_text(encoding="utf-8")
        (told,) = re.findall("<code>(autoproxy export .*)</code>", page)
        monkeypatch.chdir(tmp_path)
        (program, *words) = shlex.split(html.unescape(told))
        assert program == "autoproxy"
        assert main([*words, "--results", str(place)]) == 0
        made = (tmp_path / "tiny_run.py").read_text(encoding="utf-8")
        assert made.partition("Formula:")[0] == code.partition("Formula:")[0]
        assert (made == code) is (place == results)


def test_a_stray_file_beside_the_metrics_is_named(results: Path, tmp_path: Path, run: Run) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy, ignore=shutil.ignore_patterns("cache"))
    words = ["report", "--results", copy, "--out", tmp_path / "out"]
    for content in ("{}", "{"):
        (copy / "metrics" / "notes.json").write_text(content, encoding="utf-8")
        refused(run(*words), f"{copy / 'metrics' / 'notes.json'}: ", "move it elsewhere")


def test_a_report_writes_nothing_to_the_ledger(results: Path, tmp_path: Path, run: Run) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy, ignore=shutil.ignore_patterns("cache"))
    with sqlite3.connect(copy / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE schema_version SET version = 2")
    words = ["report", "--results", copy, "--out", tmp_path / "out"]
    refused(run(*words), "has schema version 2, and is only read here", "autoproxy leaderboard")
    with sqlite3.connect(copy / "ledger.sqlite") as ledger:
        assert ledger.execute("SELECT version FROM schema_version").fetchall() == [(2,)]


def test_an_earlier_report_stays_until_the_new_one_can_take_its_place(
    results: Path, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    words = ["report", "--results", str(results), "--out"]
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if self.suffix == ".part" and self.is_dir():
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        assert main([*words, str(site)]) == 2
        assert "No space left on device" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda *_: rename(Path("nowhere"), Path("else")))
        assert main([*words, str(site)]) == 2
        assert "choose another --out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before
    assert not [path for path in site.parent.iterdir() if path.name.startswith(".site")]


def test_a_report_is_replaced_through_a_link_and_not_under_your_feet(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    words = ["report", "--results", results, "--out"]
    assert run(*words, tmp_path / "out").code == 0
    (tmp_path / "out" / "old.html").touch()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert run(*words, tmp_path / "link").code == 0
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "out" / "old.html").exists()
    for below in (".", "runs"):
        monkeypatch.chdir(tmp_path / "out" / below)
        refused(run(*words, "." if below == "." else ".."), "is where you are", "another --out")
    assert (tmp_path / "out" / "index.html").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "tiny-rum"], "did you mean 'tiny-run'"),
        (["report", "tiny-run", "--all"], "not both"),
        (["plot", "--figure", "fronts"], "did you mean 'front'"),
        (["plot", "--form", "pdf"], "known: json, png, svg"),
    ],
)
def test_mistakes_are_told(
    words: list[str],
    said: str,
    results: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main([*words, "--results", str(results), "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_run_that_is_not_done_has_no_report_yet(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy, ignore=shutil.ignore_patterns("cache"))
    (copy / "runs" / "tiny-run" / "summary.json").unlink()
    out = str(tmp_path / "out")
    assert main(["report", "tiny-run", "--results", str(copy), "--out", out]) == 2
    assert "autoproxy resume tiny-run" in capsys.readouterr().err
    assert main(["report", "--all", "--results", str(copy), "--out", out]) == 0


def test_broken_files_of_a_run_are_told(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy, ignore=shutil.ignore_patterns("cache"))
    words = ["report", "tiny-run", "--results", str(copy), "--out", str(tmp_path / "out")]
    archive = copy / "runs" / "tiny-run" / "archive.csv"
    whole = archive.read_text(encoding="utf-8")
    assert main(words) == 0
    before = (tmp_path / "out" / "index.html").read_bytes()
    archive.write_text(whole[: len(whole) // 2], encoding="utf-8")
    assert main(words) == 2
    assert "archive of run 'tiny-run' cannot be read" in capsys.readouterr().err
    assert (tmp_path / "out" / "index.html").read_bytes() == before  # an earlier report stays
    (copy / "runs" / "tiny-run" / "summary.json").write_text("{", encoding="utf-8")
    assert main(words) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["leaderboard", "--results", str(copy)]) == 2
    assert "summary.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(("form", "start"), [("svg", b"<svg"), ("png", b"\x89PNG"), ("json", b"{")])
def test_figures_for_papers(form: str, start: bytes, results: Path, tmp_path: Path) -> None:
    words = ["plot", "tiny-run", "--results", str(results), "--out", str(tmp_path), "--form", form]
    some = ["--figure", "front", "--figure", "funnel", "--figure", "shared"]
    assert main([*words, *some]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"tiny-run-{name}.{form}" for name in ("front", "funnel", "shared")}
    assert all(path.read_bytes().startswith(start) for path in tmp_path.iterdir())


def test_a_paper_has_every_figure_of_the_page(results: Path, site: Path, tmp_path: Path) -> None:
    assert main(["plot", "--results", str(results), "--out", str(tmp_path), "--form", "json"]) == 0
    page = (site / "runs" / "tiny-run.html").read_text(encoding="utf-8")
    shown = set(re.findall(r'<figure id="([\w-]+)"', page))
    assert {path.stem.removeprefix("tiny-run-") for path in tmp_path.iterdir()} == shown
    assert {"funnel", "front", "progress", "comparison", "shared"} <= shown


class Plain(PruningEvaluator):
    """An evaluator that says nothing of what a picture would show."""

    illustrate = None  # type: ignore[assignment] # as an evaluator without it


def test_who_can_draw_nothing_is_not_asked_and_has_a_report_all_the_same(tmp_path: Path) -> None:
    own = {"evaluator": "tests.test_cli_report:Plain", "random_search": False}
    run_file, _ = write_run_file(tmp_path, run=own, evaluations=4.0)
    results = tmp_path / "results"
    assert main(["search", "--config", str(run_file), "--results", str(results)]) == 0
    summary = summary_of(results)
    assert [report["illustration"] for report in summary["reports"]] == [None]
    out = tmp_path / "out"
    assert main(["report", "--results", str(results), "--out", str(out)]) == 0
    page = (out / "runs" / "tiny-run.html").read_text(encoding="utf-8")
    assert 'id="comparison"' in page
    assert 'id="shared"' not in page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as program:
        opened = program.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, site: Path) -> Iterator[Any]:
    """Return a function that opens a page; what went wrong on it fails the test at its end."""
    wrong: list[str] = []
    contexts = []

    def asked(request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            wrong.append(f"asked {request.url}")

    def open_page(name: str, **how: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **how})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: wrong.append(m.text) if m.type != "log" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", asked)
        page.goto(f"{site.as_uri()}/{name}")
        page.wait_for_selector("html[data-ready=yes]", state="attached", timeout=20_000)
        for chart in page.locator(".chart").all():
            chart.locator("svg.marks").wait_for(timeout=20_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


PAGES = ("index.html", "leaderboard.html", "runs/tiny-run.html", "metrics/tiny_run.html")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_render_on_a_phone_without_scrolling_sideways(
    name: str, theme: str, visit: Any
) -> None:
    page = visit(name, viewport={"width": 390, "height": 800}, color_scheme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(255, 255, 255)" if theme == "light" else "rgb(21, 24, 29)")


def test_hovering_a_point_shows_its_formula(visit: Any) -> None:
    page = visit("runs/tiny-run.html")
    point = page.locator('#front .chart path[aria-label*="formula:"]').last
    point.scroll_into_view_if_needed()
    page.wait_for_timeout(500)  # until the page stands still
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = page.locator("#vg-tooltip-element.visible", has_text="formula")
    tip.wait_for(timeout=5_000)
    assert "complexity" in tip.inner_text()


def test_the_leaderboard_sorts_and_filters(visit: Any) -> None:
    page = visit("leaderboard.html")

    def shown() -> list[float]:
        cells = page.locator("#board tbody tr td:nth-child(3)").all_inner_texts()
        return [float(re.split(r"[ ±]", cell)[0]) for cell in cells]

    def soon(wanted: list[float]) -> bool:
        """Return whether the table shows these, now or in a moment."""
        for _ in range(50):
            if shown() == wanted:
                return True
            page.wait_for_timeout(100)
        return False

    before = shown()
    head = page.get_by_role("columnheader", name="value")
    head.click()
    assert soon(sorted(before))
    page.wait_for_timeout(500)  # no double click
    head.click()
    assert soon(sorted(before, reverse=True))
    page.locator("#board_wrapper input[type=search]").last.fill("wanda-sqrt")
    assert soon([value for value in shown() if value in before][:1])
    assert len(before) > 1


def test_the_theme_can_be_chosen_and_is_kept(visit: Any) -> None:
    page = visit("runs/tiny-run.html", color_scheme="light")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 29)"
    label = page.locator("#funnel svg text").first
    assert label.evaluate("node => getComputedStyle(node).fill") == "rgb(228, 231, 235)"
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 29)"


def test_a_page_says_without_scripts_what_matters(visit: Any, browser: Any, site: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{site.as_uri()}/runs/tiny-run.html")
    assert page.locator("math").first.is_visible()
    assert page.locator("table").first.is_visible()
    assert "the best hand-made one" in page.inner_text("#winner")
