"""`autoproxy enumerate` on tiny models: the certificate, its words, going on when stopped."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoproxy.commands.enumerating import claim
from autoproxy.commands.memory import LedgerMemory
from autoproxy.commands.workspace import Workspace
from autoproxy.language.types import Kind
from autoproxy.spaces import SearchSpace
from search_spaces.importance import BASELINES
from tests.evaluators.tables import starter_rows, write
from tests.evaluators.tiny import tiny_options
from tests.runs import flags
from tests.saying import Run, refused

TINY = SearchSpace(
    name="tiny",
    root=Kind.WEIGHT,
    terminals={"W": 1, "x_norm": 1},
    primitives={"mul": 1, "abs": 1, "pow": 1},
    constants=(0.1,),
    exponents=(0.3, 0.5),
    max_size=8,
    max_depth=5,
    baselines=tuple(b for b in BASELINES if b.name in {"wanda", "wanda-sqrt", "snip"}),
)
MODELS = SearchSpace(
    name="tiny-models",
    root=Kind.MODEL,
    terminals={"W": 1, "heads": 1, "n_layers": 1, "params": 1},
    primitives={"div": 1, "all_norm": 1, "layers_sum": 1, "layers_mean": 1},
    constants=(2.0,),
    exponents=(),
    max_size=8,
    max_depth=5,
    run={"evaluator": "prediction"},
)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return flags(tiny_options(tmp_path_factory.mktemp("tiny")))


Enumerate = Callable[..., Any]


@pytest.fixture
def enumerated(run: Run, options: list[str], tmp_path: Path) -> Enumerate:
    def call(*words: object) -> Any:
        said = run(
            *("enumerate", "--space", f"{__name__}:TINY", "--size", 4, *options),
            *("--audit", 20, "--results", tmp_path, "--json", *words),
        )
        assert said.code == 0, said.err
        return said.json

    return call


def settled(found: dict[str, Any]) -> dict[str, Any]:
    """Return a certificate without what differs each time."""
    return {k: v for k, v in found.items() if k not in {"seconds", "recalled", "manifest", "file"}}


def test_a_certificate_says_what_was_enumerated_and_what_is_best(
    enumerated: Enumerate, tmp_path: Path
) -> None:
    found = enumerated("--against", "sqrt(abs(W) * x_norm)", "--against", "wanda")
    assert (found["space"], found["space_hash"]) == ("tiny", TINY.digest)
    assert found["grid"] == {"constants": [0.1], "exponents": [0.3, 0.5]}
    assert found["protocol"]["validation_blocks"] == 3
    assert [row["trees"] for row in found["counts"]["by_size"]] == [1, 1, 8, 20]
    assert found["counts"]["total"]["trees"] == 30
    best = found["best"][0]
    assert best["text"] == "abs(mul(W, x_norm))" or best["value"] < _value(found, "wanda")
    same, wanda = found["against"]
    assert same["value"] == wanda["value"] == _value(found, "wanda")
    above = [row for row in found["best"] if row["value"] < wanda["value"]]
    assert wanda["better"] == len(above) < 10
    assert {row["name"] for row in found["baselines"]} == {"wanda", "wanda-sqrt", "snip"}
    values = [row["value"] for row in found["best"]]
    assert values == sorted(values)
    assert found["measured"]["exact"]
    assert found["manifest"]["space_hash"] == TINY.digest
    assert found["claim"] == claim(found)
    assert f"than {best['formula']} (" in found["claim"]
    (path,) = (tmp_path / "enumerations").glob("*/certificate.json")
    assert path.parent.name.startswith("tiny-tiny-50-size4-")
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert {**kept, "file": str(path)} == found


def test_it_is_kept_in_the_ledger_that_is_named(
    enumerated: Enumerate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPROXY_LEDGER", str(tmp_path / "other.sqlite"))
    enumerated("--size", 2, "--audit", 0)
    found = enumerated("--size", 2, "--audit", 0, "--ledger", tmp_path / "own.sqlite")
    assert {path.stem for path in tmp_path.glob("*.sqlite")} == {"other", "own"}
    assert found["recalled"] == 0


def _value(found: dict[str, Any], name: str) -> float:
    return next(float(row["value"]) for row in found["baselines"] if row["name"] == name)


@pytest.mark.parametrize("patience", [1, 7])
def test_what_was_stopped_goes_on_to_the_same_certificate(
    enumerated: Enumerate,
    run: Run,
    options: list[str],
    tmp_path: Path,
    patience: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = enumerated("--results", tmp_path / "whole")
    left = [patience]
    keep = LedgerMemory.keep

    def stopping(self: LedgerMemory, *words: Any) -> None:
        keep(self, *words)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(LedgerMemory, "keep", stopping)
    words = ("--size", 4, *options, "--audit", 20, "--results", tmp_path / "stopped")
    said = run("enumerate", "--space", f"{__name__}:TINY", *words)
    assert said.code == 130
    assert "the same command goes on" in said.err
    assert not list((tmp_path / "stopped").rglob("certificate.json"))
    assert _rows(tmp_path / "stopped") == patience
    again = enumerated("--results", tmp_path / "stopped")
    assert settled(again) == settled(whole)
    assert again["recalled"] >= patience
    assert _rows(tmp_path / "stopped") == _rows(tmp_path / "whole")


def _rows(results: Path) -> int:
    connection = sqlite3.connect(results / "ledger.sqlite")
    try:
        (count,) = connection.execute("SELECT count(*) FROM evaluations").fetchone()
        return int(count)
    finally:
        connection.close()


def test_screening_is_owned_up_to(enumerated: Enumerate) -> None:
    found = enumerated("--full", 2)
    assert {row["better"] for row in found["baselines"]} == {None}  # of those left out, who knows
    assert not found["measured"]["exact"]
    assert found["measured"]["screened"] == found["measured"]["different"] - 2
    assert "among the 2 of " in found["claim"]
    assert "exact" not in found["claim"]


def test_the_table_tells_the_same(run: Run, options: list[str], tmp_path: Path) -> None:
    words = ("--size", 3, *options, "--audit", 5, "--results", tmp_path)
    said = run("enumerate", "--space", f"{__name__}:TINY", *words)
    assert said.code == 0, said.err
    for word in ("by order", "by value", "Best", "wanda", "Audit", "No formula of at most 3 nodes"):
        assert word in said.out
    assert "10 formulas of at most 3 nodes" in said.err


def test_predictions_are_enumerated(run: Run, tmp_path: Path) -> None:
    table = write(tmp_path / "table.csv", starter_rows())
    words = ("--table", table, "--labels", 10, "--sequences", 1, "--tokens", 8)
    said = run(
        *("enumerate", "--space", f"{__name__}:MODELS", "--size", 5, *words),
        *("--audit", 20, "--results", tmp_path, "--json"),
    )
    assert said.code == 0, said.err
    found = said.json
    assert found["evaluator"] == "prediction"
    assert found["objective"]["direction"] == "max"
    values = [row["value"] for row in found["best"]]
    assert values == sorted(values, reverse=True)
    assert found["audit"]["false"] == 0
    assert found["audit"]["checked"] > 0
    assert "has a larger " in found["claim"]
    assert found["counts"]["by_size"][2]["by_value"] is not None


def test_what_cannot_be_is_refused(run: Run, options: list[str], tmp_path: Path) -> None:
    def asked(*words: object) -> Any:
        given = ("enumerate", "--space", f"{__name__}:TINY", *options, "--results", tmp_path)
        return run(*given, *words)

    refused(asked("--size", 6), "size must lie in [1, 5]", "'tiny'")
    refused(asked("--size", 2, "--full", 0), "--full must be at least 1, got 0")
    refused(asked("--size", 2, "--audit", -1), "--audit must be at least 0, got -1")
    refused(asked("--size", 2, "--against", "all_mean(W)"), "of kind Scalar", "Weight")
    refused(asked("--size", 2, "--against", "no-such"), "no-such")
    refused(asked("--size", 2, "--against", "W * hg"), "reads hg")
    assert not (Workspace(tmp_path).folder / "enumerations").exists()
