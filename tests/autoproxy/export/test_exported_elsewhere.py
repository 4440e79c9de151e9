"""A metric outside this project: a file beside a bare linear layer, torch, and nothing else."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from autoproxy.cli import main
from autoproxy.language.parse import parse
from autoproxy.language.program import Program
from tests.autoproxy.export.shipped import shipped_metrics

DISCOVERED = shipped_metrics(predictions=False)

ELSEWHERE = """
import importlib.util, sys
sys.path += [sys.argv[1], "."]  # the libraries as a plain folder: no editable checkout, no hooks
for name in ("autoproxy", "evaluators", "search_spaces"):
    assert importlib.util.find_spec(name) is None, name
import torch
from metric import metric

torch.set_num_threads(1)
torch.manual_seed(0)
layer = torch.nn.Linear(16, 8)
inputs = torch.randn(3, 5, 16)  # sequences, tokens, features
squares = torch.zeros_like(layer.weight)
by_token = torch.zeros_like(layer.weight)
for sequence in inputs:
    layer.zero_grad()
    outputs = layer(sequence)
    outputs.retain_grad()
    outputs.square().mean().backward()
    squares += layer.weight.grad.square()
    by_token += outputs.grad.square().T @ sequence.square()
measured = {
    "weight": layer.weight.detach().clone(),
    "x_norm": inputs.square().sum(dim=(0, 1)).div(len(inputs)).sqrt(),
    "g_norm": squares.sqrt(),
    "g_token": by_token.sqrt(),
}
names = metric.__code__.co_varnames[: metric.__code__.co_argcount]
importance = metric(*(measured[name] for name in names))
assert importance.shape == layer.weight.shape
kept = importance.topk(8, dim=1).indices
with torch.no_grad():
    layer.weight *= torch.zeros_like(layer.weight).scatter(1, kept, 1.0)
assert (layer.weight == 0).sum() == layer.weight.numel() // 2
assert layer(inputs).isfinite().all()
torch.save((measured, importance), "found.pt")
"""


@pytest.mark.parametrize(
    "metric",
    [*map(str, DISCOVERED), "wanda", "gblm", "abs(W) * sqrt(x_norm) + row_zscore(g_norm)"],
    ids=lambda word: Path(word).stem[:30],
)
def test_on_a_bare_layer_it_gives_the_bits_of_the_engine(metric: str, tmp_path: Path) -> None:
    words = ["export", metric, "--name", "metric", "--out", str(tmp_path / "metric.py")]
    assert main([*words, "--results", str(tmp_path)]) == 0
    libraries = sysconfig.get_path("purelib")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error::SyntaxWarning", "-c", ELSEWHERE, libraries],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured, importance = torch.load(tmp_path / "found.pt")
    assert main(["export", metric, "--form", "json", "--out", str(tmp_path / "metric.json")]) == 0
    text = json.loads((tmp_path / "metric.json").read_text(encoding="utf-8"))["text"]
    given = {
        "W": measured["weight"],
        "x_norm": measured["x_norm"].reshape(1, -1),
        "g_norm": measured["g_norm"],
        "g_token": measured["g_token"],
    }
    expression = parse(text)
    (right,) = Program([expression]).run({n: given[n] for n in {"W", *expression.terminals()}})
    assert torch.equal(importance, right)


def test_there_is_a_discovered_metric_to_try() -> None:
    assert DISCOVERED
