"""Names of runs: each run has one of its own, in the folder, in the ledger and as a function."""

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from autoproxy.cli import main
from autoproxy.commands.workspace import Workspace, name_after, to_toml
from evaluators.pruning import PruningEvaluator
from tests.runs import rows, write_run_file
from tests.saying import Run, refused

RUN = "tiny-run"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run.toml` and `results`, where a run of that file is done."""
    folder = tmp_path_factory.mktemp("names")
    run_file, _ = write_run_file(folder, run={"random_search": False}, evaluations=2.0)
    assert main(["search", "--config", str(run_file), "--results", str(folder / "results")]) == 0
    return folder


@pytest.fixture
def results(done: Path, tmp_path: Path) -> Path:
    """A copy of the results that a test may spoil."""
    shutil.copytree(done / "results", tmp_path / "results")
    return tmp_path / "results"


def test_a_run_of_the_ledger_is_not_begun_anew(done: Path, results: Path, run: Run) -> None:
    """Its folder may be gone, or in another results folder of the same ledger."""
    before = rows(results / "ledger.sqlite")
    shutil.rmtree(results / "runs")
    said = run("search", "--config", done / "run.toml", "--results", results)
    refused(said, f"has a run '{RUN}' already", f"autoproxy resume {RUN}", "--name")
    assert said.err.startswith("autoproxy: ")  # before the model was loaded
    assert rows(results / "ledger.sqlite") == before
    assert not (results / "runs").exists()


def test_a_run_that_began_meanwhile_keeps_its_run_file(
    done: Path, results: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics take minutes, in which another process may take the name."""
    prepare = PruningEvaluator.prepare
    folder, apart = results / "runs" / RUN, results / "apart"
    folder.rename(apart)
    before = (apart / "run.toml").read_bytes()

    def meanwhile(self: Any, names: Any) -> None:
        prepare(self, names)
        apart.rename(folder)

    monkeypatch.setattr(PruningEvaluator, "prepare", meanwhile)
    words = ["--config", done / "run.toml", "--results", results, "--seed", "4"]
    own = results / "own.sqlite"  # which has no such run
    said = run("search", *words, "--ledger", own)
    assert said.code == 2
    assert f"run '{RUN}' exists" in said.err
    assert (folder / "run.toml").read_bytes() == before
    assert rows(own)["runs"] == []
    assert not (folder / "ledger.txt").exists()


def test_default_names_are_new_to_the_ledger_too(done: Path, tmp_path: Path, run: Run) -> None:
    text = (done / "run.toml").read_text(encoding="utf-8")
    (tmp_path / "run.toml").write_text(text.replace(f'name = "{RUN}"\n', ""), encoding="utf-8")
    words = ["search", "--config", tmp_path / "run.toml", "--results", tmp_path / "results"]
    first = run(*words, "--json").json["run"]
    shutil.rmtree(tmp_path / "results" / "runs")
    assert run(*words, "--json").json["run"] == f"{first}.2"
    status = {row[0]: row[-1] for row in rows(tmp_path / "results" / "ledger.sqlite")["runs"]}
    assert status == {first: "done", f"{first}.2": "done"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wanda", "'wanda' is the name of a hand-made metric"),
        ("zico", "'zico' is the name of a hand-made metric, a method"),
        ("sparsegpt", "'sparsegpt' is the name of a hand-made metric, a method"),
        ("x_norm", "or a terminal"),
        ("mine.random", "ends in '.random'"),
        ("Tiny-Run", "runs 'tiny-run' and 'Tiny-Run' would both export their metric as"),
        ("tiny.run", "metrics/tiny_run.py; give another --name"),
    ],
)
def test_a_name_that_means_something_else_is_refused(
    done: Path, results: Path, run: Run, name: str, told: str
) -> None:
    said = run("search", "--config", done / "run.toml", "--results", results, "--name", name)
    refused(said, told)
    assert said.err.startswith("autoproxy: ")  # before the model was loaded


def test_a_word_of_python_names_a_run_and_its_function_all_the_same(
    done: Path, results: Path, run: Run
) -> None:
    for name in ("lambda", "Max"):
        words = ["--config", done / "run.toml", "--results", results, "--name", name]
        assert run("search", *words).code == 0
        exported = run("export", name, "--results", results)
        assert f"def {name.lower()}_metric(" in exported.out
        written = results / "metrics" / f"{name.lower()}_metric.py"
        assert written.read_text(encoding="utf-8") == exported.out


def test_who_stops_before_the_run_began_is_told_so(
    done: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PruningEvaluator, "prepare", stopped)
    said = run("search", "--config", done / "run.toml", "--results", tmp_path)
    told = "autoproxy: stopped before the run began; there is nothing to go on with"
    assert (said.code, said.err.splitlines()[-1]) == (130, told)
    assert Workspace(tmp_path).runs() == ()


@pytest.mark.parametrize(
    ("file", "content"),
    [("summary.json", "{}"), ("summary.json", '{"search": {"spent": "x"}}'), ("run.toml", "")],
)
def test_a_run_that_cannot_be_read_is_named_and_undoes_no_other(
    done: Path, results: Path, run: Run, file: str, content: str
) -> None:
    (results / "runs" / RUN / file).write_text(content, encoding="utf-8")
    refused(run("leaderboard", "--results", results), f"run '{RUN}' cannot be read", "search")
    said = run("search", "--config", done / "run.toml", "--results", results, "--name", "good")
    assert said.code == 0
    assert f"the leaderboard could not be written: run '{RUN}' cannot be read" in said.err
    status = {row[0]: row[-1] for row in rows(results / "ledger.sqlite")["runs"]}
    assert status == {RUN: "done", "good": "done"}
    assert "Winner" in said.out


def test_a_run_file_reads_back_whatever_its_words() -> None:
    tables = {"run": {"text": ["naïve 😀", '\x00\x1f\x7f\x85\u2028 "quoted" back\\slash']}}
    assert tomllib.loads(to_toml(tables)) == tables


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("modèle", "importance-mod-le-50"),
        ("模型", "importance--50"),
        ("x" * 200, "importance-" + "x" * 69),
    ],
)
def test_a_name_that_is_made_may_name_a_run(model: str, name: str) -> None:
    made = name_after("importance", {"model": model, "condition": "50%"})
    assert made == name
    assert Workspace(Path()).run_folder(f"{made}-s{10**15}.2")


def test_a_space_without_a_letter_of_ours_gets_a_name_too() -> None:
    assert name_after("π", {}) == "run"
