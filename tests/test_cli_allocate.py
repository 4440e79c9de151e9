"""`autoproxy allocate`: what it leaves, what it tells, and what it refuses before any work."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluators.families import model_of_family
from tests.evaluators.tiny import save, tiny_options
from tests.runs import flags
from tests.saying import Run, refused


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Options of `allocate`, of a tiny model and texts of its own."""
    made = tiny_options(tmp_path / "tiny")
    foreign = {"confirm_blocks", "text_blocks"}
    return {name: value for name, value in made.items() if name not in foreign}


def words(options: dict[str, Any], tmp_path: Path) -> list[str]:
    """The model, the options, where to write, and few trials."""
    left = {name: value for name, value in options.items() if name != "model"}
    places = ["--out", tmp_path / "new" / "a.json", "--results", tmp_path / "r"]
    return ["allocate", str(options["model"]), *flags(left), *map(str, places), "--trials", "2"]


def test_notices_are_told_and_not_written(
    run: Run, options: dict[str, Any], tmp_path: Path
) -> None:
    """Of a mixture of experts the routers stay dense, which whoever tunes it must know."""
    model = save(tmp_path / "experts", model_of_family("qwen2-moe"))
    asked = words({**options, "model": model}, tmp_path)
    said = run(*asked, "--baseline", "wanda", "--json")
    assert said.code == 0, said.err
    (notice,) = said.json["notices"]
    assert "stay dense" in notice
    assert f"note: {notice}" not in said.out
    told = {name: value for name, value in said.json.items() if name not in _TOLD}
    assert json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8")) == told


_TOLD = {"out", "name", "formula", "notices"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--metric", "x_norm"], ["x_norm", "is of kind PerInput", "multiply by abs(W)"]),
        (["--metric", "all_sum(W)"], ["is of kind Scalar", "a value for each weight"]),
        (
            ["--baseline", "wanda", "--evaluator", "tests.conformance.toy:ToyEvaluator"],
            ["has no allocation to tune", "see autoproxy list"],
        ),
        (
            ["--baseline", "wanda", "--evaluator", "shrinking"],
            ["'shrinking' has no allocation to tune"],
        ),
        (["--baseline", "wanda", "--evaluator", "prunning"], ["did you mean 'pruning'"]),
        (["--baseline", "sparsegpt"], ["'sparsegpt' is a method", "so it has no formula"]),
        (["--baseline", "sparsgpt"], ["unknown baseline 'sparsgpt'; did you mean 'sparsegpt'?"]),
        (["--baseline", "wanda", "--trials", "1"], ["trials must be at least 2, got 1"]),
    ],
    ids=lambda value: " ".join(value)[:50],
)
def test_what_it_refuses_before_a_model_is_looked_for(
    run: Run, options: dict[str, Any], tmp_path: Path, more: list[str], told: list[str]
) -> None:
    asked = words({**options, "model": "/missing/model"}, tmp_path)
    refused(run(*asked, *more), *told)
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "r").exists()
