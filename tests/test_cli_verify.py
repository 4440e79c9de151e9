"""Verifying the leaderboard: a true row is confirmed, a false one is not, nothing is written."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from autoproxy.cli import main
from autoproxy.commands.verifying import VerifyOrder, relative_difference, verify
from autoproxy.commands.workspace import Workspace
from autoproxy.evaluation import content_hash
from autoproxy.ledger.archive import from_lines, to_lines
from autoproxy.ledger.leaderboard import rank
from autoproxy.ledger.records import ReportRow
from tests.runs import SEARCH, flags, write_run_file
from tests.saying import Run, refused

Change = Callable[[ReportRow], Mapping[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, texts, and a board of one run, a method and a 2:4 table."""
    folder = tmp_path_factory.mktemp("verify")
    path, options = write_run_file(folder, run={"report_seeds": 2})
    results = ["--results", str(folder / "results")]
    assert main(["search", "--config", str(path), *results, "--json"]) == 0
    foreign = {"validation", "validation_blocks", "confirm_blocks"}
    own = flags({name: value for name, value in options.items() if name not in foreign})
    for words in (
        ["--baseline", "wanda", "--pattern", "2:4", "--seed", "1"],
        ["--metric", "abs(W) / x_norm", "--pattern", "2:4"],
        ["--baseline", "sparsegpt", "--pattern", "2:4"],
    ):
        assert main(["evaluate", *words, *own, *results, "--json"]) == 0
    assert main(["leaderboard", *results, "--json"]) == 0
    return folder


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy of the results, to be tampered with."""
    return Path(shutil.copytree(made / "results", tmp_path / "results"))


def rows_of(results: Path) -> list[ReportRow]:
    path = results / "reports.jsonl"
    return from_lines(path.read_text(encoding="utf-8"), str(path))


def table(results: Path, condition: str = "50%") -> str:
    (digest,) = {
        content_hash(dict(row.protocol))[:12]
        for row in rows_of(results)
        if row.protocol["condition"] == condition
    }
    return digest


def forge(results: Path, change: Change) -> None:
    """Rewrite the rows, each with the fields that a change gives for it."""
    rows = [
        ReportRow(**{**{n: getattr(row, n) for n in row.__slots__}, **change(row)})
        for row in rows_of(results)
    ]
    assert rows != rows_of(results)
    (results / "reports.jsonl").write_text(to_lines(rows), encoding="utf-8")


FIRST = SEARCH["seed"]
"""The first calibration seed of a run's report; the next follows."""


def scaled(factor: float, name: str, seed: int, value: str = "perplexity") -> Change:
    """Return a change of one value of one row."""

    def change(row: ReportRow) -> Mapping[str, Any]:
        if (row.name, row.seed, row.protocol["condition"]) != (name, seed, "50%"):
            return {}
        return {"values": {**row.values, value: row.values[value] * factor}}

    return change


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file but those of the cache, with its time."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "cache" not in path.relative_to(folder).parts
    }


def verdicts(found: Mapping[str, Any]) -> dict[str, str]:
    return {row["row"].partition("/")[2]: row["verdict"] for row in found["rows"]}


def test_every_row_of_a_true_board_is_the_same_and_nothing_is_written(
    results: Path, run: Run
) -> None:
    before = content(results)
    said = run("leaderboard", "--verify", "all", "--results", results, "--json")
    assert said.code == 0, said.err
    found = said.json
    assert set(verdicts(found).values()) == {"same"}
    assert found["agree"]
    assert not found["stopped"]
    assert found["notes"] == []
    entries = [entry for group in rank(rows_of(results)) for entry in group.entries]
    assert len(found["rows"]) == len(entries)
    assert {row["role"] for row in found["rows"]} == {
        *("dense", "baseline", "discovered", "random-search", "evaluated")
    }
    told = [(row["row"], v["seed"], v["name"]) for row in found["rows"] for v in row["values"]]
    assert len(told) == len(set(told)) == 2 * len(rows_of(results))  # perplexity and KL of each
    assert content(results) == before


def test_without_its_cache_and_its_ledger_a_row_is_the_same(results: Path, run: Run) -> None:
    shutil.rmtree(results / "cache")
    (results / "ledger.sqlite").unlink()
    said = run("leaderboard", "--verify", f"{table(results)}/wanda", "--results", results)
    assert said.code == 0, said.err
    assert "1 same" in said.out
    assert not (results / "ledger.sqlite").exists()


@pytest.mark.parametrize("value", ["perplexity", "kl"])
def test_one_false_value_of_one_seed_is_found(results: Path, run: Run, value: str) -> None:
    forge(results, scaled(1.01, "wanda", FIRST + 1, value))
    said = run("leaderboard", "--verify", table(results), "--results", results, "--json")
    assert said.code == 1
    found = said.json
    assert not found["agree"]
    false = [name for name, verdict in verdicts(found).items() if verdict != "same"]
    assert false == ["wanda"]
    (row,) = (row for row in found["rows"] if row["verdict"] == "differs")
    assert (row["worst"]["name"], row["worst"]["seed"]) == (value, FIRST + 1)
    assert row["difference"] == pytest.approx(1 - 1 / 1.01)
    drawn = run("leaderboard", "--verify", table(results), "--results", results)
    assert drawn.code == 1
    assert f"{value}, seed {FIRST + 1}" in drawn.out


def test_the_tolerance_decides(results: Path, run: Run) -> None:
    forge(results, scaled(1.0005, "wanda", FIRST))
    ask = ("leaderboard", "--verify", f"{table(results)}/wanda", "--results", results, "--json")
    near = run(*ask)
    assert (near.code, verdicts(near.json)) == (0, {"wanda": "within tolerance"})
    far = run(*ask, "--tolerance", "0.0001")
    assert (far.code, verdicts(far.json)) == (1, {"wanda": "differs"})
    assert run(*ask, "--tolerance", "0").code == 1
    refused(run(*ask, "--tolerance", "-1"), "--tolerance must be 0 or more")


def test_a_row_is_measured_by_its_own_formula(results: Path, run: Run) -> None:
    """The name says nothing: what is listed as wanda is what its text says."""

    def change(row: ReportRow) -> Mapping[str, Any]:
        return {"text": "noise"} if row.role == "discovered" else {}

    forge(results, change)
    said = run("leaderboard", "--verify", f"{table(results)}/tiny-run", "--results", results)
    assert said.code == 1
    assert "1 differs" in said.out


def test_a_formula_that_is_none_speaks_against_its_row_alone(results: Path, run: Run) -> None:
    def change(row: ReportRow) -> Mapping[str, Any]:
        return {"text": "abs(V)"} if row.name == "magnitude" else {}

    forge(results, change)
    said = run("leaderboard", "--verify", table(results), "--results", results, "--json")
    assert said.code == 1
    told = verdicts(said.json)
    assert told.pop("magnitude") == "differs"
    assert set(told.values()) == {"same"}


def test_a_formula_that_gives_no_mask_speaks_against_its_row_alone(results: Path, run: Run) -> None:
    def change(row: ReportRow) -> Mapping[str, Any]:
        return {"text": "row_sum(abs(W))"} if row.name == "magnitude" else {}

    forge(results, change)
    said = run("leaderboard", "--verify", table(results), "--results", results, "--json")
    told = verdicts(said.json)
    assert (said.code, told.pop("magnitude")) == (1, "differs")
    assert set(told.values()) == {"same"}


def test_another_text_is_refused_and_the_same_elsewhere_is_taken(
    made: Path, results: Path, tmp_path: Path, run: Run
) -> None:
    digest = table(results)
    ask = ("leaderboard", "--verify", f"{digest}/wanda", "--results", results)
    original = (made / "texts" / "text.txt").read_text(encoding="utf-8")
    moved, other = tmp_path / "moved.txt", tmp_path / "other.txt"
    moved.write_text(original, encoding="utf-8")
    other.write_text(original[:-1], encoding="utf-8")
    wanted = rows_of(results)[0].protocol["text_hash"]
    refused(run(*ask, "--text", other), "text_hash", wanted, "--text", "--model", digest)
    assert run(*ask, "--text", moved).code == 0
    refused(run(*ask, "--text", tmp_path / "none.txt"), "no such file", wanted)
    refused(run(*ask, "--calibration", moved), "overlap")


def test_another_model_is_refused_and_the_same_elsewhere_is_taken(
    made: Path, results: Path, tmp_path: Path, run: Run
) -> None:
    digest = table(results)
    ask = ("leaderboard", "--verify", f"{digest}/dense", "--results", results)
    moved = shutil.copytree(made / "tiny", tmp_path / "another-name")
    assert run(*ask, "--model", moved).code == 0
    refused(run(*ask, "--model", "starter"), "model_hash", "--model")
    shutil.rmtree(results / "runs")  # which say where the model lies
    refused(run(*ask), "tiny", rows_of(results)[0].protocol["model_hash"], "--model")


def test_of_all_those_are_verified_that_can_be(results: Path, run: Run) -> None:
    def change(row: ReportRow) -> Mapping[str, Any]:
        if row.protocol["condition"] == "50%":
            return {}
        return {"protocol": {**row.protocol, "text": "gone.txt"}}

    forge(results, change)
    said = run("leaderboard", "--verify", "all", "--results", results, "--json")
    assert said.code == 0, said.err
    gone = [row for row in said.json["rows"] if row["verdict"] == "not verified"]
    assert {row["row"].partition("/")[0] for row in gone} == {table(results, "2:4")}
    assert all("gone.txt" in row["reason"] for row in gone)
    assert len(gone) == 4
    assert said.json["agree"] is False
    assert {row["verdict"] for row in said.json["rows"]} == {"same", "not verified"}


def test_where_nothing_can_be_verified_nothing_agrees(results: Path, run: Run) -> None:
    forge(results, lambda row: {"protocol": {**row.protocol, "text": "gone.txt"}})
    said = run("leaderboard", "--verify", "all", "--results", results, "--json")
    assert said.code == 2
    assert said.err.splitlines()[-1].startswith("autoproxy: no row could be verified here")
    assert said.json["agree"] is False
    assert {row["verdict"] for row in said.json["rows"]} == {"not verified"}


def test_a_ledger_from_the_environment_keeps_nobody_from_verifying(
    results: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPROXY_LEDGER", "elsewhere.sqlite")
    refused(run("leaderboard", "--verify", "zzz", "--results", results), "unknown table")


def test_another_build_is_told_and_its_values_are_compared(results: Path, run: Run) -> None:
    def change(row: ReportRow) -> Mapping[str, Any]:
        return {"protocol": {**row.protocol, "torch": "1.0", "meanings": "0"}}

    forge(results, change)
    said = run("leaderboard", "--verify", f"{table(results)}/wanda", "--results", results, "--json")
    assert (said.code, verdicts(said.json)) == (0, {"wanda": "same"})
    (note,) = said.json["notes"]
    assert "torch 1.0, here" in note
    assert "meanings 0, here" in note


def test_rows_from_before_an_entry_of_the_build_are_compared(results: Path, run: Run) -> None:
    """Rows of results/ say nothing of transformers; they stay, and are measured."""

    def change(row: ReportRow) -> Mapping[str, Any]:
        left = {name: value for name, value in row.protocol.items() if name != "transformers"}
        assert left != row.protocol
        return {"protocol": {**left, "version": 1}}

    forge(results, change)
    said = run("leaderboard", "--verify", f"{table(results)}/wanda", "--results", results, "--json")
    assert (said.code, verdicts(said.json)) == (0, {"wanda": "same"})
    (note,) = said.json["notes"]
    assert "transformers none, here" in note


@pytest.mark.parametrize(
    ("entry", "value"), [("calibration_blocks", 3), ("ties", "highest first"), ("skipped", ["a"])]
)
def test_what_options_cannot_ask_for_is_refused(
    results: Path, run: Run, entry: str, value: Any
) -> None:
    """Values under a protocol that is not the row's would verify nothing."""

    def change(row: ReportRow) -> Mapping[str, Any]:
        return {"protocol": {**row.protocol, entry: value}}

    forge(results, change)
    said = run("leaderboard", "--verify", f"{table(results)}/wanda", "--results", results)
    if entry == "calibration_blocks":  # which can be asked for, and gives other values
        assert (said.code, "1 differs" in said.out) == (1, True)
    else:
        refused(said, entry)


def test_ctrl_c_leaves_what_was_measured(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def show(progress: Any) -> None:
        done.append(progress.done)
        if progress.done == 3:
            raise KeyboardInterrupt

    found = verify(Workspace(results), VerifyOrder(row=table(results)), show)
    assert found["stopped"]
    left = [row for row in found["rows"] if row["verdict"] == "not verified"]
    assert left
    assert all("stopped" in row["reason"] for row in left)
    assert sum(len({v["seed"] for v in row["values"]}) for row in found["rows"]) == 3


def test_ctrl_c_prints_the_table_and_ends_with_130(
    results: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autoproxy.live._PlainLines.__call__", stop)
    said = run("leaderboard", "--verify", table(results), "--results", results)
    assert said.code == 130
    assert "not verified" in said.out
    assert "same" in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--verify", "zzz"], "unknown table"),
        (["--verify", "all", "--ledger", "x.sqlite"], "leave --ledger out"),
        (["--verify", "all", "--text", "a.txt"], "--text is of one table"),
        (["--text", "a.txt"], "add --verify"),
        (["--tolerance", "0"], "add --verify"),
    ],
)
def test_mistakes_are_told(results: Path, run: Run, words: list[str], told: str) -> None:
    refused(run("leaderboard", "--results", results, *words), told)


def test_without_rows_there_is_nothing_to_verify(tmp_path: Path, run: Run) -> None:
    refused(run("leaderboard", "--verify", "all", "--results", tmp_path), "no rows to verify")
    assert list(tmp_path.iterdir()) == []


def test_proxies_are_verified_too(tmp_path: Path, run: Run) -> None:
    """A few of the repository's own rows, on the benchmark that ships."""
    root = Path(__file__).parents[1] / "results" / "reports.jsonl"
    rows = from_lines(root.read_text(encoding="utf-8"), "reports.jsonl")
    few = [r for r in rows if r.name in {"lexicographic", "ridge", "n_layers", "depth"}]
    (tmp_path / "reports.jsonl").write_text(to_lines(few), encoding="utf-8")
    said = run("leaderboard", "--verify", "all", "--results", tmp_path, "--json")
    assert said.code == 0, said.err
    assert verdicts(said.json).keys() == {"lexicographic", "ridge", "depth"}
    assert "not verified" not in verdicts(said.json).values()


def test_differences_are_relative_to_the_larger() -> None:
    assert relative_difference(3.0, 4.0) == relative_difference(4.0, 3.0) == 0.25
    assert relative_difference(math.inf, math.inf) == 0.0
    for one, other in ((math.inf, 5.0), (math.nan, 1.0), (None, 1.0), (1.0, None)):
        assert relative_difference(one, other) == math.inf
    assert relative_difference(-1.0, 1.0) == 2.0
    assert json.loads(json.dumps(relative_difference(0.0, 1.0))) == 1.0
