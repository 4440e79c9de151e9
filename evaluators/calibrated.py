"""A model with its matrices, and what is measured of them on calibration texts."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from autoproxy.evaluation import Failed
from autoproxy.language.parse import parse
from autoproxy.language.program import Program
from evaluators.layers import compared, prunable, weights_of
from evaluators.masks import given_back
from evaluators.models import LoadedModel
from evaluators.statistics import Statistics, cached_statistics, noise

WANDA = parse("mul(abs(W), x_norm)")
"""What others are measured by: distortions are multiples of Wanda's, OWL counts its outliers, and
a search under several conditions compares with it."""


class Calibrated:
    """A model, and the terminals of its matrices by the seed of the calibration draw.

    Memory: the model, and the statistics that were asked for.

    Args:
        loaded: The model.
        blocks: Returns the calibration draw of a seed, (sequences, length) token ids.
        cache: Folder of the cache of statistics.
        limit: How large the cache may grow, such as `5GB`; None for what is usual.
        notice: Told when something was mended on the way, such as a corrupted cache.

    Attributes:
        loaded: The model.
        blocks: As given.
        layers: Its matrices that can be pruned, by name, in order.
        weights: The same as live weights, (d_out, d_in).
        by_layer: Their names, decoder layer by decoder layer.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        blocks: Callable[[int], Tensor],
        *,
        cache: Path,
        limit: str | None,
        notice: Callable[[str], None],
    ) -> None:
        self.loaded = loaded
        self.blocks = blocks
        self.layers = prunable(loaded.model)
        self.weights = weights_of(self.layers)
        self.by_layer = self.sets("layer")
        self._cache = cache
        self._limit = limit
        self._notice = notice
        self._statistics: dict[int, Statistics] = {}

    def sets(self, group: str) -> list[list[str]]:
        """Return the names of the matrices that a group compares with one another."""
        return compared(self.loaded.model, self.layers, group)

    @cached_property
    def sizes(self) -> list[int]:
        """Weights of each decoder layer that can be dropped."""
        return [sum(self.weights[name].numel() for name in names) for names in self.by_layer]

    def statistics(self, seed: int, names: frozenset[str]) -> Statistics:
        """Return statistics of the calibration draw of `seed`, measuring those that lack."""
        known = self._statistics.setdefault(seed, {name: {} for name in self.layers})
        have = set(next(iter(known.values())))
        missing = names - have - {"W", "noise"}
        if missing:
            drawn = self.blocks(seed)
            new = cached_statistics(
                self._cache, self.loaded, drawn, missing, self._notice, self._limit
            )
            for layer, values in new.items():
                known[layer].update(values)
        return known

    def layer_by_layer(
        self, seed: int, names: frozenset[str]
    ) -> Iterator[tuple[list[str], Statistics]]:
        """Yield the matrices of each decoder layer, first to last, with statistics of the dense.

        Weights of a model larger than memory can be had until the next is asked for.

        Args:
            seed: Of the calibration draw.
            names: Terminals of the vocabulary.
        """
        statistics = self.statistics(seed, names)
        for inside in self.by_layer:
            yield inside, statistics

    def lent(self, names: Iterable[str]) -> AbstractContextManager[None]:
        """Let weights be written to for the block; they are given back bit for bit."""
        return given_back({name: self.weights[name] for name in names})

    def forget(self, seed: int | None = None) -> None:
        """Drop the statistics of one draw, or all."""
        for one in list(self._statistics) if seed is None else [seed]:
            self._statistics.pop(one, None)

    def inputs(
        self, name: str, names: frozenset[str], statistics: Statistics, seed: int
    ) -> dict[str, Tensor]:
        """Return the terminals called `names` of one matrix, and `W`, in float32."""
        weight = self.weights[name].float().contiguous()  # GPT-2 stores it turned
        found = {"W": weight, **statistics[name]}
        if "noise" in names:
            found["noise"] = noise(name, weight.shape, seed).to(weight.device)
        return {terminal: found[terminal] for terminal in names | {"W"}}

    def importances(
        self, program: Program, names: Iterable[str], statistics: Statistics, seed: int
    ) -> dict[str, Tensor] | Failed:
        """Return what a program of one importance gives to some matrices, or why it cannot."""
        found: dict[str, Tensor] = {}
        for name in names:
            (value,) = program.run(self.inputs(name, program.terminals, statistics, seed))
            if not torch.isfinite(value).all():
                return Failed(f"not finite on {name}")
            found[name] = value.expand(self.weights[name].shape)
        return found
