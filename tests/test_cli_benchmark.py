"""`autoproxy benchmark`, on tables and networks that are small enough to fetch and build here."""

import itertools
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from torch import nn

from evaluators.benchmarks import llama_subnets, starter, starter_space, train_starter
from evaluators.benchmarks.table import BENCHMARKS, open_benchmark
from evaluators.networks.decoder import Decoder
from evaluators.prediction import PredictionEvaluator
from evaluators.prediction_config import PredictionConfig
from tests.evaluators.tables import flexibert_rows, gpt2_rows, write
from tests.evaluators.test_fetch import _hash, _served
from tests.evaluators.tiny import tiny_folder, write_texts
from tests.saying import Run, refused

ROOT = Path(__file__).parents[1]


def _states(run: Run, results: Path) -> dict[str, str]:
    said = run("benchmark", "list", "--results", results, "--json")
    return {row["name"]: row["state"] for row in said.json["benchmarks"]}


# --- list and get ------------------------------------------------------------------------------


def test_a_table_is_fetched_listed_and_found_by_other_commands(run: Run, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert _states(run, results)["gpt2-lts"] == "absent"
    content = write(tmp_path / "t.csv", gpt2_rows(12)).read_bytes()
    with _served(content) as url:
        words = ("--url", url, "--sha256", _hash(content), "--results", results)
        said = run("benchmark", "get", "gpt2-lts", *words, "--json")
    table = results / "benchmarks" / "gpt2-lts.csv"
    assert said.json == {
        "name": "gpt2-lts",
        "state": "fetched",
        "table": str(table),
        "networks": 12,
        "quality": "-log valid_ppl",
        "reason": None,
    }
    assert table.read_bytes() == content
    assert _states(run, results)["gpt2-lts"] == "fetched"
    ranked = run(
        *("rank", "--benchmark", "gpt2-lts", "--proxy", "n_layers * width"),
        *("--results", results, "--json"),
    )
    assert len(ranked.json["proxies"][0]["order"]) == 12


def test_the_list_says_what_to_do_about_each(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "benchmarks"
    folder.mkdir(parents=True)
    write(folder / "flexibert.csv", flexibert_rows(3))
    said = run("benchmark", "list", "--results", tmp_path / "results")
    assert said.code == 0
    for name in BENCHMARKS:
        assert name in said.out
    assert "an order needs at least 10 rows" in said.out
    assert "autoproxy benchmark get gpt2-lts" in said.out
    assert "autoproxy benchmark build llama-subnets" in said.out
    assert _states(run, tmp_path / "results")["flexibert"] == "unusable"
    assert not (tmp_path / "elsewhere").exists()


def test_what_cannot_be_fetched_is_refused(run: Run, tmp_path: Path) -> None:
    results = tmp_path / "results"
    content = write(tmp_path / "t.csv", gpt2_rows()).read_bytes()
    get: Any = lambda *words: run("benchmark", "get", *words, "--results", results)  # noqa: E731
    with _served(content) as url:
        bad = get("gpt2-lts", "--url", url, "--sha256", "0" * 64)
    refused(bad, "is another file", _hash(content), "nothing was kept")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/t"
    refused(get("gpt2-lts", "--url", url, "--sha256", "0" * 64), "cannot be reached", "--table")
    refused(get("flexibert"), "--sha256")
    refused(get("gpt2-lts"), "--url")
    refused(get("starter"), "unknown public benchmark 'starter'", "flexibert, gpt2-lts")
    refused(get("flexibert", "--evaluator", "pruning"), "has no benchmarks")
    assert not list(results.rglob("*.csv"))


# --- build llama-subnets -----------------------------------------------------------------------


@pytest.fixture
def subnets(tmp_path: Path) -> tuple[str, ...]:
    """The words of a small build."""
    text = write_texts(tmp_path / "texts")["validation"]
    model = str(tiny_folder(tmp_path / "tiny"))
    small = ("--model", model, "--text", text, "--length", "16", "--blocks", "3", "--count", "11")
    return ("benchmark", "build", "llama-subnets", *small)


def test_sub_networks_are_measured_and_found_by_other_commands(
    run: Run, subnets: tuple[str, ...], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    said = run(*subnets, "--results", results)
    folder = results / "benchmarks" / "llama-subnets"
    assert said.code == 0
    assert said.out == f"{folder}: 11 networks, quality -loss\n"
    assert "networks; 1/11" in said.err
    assert _states(run, results)["llama-subnets"] == "built"
    opened = PredictionEvaluator(
        PredictionConfig(benchmark="llama-subnets"), cache=results / "cache"
    )
    assert opened.benchmark.digest == open_benchmark("llama-subnets", folder).digest


def test_a_build_that_was_stopped_goes_on_to_the_same_table(
    run: Run, subnets: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(*subnets, "--out", whole).code == 0
    counter, measured = itertools.count(), llama_subnets.mean_loss

    def stopped(network: nn.Module, ids: Any) -> float:
        if next(counter) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return measured(network, ids)

    with monkeypatch.context() as patch:
        patch.setattr(llama_subnets, "mean_loss", stopped)
        said = run(*subnets, "--out", parts)
    assert said.code == 130
    assert "the same command goes on" in said.err
    assert (parts / "table.csv").read_bytes().count(b"\n") == 5
    assert run(*subnets, "--out", parts, "--json").json["networks"] == 11
    assert (parts / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()


def test_a_folder_of_another_model_text_or_seed_is_refused(
    run: Run, subnets: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(*subnets, "--count", 1, "--out", out).code == 0
    refused(run(*subnets, "--seed", 1, "--out", out), "seed 0, not 1", "another folder")
    refused(run(*subnets, "--count", 0, "--out", out), "count must be at least 1")
    refused(run(*subnets, "--device", "abacus", "--out", out), "abacus")


# --- build starter -----------------------------------------------------------------------------


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The words of a build of twelve networks, each trained for two steps."""
    few = starter_space.architectures()[:12]
    for module in (starter, train_starter):
        monkeypatch.setattr(module, "architectures", lambda: few)
    small = train_starter.Budget(steps=2, rows=2, warm_up=1, held_out=300)
    monkeypatch.setattr(train_starter, "Budget", lambda: small)
    folder = tmp_path / "texts"
    folder.mkdir()
    content = " ".join(f"passage {n} of some length" for n in range(60_000))
    (folder / "emma.txt").write_text(content, encoding="utf-8")
    words = ("--text", str(folder), "--work", str(tmp_path / "work"))
    return ("benchmark", "build", "starter", *words)


def test_the_starter_networks_are_trained_and_tabulated(
    run: Run, training: tuple[str, ...], tmp_path: Path
) -> None:
    said = run(*training, "--results", tmp_path / "results", "--json")
    table = tmp_path / "work" / "starter.csv"
    assert said.json["table"] == str(table)
    assert (said.json["networks"], said.json["total"]) == (12, 12)
    assert len(open_benchmark("starter", table).architectures) == 12
    assert not list((tmp_path / "work").glob("*.busy"))
    assert not (tmp_path / "results").exists()  # nothing stands in for the table that ships


def test_a_table_put_where_commands_look_serves_both_halves(
    run: Run, training: tuple[str, ...], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    (results / "benchmarks").mkdir(parents=True)
    table = results / "benchmarks" / "starter.csv"
    assert run(*training, "--out", table).code == 0
    listed = run("benchmark", "list", "--results", results, "--json").json["benchmarks"]
    found = {row["name"]: (row["state"], row["table"]) for row in listed}
    assert found["starter"] == ("built", str(table))
    assert found["starter-varied"] == ("unusable", str(table))  # none of these twelve is varied


def test_training_that_was_stopped_goes_on_to_the_same_table(
    run: Run, training: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*training).code == 0
    whole = (tmp_path / "work" / "starter.csv").read_bytes()
    again = [*training[:-1], str(tmp_path / "again")]
    counter, train = itertools.count(), train_starter.train

    def stopped(*given: Any) -> Decoder:
        if next(counter) == 3:
            raise KeyboardInterrupt
        return train(*given)

    with monkeypatch.context() as patch:
        patch.setattr(train_starter, "train", stopped)
        assert run(*again).code == 130
    assert len(list((tmp_path / "again").glob("*.json"))) == 3
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "again").glob("*.json")}
    assert run(*again).code == 0
    assert (tmp_path / "again" / "starter.csv").read_bytes() == whole
    assert all(path.stat().st_mtime_ns == mark for path, mark in before.items())


def test_what_another_process_trains_is_left_to_it(
    run: Run, training: tuple[str, ...], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    taken = starter_space.architectures()[5].id
    with FileLock(work / f"{taken}.0.busy"):
        said = run(*training, "--json")
    assert (said.json["networks"], said.json["total"]) == (11, 12)
    assert not (work / f"{taken}.0.json").exists()
    assert run(*training, "--json").json["networks"] == 12


def test_a_process_that_was_killed_keeps_no_network_for_itself(
    run: Run, training: tuple[str, ...], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    mark = work / f"{starter_space.architectures()[5].id}.0.busy"
    code = (
        "import sys, time; from filelock import FileLock; FileLock(sys.argv[1]).acquire(); "
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(mark)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        other.kill()
    assert mark.exists()
    assert run(*training, "--json").json["networks"] == 12


def test_the_place_of_the_table_is_made_or_refused_before_training(
    run: Run, training: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for out, words in ((tmp_path, "is a folder"), (tmp_path / "file" / "t.csv", "written")):
        refused(run(*training, "--out", out), words)
        assert not list((tmp_path / "work").glob("*.json"))
    out = tmp_path / "new" / "folder" / "t.csv"
    assert run(*training, "--out", out).code == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 13


def test_networks_of_another_budget_are_not_mixed(
    run: Run, training: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*training).code == 0
    longer = replace(train_starter.Budget(), steps=3)
    monkeypatch.setattr(train_starter, "Budget", lambda: longer)
    next(iter((tmp_path / "work").glob("*.0.json"))).unlink()
    refused(run(*training), "another budget", "another work folder")
    min((tmp_path / "work").glob("*.json")).write_text("{", encoding="utf-8")
    refused(run(*training), "is not what training leaves", "train again")
    refused(run(*training[:-4], "--text", tmp_path, *training[-2:]), "no training text here")


# --- what all share ----------------------------------------------------------------------------


def test_help_is_fast_and_asks_for_nothing_heavy() -> None:
    code = (
        "import sys; from autoproxy.cli import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'numpy', 'transformers', 'sympy'} & set(sys.modules)))"
    )
    for words in (["benchmark", "--help"], ["benchmark", "build", "llama-subnets", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.stdout.endswith("[]\n"), done.stdout
