"""The archive: every formula that a run measured, in the order of proposals, and the best first."""

import csv
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from autoproxy.cli import main
from tests.runs import write_run_file
from tests.saying import Run, refused


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    run_file, _ = write_run_file(folder, run={"random_search": False})
    assert main(["search", "--config", str(run_file), "--results", str(folder / "results")]) == 0
    return folder / "results"


def test_the_archive_is_all_that_was_measured(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all.csv"
    words = ["archive", "--results", str(results), "--out", str(out), "--json", "--top", "3"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with sqlite3.connect(results / "ledger.sqlite") as ledger:
        query = "SELECT slot, text, value, fate FROM events WHERE value IS NOT NULL ORDER BY slot"
        known = ledger.execute(query).fetchall()
    assert [(int(r["slot"]), r["text"], float(r["value"]), r["fate"]) for r in rows] == known
    assert said["measured"] == len(known) > said["in_full"] > 0
    assert {row["text"]: row["rungs"] for row in rows} == cheap_values(results, rows)
    assert any(row["rungs"] for row in rows if row["fate"] == "measured")
    full = sorted(value for _, _, value, fate in known if fate == "measured")
    assert [row["value"] for row in said["best"]] == full[:3]
    assert main(["archive", "--results", str(results)]) == 0
    assert "in full" in capsys.readouterr().out


def cheap_values(results: Path, rows: list[dict[str, str]]) -> dict[str, str]:
    """Return what the ledger's table has of each formula below full fidelity, in words."""
    with sqlite3.connect(results / "ledger.sqlite") as ledger:
        query = "SELECT fidelity, value FROM evaluations WHERE text = ? ORDER BY fidelity"
        found = {row["text"]: ledger.execute(query, (row["text"],)).fetchall() for row in rows}
    return {
        text: " ".join(f"{fidelity!r}:{value!r}" for fidelity, value in values if fidelity < 1)
        for text, values in found.items()
    }


def test_a_clone_without_the_ledger_shows_the_same(results: Path, tmp_path: Path, run: Run) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(results, clone, ignore=shutil.ignore_patterns("ledger.sqlite*", "cache"))
    out = tmp_path / "all.csv"
    words = ["archive", "--json", "--out", out, "--results"]
    whole = run(*words, results)
    before = out.read_bytes()
    for ledger in ("", "lost.sqlite"):
        if ledger:
            (clone / "runs" / "tiny-run" / "ledger.txt").write_text(f"{ledger}\n", "utf-8")
        said = run(*words, clone)
        assert (said.code, said.json) == (0, whole.json), said.err
        assert out.read_bytes() == before
    assert not list(clone.glob("*.sqlite*"))
    refused(run("archive", "--top", "-3", "--results", results), "--top")
    (tmp_path / "file").touch()
    said = run("archive", "--results", results, "--out", tmp_path / "file" / "a.csv")
    refused(said, "cannot be written", "choose another --out")


def test_where_large_is_good_the_largest_come_first(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = "UPDATE runs SET config = json_set(config, '$.direction', ?)"
    with sqlite3.connect(results / "ledger.sqlite") as ledger:
        ledger.execute(change, ("max",))
    assert main(["archive", "--results", str(results), "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    full = [row["value"] for row in best if row["fidelity"] == 1]
    assert full == sorted(full, reverse=True)


def test_a_run_that_is_not_there_is_told_so(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["archive", "tiny-rum", "--results", str(results)]) != 0
    assert "did you mean 'tiny-run'" in capsys.readouterr().err
