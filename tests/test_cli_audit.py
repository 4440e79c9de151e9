"""Auditing a run: what it took for one is one, and a merge that is none is found."""

import dataclasses
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from autoproxy.cli import main
from autoproxy.commands.auditing import _Auditor
from autoproxy.evaluation import Measured
from autoproxy.language.parse import parse
from autoproxy.ledger.ledger import Ledger
from autoproxy.ledger.records import Event
from evaluators.pruning import PruningEvaluator
from tests.conformance.toy import ToyEvaluator
from tests.runs import write_run_file
from tests.saying import Run, refused

MERGING = ("repeat", "same-algebra", "same-order", "same-mask")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Do one small run whose slots never draw again, so that much is merged."""
    folder = tmp_path_factory.mktemp("audit")
    path, options = write_run_file(
        folder, run={"random_search": False}, tries=1, first_batch=40, batch=12
    )
    words = ["search", "--config", path, "--results", folder / "results", "--json"]
    assert main([str(word) for word in words]) == 0
    return folder / "results", options


@pytest.fixture
def results(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the results of that run, to be tampered with."""
    return Path(shutil.copytree(done[0], tmp_path / "results"))


def audited(run: Run, results: Path, *words: object) -> dict[str, Any]:
    said = run("audit", "--results", results, "--json", *words)
    assert said.code == 0, said.err
    found: dict[str, Any] = said.json
    return found


def by_rule(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["rule"]: row for row in found["merges"]}


def events_of(results: Path) -> list[Event]:
    with Ledger.open(results / "ledger.sqlite") as ledger:
        return ledger.events("tiny-run")


def forge(results: Path, *forged: Event) -> None:
    with Ledger.open(results / "ledger.sqlite") as ledger:
        for event in forged:
            ledger.append(event)


def test_every_merge_of_a_run_is_counted_and_those_looked_at_are_right(
    results: Path, run: Run
) -> None:
    found = audited(run, results)
    events = events_of(results)
    funnel = Counter(event.rule for event in events)
    assert (found["run"], found["same"], found["proposed"]) == ("tiny-run", "mask", len(events))
    rows = by_rule(found)
    assert list(rows) == [*MERGING, "simplification"]
    assert [row["tier"] for row in rows.values()] == ["key", "order", "fingerprint", "mask", None]
    for rule in MERGING:
        assert rows[rule]["merged"] == funnel[rule]
        assert rows[rule]["compared"] == (0 if rule == "same-mask" else funnel[rule])
    assert rows["repeat"]["merged"] > 3
    assert rows["repeat"]["different"] == 0
    assert rows["repeat"]["low"] == 0.0 < rows["repeat"]["high"] < 1.0
    assert rows["same-mask"]["rate"] is None
    changed = rows["simplification"]
    assert 0 < changed["compared"] == changed["merged"]
    generations = found["freshness"]
    assert sum(one["proposed"] for one in generations) == len(events)
    assert sum(one["kept"] for one in generations) == found["kept"]
    assert found["kept"] == sum(event.fate != "dropped" for event in events)


def test_a_false_merge_is_found_and_both_are_measured(
    done: tuple[Path, dict[str, Any]], results: Path, run: Run
) -> None:
    events = events_of(results)
    kept = next(event for event in events if event.fate == "measured")
    false = dataclasses.replace(
        kept,
        slot=9001,
        key="",
        text=f"neg({kept.text})",
        fate="dropped",
        rule="same-order",
        reason=f"on real rows the same order as slot {kept.slot}",
        same_as=kept.slot,
        fidelity=None,
        value=None,
    )
    true = dataclasses.replace(false, slot=9002, text=f"mul(3, {kept.text})")
    forge(results, false, true)
    before = by_rule(audited(run, done[0]))["same-order"]
    row = by_rule(audited(run, results))["same-order"]
    assert row["compared"] == before["compared"] + 2
    assert row["different"] == before["different"] + 1
    assert 0 < row["median_share"] <= row["largest_share"] <= 1
    (example,) = [e for e in row["examples"] if e["slot"] == 9001]
    assert (example["same_as"], example["other"]) == (kept.slot, kept.text)
    assert example["text"] == f"neg({kept.text})"
    assert example["other_value"] == kept.value
    options = {**done[1], "seed": 3}
    with PruningEvaluator.from_options(options, cache=results / "cache", notice=print) as evaluator:
        pair = parse(kept.text), parse(f"neg({kept.text})")
        assert example["share"] == evaluator.difference(*pair) > 0.1
        (outcome,) = evaluator.measure([pair[1]], 1.0)
        assert isinstance(outcome, Measured)
        assert example["value"] == outcome.value
    said = run("audit", "--results", results)
    assert said.code == 0
    assert f"same-order: slot 9001 neg({kept.text})" in said.out
    assert "New proposals" in said.out


def test_a_rewrite_that_changes_masks_is_told_of(results: Path, run: Run) -> None:
    kept = next(event for event in events_of(results) if event.fate == "measured")
    # Beside a large number rounding ties most weights; the simpler form has no such ties.
    rounded = dataclasses.replace(
        kept,
        slot=9001,
        key="",
        text="add(1e6, abs(W))",
        fate="dropped",
        rule="distorting",
        reason="its distortion is 9 times that of a good metric",
        fidelity=None,
        value=None,
    )
    forge(results, rounded)
    row = by_rule(audited(run, results, "--sample", 1000))["simplification"]
    examples = {example["slot"]: example for example in row["examples"]}
    assert row["different"] >= 1
    assert (examples[9001]["text"], examples[9001]["other"]) == ("add(1e+06, abs(W))", "abs(W)")


def test_the_sample_is_bounded_and_drawn_by_its_seed(results: Path, run: Run) -> None:
    few = by_rule(audited(run, results, "--sample", 2))
    assert few["repeat"]["compared"] == 2 < few["repeat"]["merged"]
    assert few["simplification"]["compared"] == 2
    again = audited(run, results, "--sample", 2)
    assert by_rule(again) == few
    assert by_rule(audited(run, results, "--sample", 2, "--seed", 1)).keys() == few.keys()


def test_what_cannot_be_audited_is_refused(results: Path, run: Run) -> None:
    refused(run("audit", "tiny-rum", "--results", results), "tiny-run")
    refused(run("audit", "--sample", 0, "--results", results), "--sample")
    path = results / "runs" / "tiny-run" / "run.toml"
    path.write_text(path.read_text().replace("calibration_blocks = 4", "calibration_blocks = 3"))
    refused(run("audit", "--results", results), "calibration_blocks", "cannot be audited")


def test_a_run_without_its_ledger_is_refused_and_none_is_made(results: Path, run: Run) -> None:
    """A clone of a repository has runs and no ledger."""
    shutil.rmtree(results / "cache")
    (results / "ledger.sqlite").unlink()
    before = sorted(results.rglob("*"))
    refused(run("audit", "--results", results), "there is no ledger at", "--ledger PLACE")
    assert sorted(results.rglob("*")) == before


def test_where_only_texts_are_merged_nothing_was_made_simpler(tmp_path: Path, run: Run) -> None:
    path, _ = write_run_file(
        tmp_path, run={"random_search": False}, tries=1, first_batch=30, same="text"
    )
    results = tmp_path / "results"
    assert run("search", "--config", path, "--results", results, "--json").code == 0
    found = audited(run, results)
    assert found["same"] == "text"
    rows = by_rule(found)
    assert rows["repeat"]["tier"] == "text"
    assert rows["repeat"]["different"] in {None, 0}
    assert all(rows[rule]["merged"] == 0 for rule in (*MERGING[1:], "simplification"))


def test_an_evaluator_that_tells_no_shares_is_asked_for_its_hashes(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        evaluator: Any = ToyEvaluator()
        auditor = _Auditor(ledger, evaluator, lambda _: None, 1)
        assert auditor._share(parse("abs(W)"), parse("square(W)")) == 0.0
        assert auditor._share(parse("abs(W)"), parse("neg(abs(W))")) == 1.0
