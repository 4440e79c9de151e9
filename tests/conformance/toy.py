"""A toy evaluator without a model, for tests of what uses evaluators: thousands of values a second.

It prunes two random matrices and measures the mean square of what their outputs lose.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Self

import torch
from torch import Tensor

from autoproxy.evaluation import (
    BLOCK,
    Direction,
    Failed,
    Fingerprint,
    Measured,
    Objective,
    Outcome,
    content_hash,
)
from autoproxy.language.blindness import Blindness
from autoproxy.language.expression import Expression
from autoproxy.language.program import Program
from autoproxy.language.terminals import VOCABULARY
from autoproxy.language.types import Kind, shape_of
from evaluators.behaviour import Probe, judge_orders
from evaluators.masks import Unstructured, keep_mask

SAMPLES = 8
HALF = Unstructured(Fraction(1, 2))


class ToyEvaluator:
    """Half of each row of two matrices goes; the loss is in what comes out of eight samples.

    Attributes:
        measured: Key text and fidelity of every measurement that was made, in order.
        layers: Name to terminals.
        samples: Name to (samples, d_in).
    """

    objective = Objective("loss", "output squared", Direction.MINIMIZE)
    provides = frozenset(VOCABULARY)
    blindness = Blindness.ROW

    def __init__(self, *, seed: int = 0, rungs: tuple[float, ...] = (0.25, 1.0)) -> None:
        self._seed = seed
        self.fidelities = rungs
        self.measured: list[tuple[str, float]] = []
        self.layers = {name: _terminals(seed, name) for name in ("first", "second")}
        self.samples = {
            name: torch.randn(2 * SAMPLES, values["W"].shape[1], generator=_generator(seed, name))
            * values["x_norm"]
            for name, values in self.layers.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def protocol(self) -> dict[str, Any]:
        return {"evaluator": "toy", "seed": self._seed, "rungs": list(self.fidelities)}

    def behaviour(
        self, expressions: Sequence[Expression], reject: float = math.inf
    ) -> list[Fingerprint | Failed]:
        del reject
        probes = [Probe() for _ in expressions]
        for name, inputs in self.layers.items() if expressions else ():
            for probe, value in zip(probes, Program(expressions).run(inputs), strict=True):
                probe.see(value.expand(self.layers[name]["W"].shape))
        return [judge_orders(probe) for probe in probes]

    def identity(self, expression: Expression) -> str | Failed:
        masks = self._masks(expression)
        if isinstance(masks, Failed):
            return masks
        return content_hash([mask.tolist() for mask in masks.values()])

    def measure(self, expressions: Sequence[Expression], fidelity: float) -> Iterator[Outcome]:
        for expression in expressions:
            masks = self._masks(expression)
            if isinstance(masks, Failed):
                yield masks
                continue
            count = round(fidelity * SAMPLES)
            losses = [self._loss(masks, number) for number in range(count)]
            self.measured.append((str(expression), fidelity))
            blocks = {f"{BLOCK}{number}": loss for number, loss in enumerate(losses, 1)}
            yield Measured(sum(losses) / count, fidelity, details=blocks)

    def confirm(self, expression: Expression) -> tuple[float, ...]:
        masks = self._masks(expression)
        assert not isinstance(masks, Failed)
        return tuple(self._loss(masks, SAMPLES + number) for number in range(SAMPLES))

    def _masks(self, expression: Expression) -> dict[str, Tensor] | Failed:
        masks = {}
        for name, inputs in self.layers.items():
            (value,) = Program([expression]).run(inputs)
            if not torch.isfinite(value).all():
                return Failed(f"not finite on {name}")
            masks[name] = keep_mask(value.expand(inputs["W"].shape), HALF, "row")
        return masks

    def _loss(self, masks: dict[str, Tensor], number: int) -> float:
        total = 0.0
        for name, keep in masks.items():
            lost = self.layers[name]["W"].double() * ~keep
            total += float((lost @ self.samples[name][number].double()).square().sum())
        return total


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed + 100 * len(name))


def _terminals(seed: int, name: str) -> dict[str, Tensor]:
    generator = _generator(seed, name)
    drawn = {}
    for terminal in VOCABULARY.values():
        value = torch.randn(shape_of(terminal.kind, 6, 10), generator=generator)
        if terminal.kind is Kind.PER_INPUT:
            value = value.exp()  # inputs of very different size, so that there is much to find
        drawn[terminal.name] = value.abs() if terminal.nonnegative else value
    return drawn
