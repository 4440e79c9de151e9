"""The command line: every command from a tiny model to a leaderboard, and every way to err."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import sqlalchemy as sa
import torch
from filelock import FileLock

from autoproxy import plugins
from autoproxy.cli import main
from autoproxy.cli_common import present
from autoproxy.commands import loading
from autoproxy.commands.progress import Clock
from autoproxy.commands.workspace import to_toml
from autoproxy.export.manifest import read_json
from autoproxy.language.parse import parse
from autoproxy.language.program import Program
from autoproxy.ledger.schema import SCHEMA_VERSION
from evaluators.methods import METHODS
from evaluators.prediction import PredictionEvaluator
from search_spaces.importance import BASELINES, SPACE
from tests.autoproxy.export.drawn import arguments, inputs
from tests.evaluators.tiny import edit_json
from tests.runs import (
    EVALUATORS,
    SEARCH,
    SPACES,
    flags,
    outcome_of_run,
    rows,
    summary_of,
    write_run_file,
)
from tests.saying import Run, Said, refused

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "sympy", "deap", "sqlalchemy", "numpy", "scipy", "optuna")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with a tiny model, its texts, a run file, and the results of that run."""

    folder: Path
    run_file: Path
    results: Path
    options: dict[str, Any]

    @property
    def evaluate(self) -> list[str]:
        """Options that `evaluate` takes too."""
        foreign = {"validation", "validation_blocks", "confirm_blocks"}
        return flags({name: v for name, v in self.options.items() if name not in foreign})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Do one whole run, which many tests then look at."""
    folder = tmp_path_factory.mktemp("cli")
    run_file, options = write_run_file(folder)
    results = folder / "results"
    assert main(["search", "--config", str(run_file), "--results", str(results), "--json"]) == 0
    return Place(folder, run_file, results, options)


TURNS = """
import json, sys
from autoproxy.cli import main
for words in json.loads(sys.argv[1]):
    code = main(words)
    for stream in (sys.stdout, sys.stderr):
        print(f"<{code}>", file=stream, flush=True)
"""


@pytest.fixture(scope="module")
def spoken(place: Place, tmp_path_factory: pytest.TempPathFactory) -> list[Said]:
    """What a process says that evaluates a model that lacks a layer, and then one that is whole."""
    folder = tmp_path_factory.mktemp("process")
    evaluate = ["evaluate", *place.evaluate, "--results", str(folder / "r"), "--json", "--baseline"]
    broken = [*evaluate, "wanda", "--model", str(broken_model(place, folder, "deeper"))]
    done = subprocess.run(
        [sys.executable, "-c", TURNS, json.dumps([broken, [*evaluate, "magnitude"]])],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )
    outs, errs = (re.split(r"<(\d+)>\n", stream) for stream in (done.stdout, done.stderr))
    assert outs[1::2] == errs[1::2]
    return [Said(int(c), o, e) for c, o, e in zip(outs[1::2], outs[::2], errs[::2], strict=False)]


# --- the way from a model to a leaderboard -----------------------------------------------------


def test_a_run_leaves_all_that_it_promises(place: Place) -> None:
    found = outcome_of_run(place.results)
    summary = found["summary"]
    folder = place.results / "runs" / "tiny-run"
    assert {path.name for path in folder.iterdir()} >= {
        "run.toml",
        "summary.json",
        "hall_of_fame.json",
        "manifest.json",
    }
    assert {"metrics/tiny_run.py", "metrics/tiny_run.json"} <= set(found)
    assert not list(place.results.rglob("*.part"))
    assert summary["search"]["spent"] >= SEARCH["evaluations"]
    assert summary["random_search"]["spent"] >= SEARCH["evaluations"]
    assert sum(summary["funnel"].values()) == 2 * summary["funnel"]["proposed"]
    assert {row["name"] for row in summary["reports"][0]["entries"]} >= {
        "dense",
        "wanda",
        "magnitude",
        "random",
        "tiny-run",
        "tiny-run.random",
    }
    values = [row["value"] for row in summary["front"]]
    assert values == sorted(values, reverse=True)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for word in ("packages", "python", "platform", "commit", "space_hash", "config", "protocol"):
        assert word in manifest
    assert manifest["threads"] == 1  # which may decide a last bit, and is no part of the protocol
    assert "threads" not in manifest["protocol"]


def test_the_same_run_file_gives_the_same_run_elsewhere(place: Place, run: Run) -> None:
    """Another folder, another day: the same formula, the same numbers, the same files."""
    results = place.folder / "again"
    said = run("search", "--config", place.run_file, "--results", results)
    assert said.code == 0
    assert outcome_of_run(results) == outcome_of_run(place.results)
    winner = outcome_of_run(results)["summary"]["winner"]
    assert winner["formula"] in said.out
    for stage in ("statistics", "baselines", "search", "random search", "finals", "report"):
        assert any(line.startswith(stage) for line in said.err.splitlines()), stage
    for word in ("Funnel", "Front", "Hand-made", "Report", "Winner", "wanda", "measured"):
        assert word in said.out, word


def test_a_terminal_of_usual_width_shows_every_word(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["resume", "--results", str(place.results)]) == 0
    shown = capsys.readouterr().out
    for word in ("proposed", "same-algebra", "measured", "wanda-sqrt", "perplexity", "magnitude"):
        assert word in shown, word
    assert max(map(len, shown.splitlines())) <= 80


def test_flags_say_more_than_the_run_file(place: Place, run: Run) -> None:
    results = place.folder / "flags"
    said = run(
        *("search", "--config", place.run_file, "--results", results, "--json"),
        *("--seed", 9, "--evaluations", 3, "--no-random-search", "--pattern", "2:4"),
        *("--name", "other", "--report-seeds", 2, "--strategy", "random", "--group", "matrix"),
    )
    assert said.code == 0
    summary = said.json
    assert summary["random_search"] is None
    assert summary["run"] == "other"
    assert summary["protocol"]["condition"] == "2:4"
    assert summary["protocol"]["seed"] == 9
    assert 3 <= summary["search"]["spent"] < 4
    assert {row["seeds"] for row in summary["reports"][0]["entries"] if row["role"] != "dense"} == {
        2
    }
    assert said.err == ""


def test_the_report_has_the_best_by_hand_beside_the_known(place: Place, run: Run) -> None:
    """By their values in validation, those of one value once; the flags ask for fewer."""

    def reported(summary: Any) -> set[str]:
        return {
            row["name"] for row in summary["reports"][0]["entries"] if row["role"] == "baseline"
        }

    known = {baseline.name for baseline in BASELINES if baseline.reported}
    summary = summary_of(place.results)
    values = {row["name"]: row["value"] for row in summary["baselines"] if row["value"] is not None}
    best = sorted(set(values.values()))[:3]
    assert reported(summary) >= known
    assert {values[name] for name in reported(summary)} >= set(best)
    assert len(reported(summary)) <= len(known) + 3
    said = run(
        *("search", "--config", place.run_file, "--results", place.folder / "few", "--json"),
        *("--no-random-search", "--report-best", 2, "--no-report-known"),
    )
    assert said.code == 0
    few = reported(said.json)
    assert sorted(values[name] for name in few) == best[:2]
    board = (place.folder / "few" / "leaderboard.md").read_text(encoding="utf-8")
    assert ("| wanda |" in board) == ("wanda" in few)


def test_resuming_what_is_done_measures_nothing_and_says_the_same(place: Place, run: Run) -> None:
    before = outcome_of_run(place.results)
    said = run("resume", "--results", place.results, "--json")
    assert said.code == 0
    assert outcome_of_run(place.results) == before
    assert said.json["search"]["recalled"] > 0
    assert said.json["winner"] == before["summary"]["winner"]
    assert run("resume", "tiny-run", "--results", place.results, "--json").code == 0


@pytest.mark.parametrize(("calls", "begun"), [(25, 1), (51, 2)])
def test_an_interrupted_run_says_how_to_go_on(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, calls: int, begun: int
) -> None:
    """In its search, and in the random search that is its companion."""
    from evaluators.pruning import PruningEvaluator

    measure = PruningEvaluator.measure
    left = [calls]

    def interrupted(self: Any, expressions: Any, fidelity: float) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return measure(self, expressions, fidelity)

    with monkeypatch.context() as patch:
        patch.setattr(PruningEvaluator, "measure", interrupted)
        said = run("search", "--config", place.run_file, "--results", tmp_path)
    assert said.code == 130
    go_on = f"autoproxy resume tiny-run --results {tmp_path}"
    assert said.err.splitlines()[-1] == f"autoproxy: stopped; go on with: {go_on}"
    assert "Traceback" not in said.err
    assert [row[-1] for row in rows(tmp_path / "ledger.sqlite")["runs"]] == ["interrupted"] * begun
    said = run("export", "tiny-run", "--results", tmp_path)
    assert said.code == 2
    assert "is not done, so it has no winner; go on: autoproxy resume tiny-run" in said.err
    began, made = loading.manifest(SPACE), loading.manifest
    with monkeypatch.context() as patch:
        patch.setattr(loading, "manifest", lambda space: {**made(space), "commit": "later"})
        assert run("resume", "--results", tmp_path).code == 0
    assert outcome_of_run(tmp_path) == outcome_of_run(place.results)
    told = read_json(tmp_path / "runs" / "tiny-run" / "manifest.json")
    assert told["commit"] == began["commit"]
    assert told["ended_with"] == {"commit": "later"}
    assert "ended_with" not in read_json(place.results / "runs" / "tiny-run" / "manifest.json")


@pytest.mark.parametrize(
    ("statement", "times"),
    [("INSERT INTO runs", 1), ("INSERT INTO evaluations", 20), ("INSERT INTO steps", 1)],
)
def test_a_signal_amid_a_transaction_interrupts_after_it(
    place: Place, run: Run, tmp_path: Path, statement: str, times: int
) -> None:
    """It comes where the statement is done, and the library is about to commit it."""
    commits = contextlib._GeneratorContextManager.__exit__.__code__
    left = [times]

    def end(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is commits:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGTERM)

    def executed(*words: Any) -> None:
        left[0] -= words[2].startswith(statement)
        if words[2].startswith(statement) and left[0] == 0:
            sys.setprofile(end)

    sa.event.listen(sa.Engine, "after_cursor_execute", executed)
    try:
        said = run("search", "--config", place.run_file, "--results", tmp_path)
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", executed)
        sys.setprofile(None)
    assert (said.code, left[0]) == (130, 0), said
    go_on = f"autoproxy resume tiny-run --results {tmp_path}"
    assert said.err.splitlines()[-1] == f"autoproxy: stopped; go on with: {go_on}"
    found = rows(tmp_path / "ledger.sqlite")
    assert {row[-1] for row in found["runs"]} == {"interrupted"}
    assert run("resume", "--results", tmp_path).code == 0
    assert outcome_of_run(tmp_path) == outcome_of_run(place.results)


def hours_ahead(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a number in a list: by so many hours the clock is ahead from now on."""
    hours = [0]
    made = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: made() + 3600 * hours[0])
    return hours


def test_the_time_of_a_run_is_that_of_its_whole_life(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An hour passes with every measurement; so does each before and after an interruption."""
    from evaluators.pruning import PruningEvaluator

    hours = hours_ahead(monkeypatch)
    measure = PruningEvaluator.measure

    def slow(self: Any, expressions: Any, fidelity: float) -> Any:
        hours[0] += 1
        if hours[0] in (3, 25, 30):  # among the baselines, in the search, in what comes after
            raise KeyboardInterrupt
        return measure(self, expressions, fidelity)

    def spent() -> dict[str, float]:
        connection = sqlite3.connect(tmp_path / "ledger.sqlite")
        found = dict(connection.execute("SELECT run, seconds FROM runs"))
        connection.close()
        return found

    monkeypatch.setattr(PruningEvaluator, "measure", slow)
    assert run("search", "--config", place.run_file, "--results", tmp_path).code == 130
    for interrupted in (3, 25, 30):
        assert hours[0] == interrupted
        assert spent()["tiny-run"] == pytest.approx(3600 * hours[0], abs=600)
        code = run("resume", "--results", tmp_path).code
    assert code == 0
    summary = summary_of(tmp_path)
    assert summary["seconds"] == pytest.approx(3600 * hours[0], abs=600)
    found = spent()
    assert found["tiny-run"] == pytest.approx(3600 * hours[0], abs=600)
    assert 0 < found["tiny-run.random"] < found["tiny-run"] - 3600 * 20  # its own alone


def test_a_search_that_time_ended_is_over_when_what_follows_was_interrupted(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An hour passes with every measurement, and the search has thirty."""
    from autoproxy.commands import session
    from evaluators.pruning import PruningEvaluator

    hours = hours_ahead(monkeypatch)
    measure, finals = PruningEvaluator.measure, session.finalists
    searched: list[int] = []

    def slow(self: Any, expressions: Any, fidelity: float) -> Any:
        hours[0] += 1
        return measure(self, expressions, fidelity)

    def told(*words: Any) -> Any:
        searched.append(hours[0])
        if len(searched) == 1:
            raise KeyboardInterrupt
        return finals(*words)

    monkeypatch.setattr(PruningEvaluator, "measure", slow)
    monkeypatch.setattr(session, "finalists", told)
    words = ("--evaluations", 500, "--minutes", 30 * 60, "--no-random-search")
    said = run("search", "--config", place.run_file, "--results", tmp_path, *words)
    assert (said.code, len(searched)) == (130, 1), said
    assert run("resume", "--results", tmp_path).code == 0
    assert searched[1] == searched[0]
    summary = summary_of(tmp_path)
    assert summary["search"]["stopped"] == "the time is up"


def test_a_finalist_without_a_finite_loss_does_not_win_and_ends_nothing(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from evaluators.pruning import PruningEvaluator

    confirm, asked = PruningEvaluator.confirm, []
    best = summary_of(place.results)["winner"]["text"]

    def overflowing(self: Any, expression: Any) -> tuple[float, ...]:
        asked.append(str(expression))
        return (math.inf, 1.0) if str(expression) == best else confirm(self, expression)

    monkeypatch.setattr(PruningEvaluator, "confirm", overflowing)
    words = ("search", "--config", place.run_file, "--results", tmp_path)
    assert run(*words).code == 0
    assert best in asked
    summary = summary_of(tmp_path)
    assert summary["winner"]["text"] != best
    assert len(summary["finalists"]) == SEARCH["finalists"] - 1
    written = (tmp_path / "runs" / "tiny-run" / "summary.json").read_text()
    json.loads(written, parse_constant=pytest.fail)  # infinity is no JSON
    monkeypatch.setattr(PruningEvaluator, "confirm", lambda *_: (math.nan,))
    said = run(*words, "--name", "hopeless", "--seed", 5)
    assert said.code == 2
    assert "has a finite loss on the fresh blocks" in said.err


def test_a_bug_keeps_its_traceback_and_its_run(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from autoproxy.commands import session

    def bug(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(session, "finalists", bug)
        with pytest.raises(ZeroDivisionError):
            run("search", "--config", place.run_file, "--results", tmp_path)
    assert run("resume", "--results", tmp_path).code == 0
    assert outcome_of_run(tmp_path) == outcome_of_run(place.results)


def test_the_leaderboard_is_made_anew(place: Place, run: Run) -> None:
    before = (place.results / "leaderboard.md").read_bytes()
    (place.results / "leaderboard.md").unlink()
    said = run("leaderboard", "--results", place.results, "--json")
    assert said.code == 0
    assert (place.results / "leaderboard.md").read_bytes() == before
    assert any(row["name"] == "tiny-run" for g in said.json["groups"] for row in g["entries"])
    said = run("leaderboard", "--results", place.results)
    assert "tiny-run" in said.out
    assert "leaderboard.md" in said.out


def test_the_exported_winner_is_what_was_measured(place: Place, run: Run, tmp_path: Path) -> None:
    summary = outcome_of_run(place.results)["summary"]
    expression = parse(summary["winner"]["text"])
    printed = run("export", "--results", place.results)
    written = run("export", "tiny-run", "--results", place.results, "--out", tmp_path / "m.py")
    assert printed.code == written.code == 0
    assert written.out == f"wrote {tmp_path / 'm.py'}\n"
    source = (tmp_path / "m.py").read_text(encoding="utf-8")
    assert source == printed.out
    assert source == (place.results / "metrics" / "tiny_run.py").read_text(encoding="utf-8")
    module = types.ModuleType("m")
    exec(compile(source, "m.py", "exec"), module.__dict__)  # noqa: S102 - what was just exported
    (expected,) = Program([expression]).run(dict(inputs()))
    assert torch.equal(module.tiny_run(*arguments(expression, inputs())), expected)
    for words in ("source run: tiny-run", "model_hash", "nats (kl)"):
        assert words in source


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("infix", "abs(W) * x_norm\n"),
        ("latex", "\\left|W\\right| \\cdot \\lVert X_j\\rVert\n"),
        ("sympy", "x_norm*Abs(W)\n"),
    ],
)
def test_forms(run: Run, tmp_path: Path, form: str, expected: str) -> None:
    said = run("export", "wanda", "--form", form, "--results", tmp_path)
    assert (said.code, said.out, said.err) == (0, expected, "")
    out = tmp_path / "formula.txt"
    assert run("export", "wanda", "--form", form, "--results", tmp_path, "--out", out).code == 0
    assert out.read_text(encoding="utf-8") == expected


def test_a_metric_goes_through_its_json_file(place: Place, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "winner.json"
    assert run("export", "--form", "json", "--out", path, "--results", place.results).code == 0
    of_file = run("explain", path, "--results", tmp_path, "--json").json
    of_run = run("explain", "tiny-run", "--results", place.results, "--json").json
    assert {**of_file, "name": ""} == {**of_run, "name": ""}
    assert of_file["source run"] == "tiny-run"


@pytest.mark.parametrize(
    "words",
    [
        ("search", "--space", "heads", "--evaluations", 1),
        (
            *("search", "--space", "heads", "--evaluations", 1),
            *("--condition", "sparsity=0.5", "--condition", "sparsity=0.6"),
        ),
        ("enumerate", "--space", "blocks", "--size", 1, "--audit", 0),
        ("evaluate", "--space", "heads", "--metric", "flap-wifv", "--text-blocks", 1),
        ("evaluate", "--space", "blocks", "--metric", "1", "--text-blocks", 1),
    ],
)
def test_formulas_of_a_kind_that_an_evaluator_does_not_rate_are_refused(
    words: tuple[str | int, ...], run: Run, tmp_path: Path
) -> None:
    """One number an input makes masks of weights, too, which mean nothing."""
    said = run(*words, "--results", tmp_path)
    refused(said, "evaluator rates Weight", "--evaluator shrinking --unit heads")
    assert not (tmp_path / "runs").exists()


def test_a_text_without_a_name_is_refused(run: Run, tmp_path: Path) -> None:
    """A shell's variable that was never set had stood for every .txt file where one was."""
    for flag in ("--text", "--calibration"):
        said = run("evaluate", "--baseline", "wanda", flag, "", "--results", tmp_path)
        refused(said, "the name of a text is empty")


def test_a_flag_and_a_setting_that_say_different_things_are_refused(
    run: Run, tmp_path: Path
) -> None:
    words = ("search", "--results", tmp_path, "--seed", 2, "--evaluations", 0)
    refused(run(*words, "--set", "seed=1"), "--seed asks for 2 and --set seed for 1")
    refused(run(*words, "--set", "seed=2"), "evaluations")  # the next mistake: these agree


def test_only_a_full_disk_is_told_to_be_emptied(run: Run, tmp_path: Path) -> None:
    said = run("export", "wanda", "--out", tmp_path, "--results", tmp_path)
    refused(said, "Is a directory; choose another --out")


def test_explain_says_what_a_metric_is(run: Run, tmp_path: Path) -> None:
    said = run("explain", "square(W) * square(x_norm)", "--results", tmp_path, "--json")
    assert said.code == 0
    assert said.json["kind"] == "Weight"
    assert "wanda" in said.json["same_row_order_as"]
    assert {row["name"] for row in said.json["inputs"]} == {"W", "x_norm"}
    # In floats it is 1 for nearly every weight: what simplification drops is no equal order.
    flat = run("explain", "tanh(mul(1000, abs(W)))", "--results", tmp_path, "--json").json
    assert flat["same_row_order_as"] == []
    plain = run("explain", "wanda", "--results", tmp_path)
    for word in ("mul(abs(W), x_norm)", "Sun et al.", "complexity", "latex"):
        assert word in plain.out, word


def test_explain_compares_with_what_is_of_its_kind(run: Run, tmp_path: Path) -> None:
    def explained(*words: str) -> Any:
        return run("explain", *words, "--results", tmp_path, "--json").json

    snip = "layers_sum(all_sum(abs(W * g)))"
    assert "snip" in explained(snip)["same_network_order_as"]
    assert explained("synflow")["kind"] == "Model"
    assert explained(snip, "--space", "importance")["same_network_order_as"] == []
    # A name that several spaces have stays that of the space importance.
    assert explained("snip")["kind"] == "Weight"
    assert explained("abs(W)", "--space", "prediction")["same_row_order_as"] == []


def test_evaluate_measures_what_the_report_measured(place: Place, run: Run) -> None:
    summary = outcome_of_run(place.results)["summary"]
    known = {row["name"]: row for row in summary["reports"][0]["entries"]}
    seed = SEARCH["seed"]
    said = run(
        *("evaluate", "--baseline", "wanda", *place.evaluate, "--seed", seed, "--json"),
        *("--results", place.folder / "evaluate"),
    )
    assert said.code == 0
    assert said.json["perplexity"] == known["wanda"]["perplexity"]
    assert said.json["kl"] == known["wanda"]["kl"]
    assert said.json["dense_perplexity"] == known["dense"]["perplexity"]
    assert said.json["protocol"] == summary["reports"][0]["protocol"]
    winner = run(
        *("evaluate", "--metric", summary["winner"]["formula"], *place.evaluate, "--json"),
        *("--seed", seed, "--results", place.folder / "evaluate"),
    )
    assert winner.json["perplexity"] == known["tiny-run"]["perplexity"]
    assert winner.json["text"] == summary["winner"]["text"]
    table = run(
        *("evaluate", "--baseline", "wanda", *place.evaluate, "--seed", seed),
        *("--results", place.folder / "evaluate"),
    )
    assert f"{said.json['perplexity']:.4f}" in table.out


def test_list_and_doctor(place: Place, run: Run) -> None:
    listed = run("list", "--results", place.results, "--json").json
    assert listed["spaces"] == SPACES
    assert listed["evaluators"] == EVALUATORS
    assert listed["runs"] == ["tiny-run"]
    assert "wanda" in {row["name"] for row in listed["baselines"]}
    assert all(row["meaning"] and row["unit"] for row in listed["terminals"])
    assert all(row["meaning"] for row in listed["primitives"])
    shown = run("list", "--results", place.results)
    assert all(word in shown.out for word in ("x_norm", "row_zscore", "wanda", "tiny-run"))
    healthy = run("doctor", "--results", place.results, "--json")
    assert healthy.code == 0
    assert healthy.json["healthy"]
    assert {check["name"] for check in healthy.json["checks"]} >= {"torch", "starter model"}
    assert "ok" in run("doctor", "--results", place.results).out


def test_list_names_every_method_with_its_evaluator_and_its_source(
    run: Run, tmp_path: Path
) -> None:
    """All that `--baseline` or `--proxy` takes is there: hand-made formulas, and these."""
    asked = ("list", "--results", tmp_path)
    listed = run(*asked, "--json").json["methods"]
    wanted = {("pruning", name, method.source) for name, method in METHODS.items()}
    wanted |= {("prediction", *item) for item in PredictionEvaluator.methods().items()}
    assert {(row["evaluator"], row["name"], row["source"]) for row in listed} == wanted
    assert len(listed) == len(wanted)
    shown = run(*asked).out
    assert all(re.search(rf" {name} +│ {evaluator} ", shown) for evaluator, name, _ in wanted)


def test_a_broken_plug_in_is_named_and_stops_no_one_else(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is installed as any other, and dies of its own code when it is imported."""
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n", "utf-8")
    points = "[autoproxy.evaluators]\nbroken = broken_plug_in:E\n"
    points += "[autoproxy.search_spaces]\nlame = broken_plug_in:S\n"
    (info / "entry_points.txt").write_text(points, "utf-8")
    (tmp_path / "broken_plug_in.py").write_text("import sys\n\nsys.nothing()\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._installed.cache_clear()
    try:
        said = run("doctor", "--results", tmp_path)
        listed = run("list", "--results", tmp_path, "--json")
        explained = run("explain", "wanda", "--results", tmp_path)
        asked = run("list", "--space", "lame", "--results", tmp_path)
    finally:
        plugins._installed.cache_clear()
    assert said.code == 1
    assert "cannot load space 'lame', which is broken_plug_in:S: AttributeError" in said.out
    assert "broken_plug_in.py, line 3" in said.out
    assert "broken" in listed.json["evaluators"]
    assert {row["evaluator"] for row in listed.json["methods"]} == {"pruning", "prediction"}
    assert explained.code == 0
    refused(asked, "cannot load space 'lame'", "AttributeError", "line 3")


def test_doctor_names_what_is_wrong(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    said = run("doctor", "--results", tmp_path / "file")
    assert said.code == 1
    assert re.search(r"wrong\s+results folder: .*cannot be written", said.out)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "in the way"


# --- processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["search", "--help"], ["evaluate", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom autoproxy.cli import main\n"
        f"assert main({words!r}) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr == "[]\n"
    assert "Usage" in done.stdout


def test_the_commands_and_options_are_those_of_the_design(run: Run) -> None:
    said = run("--help")
    assert said.code == 0
    for command in ("search", "resume", "evaluate", "explain", "export", "leaderboard", "list"):
        assert f"\n  {command} " in said.out
        shown = run(command, "--help")
        assert shown.code == 0
        assert "--results" in shown.out
    assert run().code == 2


def test_as_a_process_it_says_the_result_alone_on_standard_output(spoken: list[Said]) -> None:
    said = spoken[1]
    assert said.code == 0, said.err
    assert said.json["metric"] == "magnitude"
    assert "Traceback" not in said.err


def test_json_has_null_for_what_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": math.inf, "b": [math.nan, 1.5, ({"c": -math.inf},)], "d": None, "e": True}
    present(value, True, lambda *_: None)
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"a": None, "b": [None, 1.5, [{"c": None}]], "d": None, "e": True}


# --- what the user can mend --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["search", "--evaluatoins", "3"], ["No such option: --evaluatoins", "--evaluations"]),
        (["serch"], ["No such command 'serch'", "search"]),
        (["search", "--evaluations", "many"], ["--evaluations", "number"]),
        (["search", "--evaluations", "0"], ["evaluations must lie in [1, 1e+09], got 0"]),
        (["search", "--strategy", "evolv"], ["'evolv'; did you mean 'evolve'?"]),
        (["search", "--selection", "nsga3"], ["'nsga3'; did you mean 'nsga2'?"]),
        (["search", "--population", "1"], ["population must lie in [2, 100000], got 1"]),
        (["search", "--seed", "1000000000000001"], ["Invalid value for '--seed'"]),
        (["search", "--set", "seed=9223372036854775808"], ["seed must lie in [0, 1e+15]"]),
        (["evaluate", "--seed", "18446744073709551616"], ["Invalid value for '--seed'"]),
        (["prune", "x", "--out", "y", "--seed", "-1"], ["Invalid value for '--seed'"]),
        (["search", "--report-seeds", "0"], ["report_seeds must lie in [1, 1000], got 0"]),
        (["search", "--report-best", "-1"], ["report_best must be at least 0, got -1"]),
        (["search", "--space", "importanse"], ["'importanse'; did you mean 'importance'?"]),
        (["search", "--space", "nowhere:SPACE"], ["cannot load space 'nowhere:SPACE'"]),
        (["search", "--space", "search_spaces.importance:SPCE"], ["cannot load space", "SPCE"]),
        (
            ["list", "--space", "./myspace.py:SPACE"],
            ["module:ATTRIBUTE", "myspace:SPACE", "no .py"],
        ),
        (["list", "--space", "my space:"], ["module:ATTRIBUTE"]),
        (["search", "--space", "search_spaces.importance:BASELINES"], ["is no SearchSpace"]),
        (["search", "--evaluator", "prunning"], ["'prunning'; did you mean 'pruning'?"]),
        (["search", "--evaluator", "search_spaces.importance:SPACE"], ["no from_options"]),
        (["search", "--config", "missing.toml"], ["there is no file missing.toml"]),
        (["explain", ""], ["the expression is empty"]),
        (["explain", "abs(W"], ["at character 4", "'(' was never closed"]),
        (["explain", "abs(W, g)"], ["at character 1", "takes 1 operand(s), got 2"]),
        (["explain", "W + abs"], ["at character 5", "needs 1 operand(s)"]),
        (["explain", "mul(abs(W), x_nrom)"], ["at character 13", "did you mean 'x_norm'?"]),
        (["explain", "mull(W, g)"], ["unknown primitive 'mull'; did you mean 'mul'?"]),
        (["explain", "__import__('os').system('x')"], ["malformed expression at character"]),
        (["explain", "pow(W, g)"], ["the exponent of 'pow' is a number from -4 to 4"]),
        (["explain", "pow(W, 99)"], ["from -4 to 4", "99"]),
        (["explain", "row_sum(x_norm)"], ["'row_sum' does not take (PerInput)", "(Weight)"]),
        (["explain", "W * 1e99"], ["at character 5", "finite in float32"]),
        (["explain", "(" * 500 + "W" + ")" * 500], ["malformed"]),
        (["explain", "W" * 20_000], ["20000 characters", "10000"]),
        (["explain", "wnada"], ["unknown metric 'wnada'; did you mean 'wanda'?"]),
        (["explain", "sparsegpt"], ["'sparsegpt' is a method", "so it has no formula", "prune"]),
        (["explain", "sparsgpt"], ["unknown metric 'sparsgpt'; did you mean 'sparsegpt'?"]),
        (["export", "dsnot"], ["'dsnot' is a method", "so it has no formula", "--baseline NAME"]),
        (["explain", "missing.json"], ["there is no file missing.json"]),
        (["explain", "wanda", "--space", "channelz"], ["did you mean 'channels'?"]),
        (["export", "wanda", "--form", "latx"], ["'latx'; did you mean 'latex'?"]),
        (["export", "wanda", "--name", "class"], ["'class' cannot name a function"]),
        (["export", "add(1, 2)"], ["reads nothing of a layer"]),
        (["export"], ["there is no run in", "autoproxy search"]),
        (["resume"], ["there is no run in", "autoproxy search"]),
        (["evaluate"], ["give either --metric", "or --baseline"]),
        (["evaluate", "--metric", "W", "--baseline", "wanda"], ["give either --metric"]),
        (["evaluate", "--baseline", "wnada"], ["'wnada'; did you mean 'wanda'?"]),
        (["evaluate", "--baseline", "sparsgpt"], ["'sparsgpt'; did you mean 'sparsegpt'?"]),
        (["evaluate", "--metric", "ria-permuted"], ["'ria-permuted' is a method", "--baseline"]),
        (["evaluate", "--metric", "x_norm"], ["is of kind PerInput", "a Weight"]),
        (["evaluate", "--metric", "all_sum(W)"], ["is of kind Scalar", "a Weight"]),
        (
            ["evaluate", "--evaluator", "prediction", "--metric", "layers_sum(all_sum(W))"],
            ["is of kind Model", "give a --space that rates a Model: lpzero, prediction,"],
        ),
        (["list", "--space", "importanc"], ["did you mean 'importance'?"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_what_needs_no_model(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run(*words, *(["--results", tmp_path / "r"] if words != ["serch"] else [])), *told)
    assert not (tmp_path / "r" / "runs").exists()


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("[search]\nevaluatoins = 3", ["'evaluatoins'; did you mean 'evaluations'?"]),
        ("[serch]\nseed = 3", ["section 'serch'; did you mean 'search'?"]),
        ('[run]\nnmae = "x"', ["run option 'nmae'; did you mean 'name'?"]),
        ('[evaluator]\nmodell = "x"', ["evaluator option 'modell'; did you mean 'model'?"]),
        ("[search\nseed = 3", ["cannot be read as TOML", "line 1"]),
        ("search = 3", ["[search] must be a table"]),
        ('[search]\nevaluations = "many"', ["evaluations must be a number, got 'many'"]),
        ("[search]\npopulation = 2.5", ["population must be a whole number, got 2.5"]),
        ("[search]\nseeds = 1", ["seeds must be a true or false, got 1"]),
        ("[search]\ncrossover = 1.5", ["crossover must lie in [0, 1], got 1.5"]),
        ("[run]\nrandom_search = 1", ["random_search must be a bool, got 1"]),
        ("[evaluator]\nlength = 2.5", ["length must be a whole number, got 2.5"]),
        ("[evaluator]\ncalibration = 3", ["calibration must be one or more words, got 3"]),
        ("\xff", ["cannot be read as TOML"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_run_file_with_a_mistake(run: Run, tmp_path: Path, toml: str, told: list[str]) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(toml.encode("latin-1"))
    said = run("search", "--config", path, "--results", tmp_path / "r")
    refused(said, *told)
    assert not (tmp_path / "r" / "runs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sparsity", "1.5"], ["sparsity must lie in [0, 1), got 1.5"]),
        (["--sparsity", "-0.1"], ["sparsity must lie in [0, 1), got -0.1"]),
        (["--sparsity", "half"], ["sparsity 'half' is no number"]),
        (["--sparsity", "nan"], ["sparsity 'nan' is no number"]),
        (["--sparsity", "0.5", "--pattern", "2:4"], ["either a sparsity", "or a pattern"]),
        (["--pattern", "2:5"], ["pattern 2:5", "5 divides", "has 16"]),
        (["--pattern", "4:4"], ["'4:4'", "KEEP:BLOCK with 0 < KEEP < BLOCK"]),
        (["--pattern", "two"], ["'two'", "KEEP:BLOCK"]),
        (["--group", "rows"], ["'rows'; did you mean 'row'?"]),
        (["--dtype", "float23"], ["'float23'; did you mean 'float32'?"]),
        (["--device", "gpu"], ["unknown device 'gpu'"]),
        (["--length", "4096"], ["4096", "64 tokens"]),
        (["--length", "1"], ["length must be at least 2, got 1"]),
        (["--text-blocks", "4000"], ["4012 tokens", "128000", "at most 125 blocks"]),
        (["--calibration-blocks", "4000"], ["calibration", "4008 tokens", "128000"]),
        (["--calibration-blocks", "0"], ["calibration_blocks must be at least 1, got 0"]),
        (["--text", "missing.txt"], ["missing.txt: no such file"]),
        (["--text", "topics:tset"], ["'tset'; did you mean 'test'?"]),
        (["--model", "/missing/model"], ["there is no folder /missing/model"]),
        (["--metric", "1e38 * (1e38 * (1 + square(W)))"], ["cannot be reported", "not finite"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_what_the_evaluator_refuses(
    place: Place, run: Run, tmp_path: Path, words: list[str], told: list[str]
) -> None:
    metric = [] if "--metric" in words else ["--baseline", "wanda"]
    said = run("evaluate", *metric, *place.evaluate, *words, "--results", tmp_path / "r")
    refused(said, *told)


def test_texts_that_overlap(place: Place, run: Run, tmp_path: Path) -> None:
    text = place.options["text"][0]
    said = run(
        "search", "--config", place.run_file, "--validation", text, "--results", tmp_path / "r"
    )
    refused(said, "the validation text", "the report text", "overlap: 100.0%", "at most 1%")


def test_texts_too_short_for_the_finals_are_told_before_the_search(
    place: Place, run: Run, tmp_path: Path
) -> None:
    said = run(
        *("search", "--config", place.run_file, "--confirm-blocks", 200),
        *("--results", tmp_path / "r"),
    )
    refused(said, "validation", "tokens", "203 blocks of 32 need 6496")
    assert rows(tmp_path / "r" / "ledger.sqlite")["evaluations"] == []


def broken_model(place: Place, folder: Path, what: str) -> Path:
    """Return a copy of the tiny model that lacks something."""
    copy = folder / what
    shutil.copytree(place.options["model"], copy)
    weights, config = copy / "model.safetensors", copy / "config.json"
    changes: dict[str, Callable[[], object]] = {
        "no-weights": weights.unlink,
        "no-config": config.unlink,
        "cut-weights": lambda: weights.write_bytes(weights.read_bytes()[:1000]),
        "no-tokenizer": lambda: [path.unlink() for path in copy.glob("tokenizer*")],
        "no-language-model": lambda: edit_json(config, model_type="vit"),
        "other-family": lambda: edit_json(config, model_type="gpt_neox"),
        "unheard-of": lambda: edit_json(config, model_type="llamma"),
        "garbled-config": lambda: config.write_text("{", encoding="utf-8"),
        "wider": lambda: edit_json(config, hidden_size=32),
        "deeper": lambda: edit_json(config, num_hidden_layers=3),
    }
    changes[what]()
    return copy


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("no-weights", ["has no weights (*.safetensors)"]),
        ("no-config", ["has no config.json"]),
        ("cut-weights", ["cannot be loaded", "complete"]),
        ("no-tokenizer", ["cannot be loaded", "tokenizer"]),
        ("no-language-model", ["cannot be loaded", "causal language model"]),
        ("other-family", ["lacks weights: gpt_neox."]),
        ("unheard-of", ["cannot be found or read", "llamma"]),
        ("garbled-config", ["cannot be found or read"]),
        ("wider", ["does not fit its config.json", "(260, 16)", "(260, 32)"]),
        ("deeper", ["lacks weights: model.layers.2"]),
    ],
)
def test_models_that_cannot_serve(
    place: Place, run: Run, tmp_path: Path, what: str, told: list[str]
) -> None:
    model = broken_model(place, tmp_path, what)
    said = run(
        *("evaluate", "--baseline", "wanda", *place.evaluate, "--model", model),
        *("--results", tmp_path / "r"),
    )
    refused(said, *told)


def test_the_library_adds_no_words_of_its_own(spoken: list[Said]) -> None:
    """Its loggers write past what a test in this process can capture."""
    said = spoken[0]
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("autoproxy: ")
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["search", "evaluate", "leaderboard", "resume"])
def test_a_file_in_the_way_of_the_results(
    place: Place, run: Run, tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    words = {
        "search": ["--config", place.run_file],
        "evaluate": ["--baseline", "wanda", *place.evaluate],
    }.get(command, [])
    for results in (tmp_path / "file", tmp_path / "file" / "below"):
        said = run(command, *words, "--results", results)
        refused(said, str(results))
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_results_that_are_read_only(place: Place, run: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        said = run("search", "--config", place.run_file, "--results", tmp_path / "r")
        refused(said, "cannot be written", "--results DIR")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_the_way_of_the_export(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    said = run("export", "wanda", "--out", tmp_path / "file" / "m.py", "--results", tmp_path)
    refused(said, "cannot be written")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.fixture
def copy(place: Place, tmp_path: Path) -> Path:
    """A copy of the results that a test may spoil."""
    shutil.copytree(place.results, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("command", ["search", "resume", "evaluate", "leaderboard"])
def test_a_ledger_of_another_version(place: Place, run: Run, copy: Path, command: str) -> None:
    connection = sqlite3.connect(copy / "ledger.sqlite")
    connection.execute("UPDATE schema_version SET version = 99")
    connection.commit()
    connection.close()
    before = rows(copy / "ledger.sqlite")
    words = {
        "search": ["--config", place.run_file, "--name", "new"],
        "evaluate": ["--baseline", "wanda", *place.evaluate],
    }.get(command, [])
    refused(run(command, *words, "--results", copy), "schema version 99", f"reads {SCHEMA_VERSION}")
    assert rows(copy / "ledger.sqlite") == before


def test_a_ledger_that_is_none(run: Run, copy: Path) -> None:
    for path in copy.glob("ledger.sqlite*"):
        path.unlink()
    (copy / "ledger.sqlite").write_text("something else" * 100, encoding="utf-8")
    refused(run("leaderboard", "--results", copy), "is not a database", "--results DIR")
    assert (copy / "ledger.sqlite").read_text(encoding="utf-8").startswith("something else")


def test_a_cache_that_is_corrupted_is_rebuilt_and_told(
    place: Place, run: Run, copy: Path, tmp_path: Path
) -> None:
    files = sorted((copy / "cache").iterdir())
    assert files
    whole = [path.read_bytes() for path in files]
    for path in files:
        path.write_bytes(b"not a tensor")
    for path in copy.glob("ledger.sqlite*"):
        path.unlink()  # so that everything is measured again
    shutil.rmtree(copy / "runs")
    said = run("search", "--config", place.run_file, "--results", copy)
    assert said.code == 0
    notes = [line for line in said.err.splitlines() if line.startswith("note: ")]
    assert len(notes) == len(files)
    assert all(any(path.name in note for note in notes) for path in files)
    assert [path.read_bytes() for path in files] == whole
    assert outcome_of_run(copy) == outcome_of_run(place.results)


def test_a_run_that_is_not_there(run: Run, copy: Path) -> None:
    told = "unknown run 'tiny-rum'; did you mean 'tiny-run'?"
    refused(run("resume", "tiny-rum", "--results", copy), told)


def test_a_run_that_is_there_already(place: Place, run: Run, copy: Path) -> None:
    before = outcome_of_run(copy)
    said = run("search", "--config", place.run_file, "--results", copy)
    refused(said, "run 'tiny-run' exists", "autoproxy resume tiny-run", "--name")
    assert said.err.startswith("autoproxy: ")  # before the model was loaded
    assert outcome_of_run(copy) == before


@pytest.mark.parametrize("name", ["../up", "a/b", "", " ", ".hidden", "x" * 101, "a\nb"])
def test_a_name_that_is_no_name(place: Place, run: Run, tmp_path: Path, name: str) -> None:
    said = run("search", "--config", place.run_file, "--results", tmp_path / "r", f"--name={name}")
    refused(said, "cannot name a run")
    assert said.err.startswith("autoproxy: ")  # before the model was loaded
    assert not (tmp_path / "up").exists()


def test_a_run_that_is_still_running(place: Place, run: Run, copy: Path) -> None:
    before = outcome_of_run(copy)
    lock = copy / "runs" / "tiny-run" / "run.lock"
    code = (
        "import sys\nfrom filelock import FileLock\n"
        "with FileLock(sys.argv[1]):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        said = run("resume", "tiny-run", "--results", copy)
        holder.kill()
    refused(said, "run 'tiny-run' is still running in another process")
    assert outcome_of_run(copy) == before
    # The lock dies with its process: nothing has to be cleaned up by hand.
    assert run("resume", "tiny-run", "--results", copy, "--json").code == 0
    with FileLock(lock).acquire(timeout=0):
        pass


def test_the_smallest_budget_measures_one_candidate_in_full(
    place: Place, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "small.toml"
    tables = {"search": {**SEARCH, "evaluations": 1.0}, "evaluator": place.options}
    path.write_text(to_toml(tables), encoding="utf-8")
    said = run("search", "--config", path, "--results", tmp_path / "r", "--json")
    assert said.code == 0, said
    assert json.loads(said.out)["winner"]["text"]


def test_a_time_too_short_to_measure_anything_in_full(
    place: Place, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clock, "seconds", property(lambda _: 3600.0))
    path = tmp_path / "short.toml"
    tables = {"search": {**SEARCH, "minutes": 1.0}, "evaluator": place.options}
    path.write_text(to_toml(tables), encoding="utf-8")
    said = run("search", "--config", path, "--results", tmp_path / "r")
    refused(said, "measured nothing in full", "--evaluations", "--minutes")


def test_a_run_whose_summary_was_garbled(run: Run, copy: Path) -> None:
    (copy / "runs" / "tiny-run" / "summary.json").write_text("{", encoding="utf-8")
    refused(run("export", "tiny-run", "--results", copy), "summary.json cannot be read")
    assert run("resume", "--results", copy, "--json").code == 0  # which writes it anew
    assert run("export", "tiny-run", "--results", copy).code == 0


def test_a_run_that_would_go_on_as_another(run: Run, copy: Path) -> None:
    """Whoever edits the run file of a run that has begun is told, and nothing is mixed up."""
    path = copy / "runs" / "tiny-run" / "run.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("seed = 3", "seed = 4"), encoding="utf-8")
    before = rows(copy / "ledger.sqlite")
    said = run("resume", "tiny-run", "--results", copy)
    refused(said, "run 'tiny-run' was begun with seed 3, now it is 4", "start a new run")
    assert rows(copy / "ledger.sqlite")["events"] == before["events"]
