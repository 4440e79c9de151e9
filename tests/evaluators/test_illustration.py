"""What pictures of a winner's work show: against masks and orders got another way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoproxy.language.parse import parse
from evaluators.illustration import kept_rows
from evaluators.masks import applied, pack
from evaluators.prediction import PredictionEvaluator
from evaluators.pruning import PruningEvaluator
from evaluators.shrinking import ShrinkingEvaluator
from tests.evaluators.tables import starter_rows, write
from tests.evaluators.test_prediction_evaluator import OPTIONS
from tests.evaluators.tiny import tiny_options

WANDA = parse("mul(abs(W), x_norm)")
MAGNITUDE = parse("abs(W)")


@given(
    masks=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40).filter(
        lambda bits: any(a for a, _ in bits)
    )
)
def test_shares_are_counted_bit_by_bit(masks: list[tuple[bool, bool]]) -> None:
    one, other = (torch.tensor(bits) for bits in zip(*masks, strict=True))
    name = "model.layers.7.mlp.up_proj"
    (row,) = kept_rows({name: pack(one)}, {name: pack(other)}, {name: len(masks)})
    kept = [b for a, b in masks if a]
    assert row == {
        "layer": 7,
        "module": "mlp.up_proj",
        "kept": len(kept) / len(masks),
        "shared": sum(kept) / len(kept),
    }


def test_a_matrix_that_loses_everything_shares_all_that_it_keeps() -> None:
    nothing = np.zeros(2, dtype=np.uint8)
    (row,) = kept_rows({"head": nothing}, {"head": nothing}, {"head": 16})
    assert row == {"layer": 0, "module": "head", "kept": 0.0, "shared": 1.0}


def open_pruning(folder: Path, **changes: Any) -> PruningEvaluator:
    options = tiny_options(folder, **changes)
    return PruningEvaluator.from_options(options, cache=folder / "cache", notice=print)


def test_a_pruned_model_is_drawn_as_it_is(tmp_path: Path) -> None:
    with open_pruning(tmp_path, sparsity="0.5", group="layer") as evaluator:
        evaluator.prepare(["W", "x_norm"])
        found = evaluator.illustrate(MAGNITUDE, {"wanda": WANDA, "ria": "x"})
        masks, wanda = (evaluator._masks_of(e) for e in (MAGNITUDE, WANDA))
        assert isinstance(masks, dict)
        assert isinstance(wanda, dict)
        layers = evaluator._model.layers
        stays, both = {}, {}
        with applied({n: layer.weight for n, layer in layers.items()}, masks):
            for name, layer in layers.items():
                stays[name] = layer.weight != 0
        with applied({n: layer.weight for n, layer in layers.items()}, wanda):
            for name, layer in layers.items():
                both[name] = stays[name] & (layer.weight != 0)
    assert found["kind"] == "masks"
    assert found["against"] == "wanda"
    wanted = [
        (float(stays[name].float().mean()), int(both[name].sum()) / int(stays[name].sum()))
        for name in layers
    ]
    assert [row["kept"] for row in found["rows"]] == pytest.approx([kept for kept, _ in wanted])
    assert [row["shared"] for row in found["rows"]] == pytest.approx([part for _, part in wanted])
    assert len({round(row["kept"], 3) for row in found["rows"]}) > 1  # compared over the layer
    assert [row["layer"] for row in found["rows"]] == [0] * 7 + [1] * 7
    assert {row["module"] for row in found["rows"] if row["layer"] == 1} == {
        *(f"self_attn.{letter}_proj" for letter in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    }


def test_without_wanda_there_is_nothing_to_share(tmp_path: Path) -> None:
    with open_pruning(tmp_path) as evaluator:
        evaluator.prepare(["W"])
        found = evaluator.illustrate(MAGNITUDE, {})
    assert found["against"] is None
    assert all("shared" not in row for row in found["rows"])


def test_whole_channels_are_counted_as_units(tmp_path: Path) -> None:
    options = {**tiny_options(tmp_path), "unit": "channels", "sparsity": "0.25"}
    evaluator = ShrinkingEvaluator.from_options(options, cache=tmp_path / "c", notice=print)
    with evaluator:
        evaluator.prepare(["W"])
        found = evaluator.illustrate(parse("col_sum(abs(W))"), {})
    assert [row["kept"] for row in found["rows"]] == [0.75, 0.75]  # of 24 channels each


def test_networks_are_those_that_no_search_saw(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", starter_rows())
    options = {"table": str(path), **OPTIONS}
    evaluator = PredictionEvaluator.from_options(options, cache=tmp_path / "c", notice=print)
    evaluator.prepare(["W"])
    formula = parse("neg(layers_sum(all_norm(W)))")
    others = {
        "parameters": parse("params"),
        "norms": parse("layers_mean(all_norm(W))"),
        "lexicographic": "lexicographic",
    }
    found = evaluator.illustrate(formula, others)
    architectures = evaluator.benchmark.architectures
    assert [row["network"] for row in found["rows"]] == [
        architectures[p].id for p in evaluator.unseen
    ]
    assert [row["quality"] for row in found["rows"]] == [
        architectures[p].quality for p in evaluator.unseen
    ]
    assert all(
        set(row["scores"]) == {"discovered", "parameters", "lexicographic"} for row in found["rows"]
    )
    given_ = evaluator.oriented(formula, evaluator.unseen)
    assert [row["scores"]["discovered"] for row in found["rows"]] == given_.tolist()
