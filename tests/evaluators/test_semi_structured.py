"""Speed of semi-structured tensors: what can be converted, and honest words about the gain."""

from fractions import Fraction

import pytest
import torch

from evaluators.layers import Layer, prunable
from evaluators.masks import NM, Pattern, Unstructured, keep_mask
from evaluators.semi_structured import measure_speed, median_seconds, obstacle, verdict
from tests.evaluators.families import config_of, model_of_family
from tests.evaluators.tiny import save


def layer(rows: int, columns: int, pattern: Pattern) -> Layer:
    module = torch.nn.Linear(columns, rows, bias=False)
    mask = keep_mask(module.weight.detach().abs(), pattern, "row")
    module.weight.data.masked_fill_(~mask, 0.0)
    return Layer(module, module.get_parameter("weight"))


@pytest.mark.parametrize(
    ("rows", "columns", "pattern", "told"),
    [
        (64, 128, NM(2, 4), None),
        (32, 64, NM(1, 4), None),
        (64, 128, NM(4, 8), "more than two of four"),
        (64, 128, NM(3, 4), "more than two of four"),
        (64, 128, Unstructured(Fraction(1, 2)), "--pattern 2:4"),
        (48, 128, NM(2, 4), "48 x 128 is no multiple of 32 x 64"),
        (64, 96, NM(2, 4), "64 x 96 is no multiple"),
    ],
)
def test_only_what_torch_takes_is_converted(
    rows: int, columns: int, pattern: Pattern, told: str | None
) -> None:
    found = obstacle(layer(rows, columns, pattern))
    assert found is None if told is None else told in str(found)


@pytest.mark.parametrize(("family", "told"), [("gpt2", "Conv1D"), ("mixtral", "Experts")])
def test_other_storage_stays_dense(family: str, told: str) -> None:
    reasons = [obstacle(layer) for layer in prunable(model_of_family(family)).values()]
    assert any(told in str(reason) for reason in reasons)


def test_a_gain_within_noise_is_none() -> None:
    assert verdict(1.0, 0.96, 1, 0).startswith("no gain: 1.04 times")
    assert verdict(1.0, 0.94, 1, 0).startswith("1.06 times as fast")


def test_the_median_leaves_out_what_warms_up() -> None:
    calls = []
    found = median_seconds(lambda: calls.append("run"), lambda: calls.append("wait"), 5)
    assert calls == ["wait", "run", "wait"] * 8
    assert 0 <= found < 0.1


def test_without_a_device_it_says_so() -> None:
    assert measure_speed("starter", device="cpu").dense is None
    if not torch.cuda.is_available():
        told = measure_speed("starter").verdict
        assert told.startswith("cannot be measured on cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_device_it_gives_the_same_logits(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = config_of("llama")
    config.hidden_size, config.intermediate_size = 256, 512
    model = type(model_of_family("llama"))(config)
    for one in prunable(model).values():
        one.weight.masked_fill_(~keep_mask(one.weight.abs(), NM(2, 4), "row"), 0.0)
    found = measure_speed(str(save(tmp_path, model)))
    if found.sparse is None:
        pytest.skip(found.verdict)
    assert len(found.converted) == 14
    assert found.deviation is not None
    assert found.deviation < 0.01
