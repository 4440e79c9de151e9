"""A ledger outside the results folder: a run that is resumed finds it, or says why not."""

import shutil
from pathlib import Path

import pytest

from autoproxy.cli import main
from autoproxy.commands.workspace import Workspace
from autoproxy.errors import ConfigError
from tests.runs import rows, write_run_file
from tests.saying import Run, refused

RUN = "tiny-run"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `results`, whose run has its ledger in `far/own.sqlite`."""
    place = tmp_path_factory.mktemp("ledger")
    run_file, _ = write_run_file(place, run={"random_search": False}, evaluations=4.0)
    (place / "far").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place / "far")  # the place is told as seen from here
        words = ["--config", str(run_file), "--results", "../results", "--ledger", "own.sqlite"]
        assert main(["search", *words]) == 0
    return place


@pytest.fixture
def place(done: Path, tmp_path: Path) -> Path:
    """The same folders, moved elsewhere together."""
    for name in ("results", "far"):
        shutil.copytree(done / name, tmp_path / name)
    return tmp_path


def test_resume_goes_on_in_the_ledger_that_the_run_was_begun_in(place: Path, run: Run) -> None:
    before = rows(place / "far" / "own.sqlite")
    assert before["evaluations"]
    said = run("resume", "--results", place / "results")
    assert said.code == 0, said.err
    assert f"the ledger of run '{RUN}' is {place / 'far' / 'own.sqlite'}" in said.err
    assert rows(place / "far" / "own.sqlite")["evaluations"] == before["evaluations"]
    assert not (place / "results" / "ledger.sqlite").exists()
    assert str(place) not in (place / "results/runs" / RUN / "ledger.txt").read_text("utf-8")


def test_a_ledger_that_is_gone_is_asked_for(place: Path, run: Run) -> None:
    (place / "far").rename(place / "moved")
    said = run("resume", "--results", place / "results")
    refused(said, f"run '{RUN}' has its ledger in {place / 'far' / 'own.sqlite'}", "--ledger")
    assert not (place / "far").exists()
    assert not (place / "results" / "ledger.sqlite").exists()
    moved = place / "moved" / "own.sqlite"
    before = rows(moved)["evaluations"]
    said = run("resume", "--results", place / "results", "--ledger", moved)
    assert said.code == 0, said.err
    assert rows(moved)["evaluations"] == before
    assert run("resume", "--results", place / "results").code == 0  # it is known from now on
    assert not (place / "results" / "ledger.sqlite").exists()


def test_another_ledger_is_used_where_it_is_said_and_the_run_tells(place: Path, run: Run) -> None:
    other = place / "other.sqlite"
    said = run("resume", "--results", place / "results", "--ledger", other)
    assert said.code == 0, said.err
    assert "had its ledger at ../far/own.sqlite and goes on with ../other.sqlite" in said.err
    assert "measured again" in said.err
    assert rows(other)["evaluations"]
    again = run("resume", "--results", place / "results", "--ledger", other)
    assert "measured again" not in again.err


def test_watch_finds_the_ledger_that_the_run_was_begun_in(place: Path, run: Run) -> None:
    for words in ([], [RUN]):
        said = run("watch", *words, "--once", "--json", "--results", place / "results")
        assert said.code == 0, said.err
        assert (said.json["run"], said.json["status"]) == (RUN, "done")
    assert not (place / "results" / "ledger.sqlite").exists()


def test_a_clone_that_measures_all_again_says_so(place: Path, run: Run) -> None:
    (place / "results" / "runs" / RUN / "ledger.txt").unlink()  # as one that was in the folder
    said = run("resume", "--results", place / "results")
    assert said.code == 0, said.err
    assert f"has no run '{RUN}': what it measured is measured again" in " ".join(said.err.split())
    again = run("resume", "--results", place / "results")
    assert "measured again" not in again.err


def test_who_had_no_ledger_elsewhere_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").touch()
    here, there = Workspace(tmp_path), Workspace(tmp_path, str(tmp_path / "x.sqlite"))
    here.remember_ledger(RUN)
    assert not here.run_folder(RUN).exists()
    assert here.at_ledger_of(RUN) == (here, None)
    same, told = there.at_ledger_of(RUN)
    assert same == there
    assert told is not None
    assert "at ledger.sqlite and goes on with x.sqlite" in told


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host:5433/db",
        "postgresql+psycopg://me:secret@host:5433/db?sslmode=require",
        "postgresql://host:5433/db?user=me&password=secret",
    ],
)
def test_of_a_database_no_account_is_kept(tmp_path: Path, url: str) -> None:
    workspace = Workspace(tmp_path, url)
    workspace.remember_ledger(RUN)
    kept = {path.read_text("utf-8") for path in workspace.run_folder(RUN).iterdir()}
    assert kept == {"postgresql://host:5433/db\n"}
    assert workspace.at_ledger_of(RUN) == (workspace, None)
    with pytest.raises(ConfigError, match=r"postgresql://host:5433/db, .* give --ledger again"):
        Workspace(tmp_path).at_ledger_of(RUN)
