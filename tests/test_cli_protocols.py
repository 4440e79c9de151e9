"""The command line with protocols of the literature, the cache of statistics, and tasks."""

import json
import os
import shlex
import sys
from pathlib import Path

import datasets
import pytest

from autoproxy.commands.workspace import append_line
from autoproxy.errors import StorageError
from evaluators.text import DATASETS
from tests.evaluators.corpora import marking_tokenizer, write_corpora
from tests.evaluators.tiny import tiny_folder
from tests.saying import Run, refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model that marks the start of texts, and both data sets."""
    made = tmp_path_factory.mktemp("protocols")
    write_corpora(made / "sets")
    marking_tokenizer().save_pretrained(tiny_folder(made / "tiny"))
    return made


@pytest.fixture(autouse=True)
def on_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATASETS, str(folder / "sets"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "made"))


SMALL = ("--length", 32, "--calibration-blocks", 4, "--dtype", "float32")
DEPARTURES = {"calibration_blocks": 4, "length": 32, "dtype": "float32"}


# --- protocols ---------------------------------------------------------------------------------


def test_one_command_measures_under_a_protocol(folder: Path, run: Run, tmp_path: Path) -> None:
    asked = ("evaluate", "--baseline", "wanda", "--model", folder / "tiny", *SMALL)
    named = run(*asked, "--protocol", "wanda-2048", "--results", tmp_path, "--json").json
    assert named["protocol"]["protocol"] == "wanda-2048"
    assert named["protocol"]["departures"] == DEPARTURES
    assert named["protocol"]["mode"] == "sequential"
    by_hand = run(
        *asked,
        *("--calibration", "hub:allenai/c4:en/c4-train.00000-of-01024.json.gz:train"),
        *("--text", "hub:Salesforce/wikitext:wikitext-2-raw-v1:test", "--text-blocks", "all"),
        *("--windows", "documents", "--text-join", "newlines", "--special-tokens"),
        *("--mode", "sequential", "--results", tmp_path / "other", "--json"),
    ).json
    assert by_hand["perplexity"] == named["perplexity"]
    assert by_hand["kl"] == named["kl"]
    told = {"protocol", "departures"}
    assert by_hand["protocol"] == {k: v for k, v in named["protocol"].items() if k not in told}
    shown = run(*asked, "--protocol", "wanda-2048", "--results", tmp_path)
    assert "wanda-2048" in shown.out


def test_flags_override_a_protocol(folder: Path, run: Run, tmp_path: Path) -> None:
    said = run(
        *("evaluate", "--baseline", "wanda", "--model", folder / "tiny", *SMALL),
        *("--protocol", "pruner-zero", "--results", tmp_path, "--json", "--mode", "oneshot"),
        *("--no-special-tokens", "--text-blocks", 3, "--pattern", "2:4", "--text-join", "spaces"),
    )
    stored = said.json["protocol"]
    more = {
        "special_tokens": False,
        "text_blocks": 3,
        "text_join": "spaces",
        "mode": "oneshot",
    }
    assert stored["departures"] == {**DEPARTURES, **more}
    assert stored["tokens"] == 96
    assert stored["windows"] == "anywhere"
    assert stored["condition"] == "2:4"


def test_a_search_under_a_protocol_can_be_resumed(folder: Path, run: Run, tmp_path: Path) -> None:
    said = run(
        *("search", "--protocol", "wanda-2048", "--model", folder / "tiny", *SMALL),
        *("--mode", "oneshot", "--evaluations", 2, "--no-random-search", "--report-seeds", 1),
        *("--validation-blocks", 2, "--confirm-blocks", 2, "--population", 4, "--name", "named"),
        *("--results", tmp_path, "--json"),
    )
    assert said.code == 0, said.err
    protocol = said.json["protocol"]
    assert protocol["protocol"] == "wanda-2048"
    assert protocol["departures"] == {**DEPARTURES, "mode": "oneshot"}
    assert protocol["validation"] == "hub:Salesforce/wikitext:wikitext-2-raw-v1:validation"
    again = run("resume", "named", "--results", tmp_path, "--json")
    assert again.code == 0, again.err
    assert again.json["winner"] == said.json["winner"]
    assert again.json["protocol"] == protocol


def test_a_recipe_repeats_what_a_protocol_did(folder: Path, run: Run, tmp_path: Path) -> None:
    said = run(
        *("prune", folder / "tiny", "--baseline", "wanda", "--protocol", "wanda-2048", *SMALL),
        *("--check", "--out", tmp_path / "first", "--results", tmp_path / "r", "--json"),
    )
    assert said.code == 0, said.err
    recipe = said.json
    assert recipe["protocol"]["departures"] == DEPARTURES
    for words in ("--protocol wanda-2048", "--special-tokens", "--text-blocks all"):
        assert words in recipe["command"]
    words = shlex.split(recipe["command"])[1:]
    words[words.index("--out") + 1] = str(tmp_path / "second")
    repeated = run(*words, "--results", tmp_path / "s", "--json")
    assert repeated.code == 0, repeated.err
    for name in ("protocol", "check", "layers", "dropped"):
        assert repeated.json[name] == recipe[name], name
    first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--protocol", "wanda"], ["unknown protocol 'wanda'", "did you mean 'wanda-"]),
        (["--protocol", "wanda-2048"], ["length 2048 exceeds the 64", "--length 64 or less"]),
        (["--windows", "random"], ["unknown windows 'random'", "anywhere, documents, grid"]),
        (["--text-join", "none"], ["unknown join 'none'"]),
        (["--text-blocks", "most"], ["text_blocks must be a whole number or all, got 'most'"]),
        (["--cache-limit", "big"], ["'big' is no size", "such as 500MB or 20GB"]),
        (["--shots", "2"], ["--task-limit and --shots are of tasks; add --tasks"]),
        (["--task-limit", "2"], ["add --tasks NAME,NAME"]),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_what_cannot_be_asked_is_told(
    folder: Path, run: Run, tmp_path: Path, words: list[str], told: list[str]
) -> None:
    said = run(
        *("evaluate", "--baseline", "wanda", "--model", folder / "tiny", *words),
        *("--results", tmp_path),
    )
    refused(said, *told)


def test_without_network_or_copy_it_is_told_where_a_copy_may_lie(
    folder: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATASETS)
    said = run(
        *("evaluate", "--baseline", "wanda", "--model", folder / "tiny", *SMALL),
        *("--protocol", "wanda-2048", "--results", tmp_path),
    )
    refused(said, "allenai/c4", "could not be loaded", "the network", DATASETS)


# --- the cache ---------------------------------------------------------------------------------


def test_the_cache_is_listed_shrunk_and_cleared(folder: Path, run: Run, tmp_path: Path) -> None:
    asked = ("evaluate", "--model", folder / "tiny", "--length", 32, "--calibration-blocks", 4)
    small = (*asked, "--text-blocks", 2, "--results", tmp_path)
    assert run("cache", "--results", tmp_path, "--json").json["files"] == []
    assert run(*small, "--baseline", "wanda").code == 0
    assert run(*small, "--baseline", "gblm-gradient").code == 0
    found = run("cache", "--results", tmp_path, "--json").json
    assert {(row["terminal"], row["model"], row["tokens"]) for row in found["files"]} == {
        ("x_norm", "tiny", 128),
        ("g_norm", "tiny", 128),
    }
    assert found["bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "cache").glob("*.safetensors")
    )
    assert found["limit"] == 20 * 10**9
    shown = run("cache", "--results", tmp_path).out
    for word in ("x_norm", "g_norm", "tiny", "128", "s ago", "of at most 20.0 GB"):
        assert word in shown, word

    oldest = tmp_path / "cache" / found["files"][-1]["file"]
    os.utime(oldest, (0, 0))
    room = found["bytes"] - 1
    found = run("cache", "--results", tmp_path, "--limit", room, "--json").json
    assert [row["file"] for row in found["deleted"]] == [oldest.name]
    assert len(found["files"]) == 1

    (tmp_path / "cache" / found["files"][0]["file"]).write_bytes(b"\xff" * 50)
    shown = run("cache", "--results", tmp_path).out
    assert "corrupted" in shown
    assert "made anew when needed" in shown

    said = run("cache", "--results", tmp_path, "--clear")
    assert "deleted 1 file, 50 B" in said.out
    assert list((tmp_path / "cache").iterdir()) == []
    refused(run("cache", "--results", tmp_path, "--clear", "--limit", "1GB"), "--clear leaves")
    refused(run("cache", "--results", tmp_path, "--limit", "small"), "'small' is no size")


def test_a_run_keeps_the_cache_within_its_limit(folder: Path, run: Run, tmp_path: Path) -> None:
    asked = ("evaluate", "--model", folder / "tiny", "--length", 32, "--baseline", "wanda")
    small = (*asked, "--text-blocks", 2, "--results", tmp_path, "--json")
    for blocks in (2, 3, 4):
        said = run(*small, "--calibration-blocks", blocks, "--cache-limit", "1B")
        assert said.code == 0, said.err
        (file,) = run("cache", "--results", tmp_path, "--json").json["files"]
        assert file["tokens"] == 32 * blocks
        assert any("its limit is" in notice for notice in said.json["notices"])
    assert "cache_limit" not in said.json["protocol"]


def test_an_evaluator_that_keeps_nothing_is_told(run: Run, tmp_path: Path) -> None:
    name = "tests.conformance.toy:ToyEvaluator"
    refused(run("cache", "--evaluator", name, "--results", tmp_path), "keeps no statistics")
    said = run(
        *("evaluate", "--baseline", "wanda", "--tasks", "a", "--evaluator", name),
        *("--results", tmp_path),
    )
    refused(said, "runs no tasks")


# --- tasks -------------------------------------------------------------------------------------


def test_tasks_without_the_harness_are_told_before_anything_is_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    said = run(
        *("evaluate", "--baseline", "wanda", "--model", "/missing/model", "--tasks", "boolq,rte"),
        *("--results", tmp_path / "r"),
    )
    refused(said, "lm-evaluation-harness", "not installed", "pip install 'autoproxy[tasks]'")
    assert not (tmp_path / "r").exists()


def test_lines_are_appended_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "tasks.jsonl"
    append_line(path, {"a": "é\n"})
    append_line(path, {"a": 2})
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"a": "é\n"}, {"a": 2}]
    with pytest.raises(StorageError, match="cannot be written"):
        append_line(path / "inside", {})
