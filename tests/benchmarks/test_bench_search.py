"""The comparison of searches: what is charged, what is resumed, what the tables say."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from autoproxy.evaluation import Failed, Measured, Outcome
from autoproxy.language.expression import Expression
from autoproxy.language.parse import parse
from autoproxy.ledger.ledger import Ledger
from benchmarks import bench_search as bench
from benchmarks.run_log import records
from evaluators.pruning import PruningEvaluator
from tests.evaluators.tiny import tiny_options

WAYS = {"ours", "pruner-zero", "lpzero", "random", "deap"}
Bench = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_options(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def run(options: dict[str, Any], tmp_path: Path) -> Bench:
    """Return what runs the benchmark on a tiny model and returns its log."""
    own = {"model", "length", "validation_blocks"}
    given = [f"{n}={json.dumps(v)}" for n, v in options.items() if n not in own]

    def call(*words: object) -> list[dict[str, Any]]:
        asked = ["run", "--folder", tmp_path / "b", "--model", options["model"], "--length", 32]
        asked += ["--blocks", 3, "--evaluations", 8, "--option", "reject=0", *words]
        asked += [word for text in given for word in ("--evaluator", text)]
        bench.main([str(word) for word in asked])
        return records(tmp_path / "b")

    return call


def test_every_way_runs_once_and_says_what_it_cost(
    run: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = run("--seeds", 2)
    assert {(r["way"], r["seed"]) for r in log} == {(w, s) for w in WAYS for s in (0, 1)}
    for record in log:
        assert 8 - 1e-6 <= record["spent"] < 10
        assert 0 < record["tokens"] <= record["spent"] * 3 * 32 + 1e-6
        values = [value for *_, value in record["curve"]]
        assert values == sorted(values, reverse=True)
        assert values
        parse(record["best"])
    assert run("--seeds", 2) == log  # nothing is done again
    lines = (tmp_path / "b" / "runs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "b" / "runs.jsonl").write_text("".join(lines[:-1]) + lines[-1][:40] + "\n")
    capsys.readouterr()
    again = run("--seeds", 2)  # one line was cut off by a crash
    assert len(again) == len(log)
    assert plain(again[-1]) == plain(log[-1])
    bench.main(["table", "--folder", str(tmp_path / "b")])
    said = capsys.readouterr().out
    assert "| ours - random |" in said
    assert "No run of pruner-zero has spent 350 evaluations yet" in said


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without seconds."""
    curve = [[spent, tokens, value] for spent, tokens, _, value in record["curve"]]
    return {**record, "seconds": 0.0, "curve": curve}


def test_what_another_run_measured_is_charged_but_not_measured_again(
    run: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = run("--ways", "ours,pruner-zero,deap", "--seeds", 1)
    (tmp_path / "b" / "runs.jsonl").unlink()
    monkeypatch.setattr(PruningEvaluator, "measure", refuse)
    again = run("--ways", "ours,pruner-zero,deap", "--seeds", 1)
    assert list(map(plain, again)) == list(map(plain, log))
    assert all(r["seconds"] > 0 for r in again)


def refuse(self: Any, expressions: Sequence[Expression], fidelity: float) -> Iterator[Outcome]:
    raise AssertionError(f"{expressions[0]} is known at {fidelity}")


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[bench.Meter]:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        yield bench.Meter(ledger, "p", blocks=4, length=10)


def full(*blocks: float) -> Measured:
    details = {f"block_{n}": value for n, value in enumerate(blocks, 1)}
    return Measured(sum(blocks) / len(blocks), 1.0, 8.0, details)


def test_blocks_are_charged_once_and_repetitions_again(meter: bench.Meter) -> None:
    expression = parse("abs(W)")
    meter.store("k", expression, 0.25, Measured(4.0, 0.25, 1.0, {"block_1": 4.0}))
    assert (meter.spent, meter.tokens, meter.curve) == (0.25, 10, [])
    meter.store("k", expression, 1.0, full(4.0, 2.0, 2.0, 4.0))
    assert (meter.spent, meter.tokens) == (1.0, 40)
    assert [(s, t, v) for s, t, _, v in meter.curve] == [(1.0, 40.0, 3.0)]
    assert meter.recall("k", "p", 1.0) == full(4.0, 2.0, 2.0, 4.0)  # asked anew, from the start
    assert (meter.spent, meter.tokens, len(meter.curve)) == (2.0, 80, 1)


def test_copies_that_are_measured_side_by_side_cost_what_each_costs(meter: bench.Meter) -> None:
    """Of a preset that lets them through: both begin before either is done."""
    expression = parse("abs(W)")
    for copies in (2, 3):
        before = meter.spent
        for fidelity in (0.25, 0.5, 1.0):
            for _ in range(copies):
                meter.store("k", expression, fidelity, Measured(4.0, fidelity, 1.0))
        assert meter.spent - before == copies


def test_a_part_of_what_is_known_in_full_is_known(meter: bench.Meter) -> None:
    other = bench.Meter(meter.ledger, "p", blocks=4, length=10)
    other.store("k", parse("abs(W)"), 1.0, full(4.0, 2.0, 2.0, 4.0))
    part = meter.recall("k", "p", 0.5)
    assert isinstance(part, Measured)
    assert (part.value, part.fidelity, part.blocks, part.seconds) == (3.0, 0.5, (4.0, 2.0), 4.0)
    assert (meter.spent, meter.tokens) == (0.5, 20)
    assert meter.seconds >= 4.0
    assert meter.recall("other", "p", 0.5) is None


def test_what_fails_costs_an_evaluation_but_no_tokens(meter: bench.Meter) -> None:
    meter.store("k", parse("abs(W)"), 1.0, Failed("not finite"))
    assert (meter.spent, meter.tokens, meter.curve) == (1.0, 0.0, [])


def record(*curve: tuple[float, float], spent: float = 400.0, why: str = "is spent") -> Any:
    return {
        "spent": spent,
        "finished": why,
        "curve": [[s, 100 * s, s / 2, value] for s, value in curve],
        "model": "m", "sparsity": "0.5", "blocks": 4, "length": 10,
    }  # fmt: skip


def test_looks_at_a_curve() -> None:
    one = record((3.0, 0.5), (120.0, 0.4), spent=300.0)
    assert [bench.at(one, look) for look in (2.0, 3.0, 100.0, 120.0, 300.0)] == [
        math.inf, 0.5, 0.5, 0.4, 0.4,
    ]  # fmt: skip
    assert math.isnan(bench.at(one, 400.0))
    early = record((3.0, 0.5), spent=50.0, why="nothing new in 25 generations")
    assert bench.at(early, 400.0) == 0.5
    assert bench.reached(one, 0.45) == (120.0, 12000.0, 60.0)
    assert bench.reached(one, 0.3)[0] == math.inf


def test_the_tables_say_who_is_better_and_by_how_much() -> None:
    spread = (0.0, 0.001, 0.002, 0.003)
    runs = {
        "ours": [record((5.0, 0.5), (20.0, 0.30 + d)) for d in spread],
        "pruner-zero": [record((5.0, 0.6), (300.0, 0.40 + d)) for d in spread],
        "random": [record((5.0, 0.6)) for _ in spread],
    }
    said = "\n".join(bench.report("s", runs))
    assert "| ours | 4 | 0.3020 [0.3000, 0.3030] |" in said
    assert "| ours - random | **-0.2985 [-0.2995, -0.2975]** |" in said
    target = next(line for line in said.splitlines() if line.startswith("Until"))
    assert target.startswith("Until 0.4015,")  # the median of four
    assert (
        "| ours | 4 of 4 | 20.0 [20.0, 20.0] | 2000 [2000, 2000] | 0.143 [0.143, 0.143] |" in said
    )
    assert "| random | 0 of 4 | never" in said
