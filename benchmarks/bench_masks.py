"""Metric, masks, apply and restore of one decoder layer, each as a ratio to a memory copy.

The layer has LLaMA-7B's shapes, the metric is Wanda's, numbers are float32, and one thread works.
Each step is measured beside a copy of the same matrix made just before it, by CPU time; the
minimum of several rounds counts, and times are summed over the matrices. The copy is torch's
`copy_`; numpy's, which writes past the caches, stands beside it. The ways of published code are
written anew here: a stable sort of each row and a scatter, a full sort of the matrix, a loop of
`topk` over groups of four, and an assignment through a mask. With a CUDA device a whole model of
these layers is measured too, against a copy on the device.

    python benchmarks/bench_masks.py
    python benchmarks/bench_masks.py --shrink 8 --rounds 2
"""

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from autoproxy.language.parse import parse
from autoproxy.language.program import Program
from evaluators import kernels
from evaluators.masks import NM, Pattern, Unstructured, applied, keep_mask, unpack
from evaluators.tiles import Tiles

SHAPES = (*[(4096, 4096)] * 4, *[(11008, 4096)] * 2, (4096, 11008))
LAYERS = 32
WANDA = Program([parse("mul(abs(W), x_norm)")])
HALF, FOURS = Unstructured(Fraction(1, 2)), NM(2, 4)
MASKS: Mapping[str, tuple[Pattern, str]] = {
    "per row": (HALF, "row"),
    "per matrix": (HALF, "matrix"),
    "2:4": (FOURS, "row"),
}
BARS = {"per row": 5.0, "per matrix": 6.0, "2:4": 2.0, "apply": 1.5, "restore": 1.5}


def layer(shape: tuple[int, int], seed: int) -> dict[str, Tensor]:
    """Return a weight whose rows differ in scale, and inputs of which six are outliers."""
    draw = torch.Generator().manual_seed(seed)
    scale = torch.randn(shape[0], 1, generator=draw).mul_(0.5).exp_()
    norm = torch.randn(1, shape[1], generator=draw).exp_()
    norm[:, :6] *= 30
    return {"W": torch.randn(shape, generator=draw) * scale, "x_norm": norm}


def by_sorting_rows(weight: Tensor, norm: Tensor) -> Tensor:
    order = torch.sort(weight.abs() * norm, dim=-1, stable=True).indices
    dropped = torch.zeros_like(weight, dtype=torch.bool)
    return dropped.scatter_(1, order[:, : weight.shape[1] // 2], value=True)


def by_sorting_all(weight: Tensor, norm: Tensor) -> Tensor:
    metric = weight.abs() * norm
    return metric <= torch.sort(metric.flatten()).values[metric.numel() // 2 - 1]


def by_topk_of_fours(weight: Tensor, norm: Tensor) -> Tensor:
    metric = weight.abs() * norm
    dropped = torch.zeros_like(weight, dtype=torch.bool)
    for first in range(0, weight.shape[1], 4):
        lowest = metric[:, first : first + 4].topk(2, dim=1, largest=False).indices
        dropped.scatter_(1, first + lowest, value=True)
    return dropped


PUBLISHED = {"per row": by_sorting_rows, "per matrix": by_sorting_all, "2:4": by_topk_of_fours}


class Stopwatch:
    """The least CPU time of each step on one matrix, each beside copies made just before it."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self._other = torch.empty_like(weight)
        self.best: dict[str, float] = defaultdict(lambda: math.inf)

    def time(self, name: str, step: Callable[..., object], *operands: Any) -> None:
        """Take the time of a step, and of both copies."""
        self._time("copy", self._other.copy_, self._weight)
        self._time("copy by numpy", np.copyto, self._other.numpy(), self._weight.numpy())
        self._time(name, step, *operands)

    def _time(self, name: str, step: Callable[..., object], *operands: Any) -> None:
        begin = time.thread_time()
        step(*operands)
        self.best[name] = min(self.best[name], time.thread_time() - begin)


def measure(shape: tuple[int, int], seed: int, rounds: int, published: int) -> dict[str, float]:
    """Return the seconds of each step on one matrix."""
    inputs = layer(shape, seed)
    weight = inputs["W"]
    watch = Stopwatch(weight)
    tiles, spare = Tiles(), dict[str, Tensor]()
    bits = tiles.keep_bits(WANDA, inputs, HALF, "row")
    assert bits is not None
    for turn in range(rounds):
        for name, how in MASKS.items():
            watch.time(name, tiles.keep_bits, WANDA, inputs, *how)
            if turn < published:
                watch.time(f"{name}, published", PUBLISHED[name], weight, inputs["x_norm"])
        lent = applied({"w": weight}, {"w": bits}, spare)
        watch.time("apply", lent.__enter__)
        watch.time("restore", lent.__exit__, None, None, None)
        if turn < published:
            watch.time("apply, published", weight.clone().__setitem__, ~unpack(bits, weight), 0.0)
    _check(weight, layer(shape, seed)["W"])
    return dict(watch.best)


def _check(found: Tensor, expected: Tensor) -> None:
    """See that the weights were given back, or no time counts."""
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


def on_cuda(shapes: Sequence[tuple[int, int]], rounds: int) -> dict[str, float]:
    """Return the seconds of a whole model on the device: every layer in memory of its own."""
    made = [layer(shape, number) for number, shape in enumerate(shapes)]
    model = [{n: v.cuda() for n, v in inputs.items()} for _ in range(LAYERS) for inputs in made]
    best: dict[str, float] = defaultdict(lambda: float("inf"))

    def timed(name: str, step: Callable[[], None]) -> None:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize()
        best[name] = min(best[name], time.perf_counter() - begin)

    largest = max((inputs["W"] for inputs in model), key=Tensor.numel)
    other = torch.empty_like(largest).reshape(-1)

    def copy() -> None:
        for inputs in model:
            other[: inputs["W"].numel()].copy_(inputs["W"].reshape(-1))

    def candidate(pattern: Pattern, group: str) -> None:
        for inputs in model:
            (value,) = WANDA.run(inputs)
            mask = keep_mask(value, pattern, group)
            with applied({"w": inputs["W"]}, {"w": mask}):
                pass

    for _ in range(rounds + 1):
        timed("copy", copy)
        for name, how in MASKS.items():
            timed(name, lambda how=how: candidate(*how))
    return dict(best)


def table_of(seconds: Mapping[str, float], title: str) -> Table:
    """Return a table of steps, their times and ratios to the copy, and the bars."""
    table = Table(title=title)
    for heading in ("step", "ms", "x copy", "x numpy's copy", "bar"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    fast = seconds.get("copy by numpy")
    for name, spent in seconds.items():
        bar = BARS.get(name)
        table.add_row(
            name,
            f"{1000 * spent:.1f}",
            f"{spent / seconds['copy']:.2f}",
            f"{spent / fast:.2f}" if fast else "",
            f"{bar:g}" if bar and fast else "",
        )
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, measure, and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shrink", type=int, default=1, help="divide both sides of each matrix")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--published", type=int, default=1, help="rounds of the published ways")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    shapes = [(rows // asked.shrink, columns // asked.shrink) for rows, columns in SHAPES]
    compiling = kernels.compile_all() if kernels.AVAILABLE else 0.0
    seconds: dict[str, float] = defaultdict(float)
    for number, shape in enumerate(shapes):
        for name, spent in measure(shape, number, asked.rounds, asked.published).items():
            seconds[name] += spent
    found: dict[str, Any] = {
        "shapes": shapes,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "compiled": kernels.AVAILABLE,
        "compile_seconds": compiling,
        "seconds": seconds,
        "ratios": {name: spent / seconds["copy"] for name, spent in seconds.items()},
        "cuda": on_cuda(shapes, asked.rounds) if torch.cuda.is_available() else None,
    }
    console = Console()
    console.print(table_of(seconds, "One decoder layer, one thread, float32"))
    if found["cuda"]:
        name = torch.cuda.get_device_name()
        console.print(table_of(found["cuda"], f"{LAYERS} layers on {name}, metric, mask and apply"))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
