"""From an importance to masks: how much of each matrix is dropped, and which of its weights.

`Decider.masks` is read from the top down: patterns first (`_patterns`: an allocation may give each
decoder layer another), then bits, at once or decoder layer after decoder layer; both decide
what is compared together by `_bits`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoproxy.errors import ConfigError, ModelError
from autoproxy.evaluation import Failed, content_hash
from autoproxy.language.expression import Expression
from autoproxy.language.program import Program
from evaluators.allocation import (
    ALLOCATIONS,
    alpha_pruning,
    outlier_share,
    owl,
    read_allocation,
    tail_exponent,
)
from evaluators.calibrated import WANDA, Calibrated
from evaluators.config import PruningConfig
from evaluators.layers import compared
from evaluators.masks import (
    NM,
    SPANNING,
    Pattern,
    Unstructured,
    check_fits,
    given_back,
    keep_masks,
    pack,
    unpack,
)
from evaluators.methods import Method, check_asked
from evaluators.statistics import FLOWING, Statistics, flows
from evaluators.tiles import Tiles
from evaluators.walk import Walk

Masks = dict[str, NDArray[np.uint8]]
"""Packed bits by the name of a matrix, (d_out, d_in), 1 = keep."""


class Decider:
    """Decides which weights of a model stay, as a configuration asks.

    Args:
        model: The model with its statistics; live weights are given back bit for bit.
        config: Pattern, group, allocation and mode.

    Attributes:
        pattern: How many are dropped.
        group: Where importances are compared; `block` for N:M.

    Raises:
        ConfigError: Blocks do not divide the inputs of a matrix.
    """

    def __init__(self, model: Calibrated, config: PruningConfig) -> None:
        self.pattern = config.condition
        check_fits(self.pattern, config.group, model.weights)
        self.group = "block" if isinstance(self.pattern, NM) else config.group
        self._model = model
        self._sets = model.sets(self.group)
        self._allocation = config.allocation
        self._mode = config.mode
        self._tiles = Tiles()
        self._outliers_of: dict[int, list[float]] = {}

    def masks(self, expression: Expression, seed: int) -> Masks | Failed:
        """Return the masks that an importance decides with the calibration draw of `seed`."""
        program = Program([expression])
        patterns = self._patterns(program, seed)
        if isinstance(patterns, Failed):
            return patterns
        if self._mode == "sequential":
            return self._in_turn(program, patterns, seed)
        return self._at_once(program, patterns, seed)

    def masks_with(
        self, shares: Sequence[Fraction], expression: Expression, seed: int
    ) -> Masks | Failed:
        """Return the masks in one shot that drop a given share of each decoder layer."""
        return self._at_once(Program([expression]), self._spread(shares), seed)

    def weights_by(self, method: Method, seed: int) -> dict[str, Tensor]:
        """Return the weights that a method makes of each layer's, decoder layer by decoder layer.

        Its statistics, which may be as large as the weights, are of one decoder layer at a time.

        Raises:
            ConfigError: The method cannot make the pattern, compares elsewhere than is asked, or
                has no sparsities.
        """
        check_asked(method, self.pattern, self.group)
        patterns = self._patterns(Program([WANDA]), seed)
        if isinstance(patterns, Failed):
            raise ConfigError(f"{method.name} cannot be given its sparsities: {patterns.reason}")
        model = self._model
        walk = Walk(model.loaded.model, model.blocks(seed))
        made: dict[str, Tensor] = {}
        with given_back(model.weights):
            for number, inside in enumerate(model.by_layer):
                layers = {name: model.layers[name] for name in inside}
                seen = flows(layers, walk.runs(number), method.needs)
                _check_finite(method.name, seen)
                if self._mode == "oneshot":
                    walk.step(number)
                for name in inside:
                    live = model.weights[name]
                    new = method.prune(live.float().contiguous(), seen[name], patterns[name])
                    made[name] = new.to(live.dtype)
                    live.copy_(made[name])
                if self._mode == "sequential":
                    walk.step(number)
        return made

    def masks_by(self, method: Method, seed: int) -> tuple[Masks, dict[str, Tensor]]:
        """Return the masks that a method leaves, and its weights where it changed what stays.

        Dropped is what the method makes zero, so zeros that the model had are dropped too unless
        the method gives them another value.

        Returns:
            Bits of each matrix, and the weights of `weights_by`, on the processor, of those
            matrices alone that are not the model's own with zeros.

        Raises:
            ConfigError: As `weights_by`, or a weight is not finite.
        """
        made = self.weights_by(method, seed)
        masks: Masks = {}
        changed: dict[str, Tensor] = {}
        for name in self._model.weights:
            new, dense = made.pop(name), self._model.weights[name]  # freed one by one
            if not torch.isfinite(new).all():
                raise ConfigError(
                    f"{method.name} cannot prune this model: its weights are not finite on {name}"
                )
            keep = new != 0
            masks[name] = pack(keep)
            if not torch.equal(new, dense.masked_fill(~keep, 0.0)):
                changed[name] = new.cpu()
        return masks, changed

    def owl(self, seed: int, sparsity: Fraction) -> list[Fraction]:
        """Return the sparsity of each decoder layer by its share of Wanda's outliers."""
        return owl(self._outliers(seed), self._model.sizes, sparsity)

    def protocol(self) -> dict[str, Any]:
        """Return how sparsity is given out; nothing where it is the same everywhere."""
        if self._allocation == "uniform" or isinstance(self.pattern, NM):
            return {}
        if self._allocation in ALLOCATIONS:
            return {"allocation": self._allocation}
        digest = content_hash([str(share) for share in self._shares_of_file(self.pattern.sparsity)])
        return {"allocation": Path(self._allocation).name, "allocation_hash": digest}

    def _at_once(
        self, program: Program, patterns: Mapping[str, Pattern], seed: int
    ) -> Masks | Failed:
        """Return masks made from statistics of the dense model alone."""
        model = self._model
        if self.group == "model":
            statistics = model.statistics(seed, program.terminals)
            return self._bits_of(program, self._sets, patterns, statistics, seed)
        masks: Masks = {}
        for inside, statistics in model.layer_by_layer(seed, program.terminals):
            sets = compared(model.loaded.model, inside, self.group)
            bits = self._bits_of(program, sets, patterns, statistics, seed)
            if isinstance(bits, Failed):
                return bits
            masks |= bits
        return masks

    def _in_turn(
        self, program: Program, patterns: Mapping[str, Pattern], seed: int
    ) -> Masks | Failed:
        """Return masks made decoder layer by decoder layer, each behind those already pruned."""
        model = self._model
        flowing = program.terminals & FLOWING
        if not flowing:  # gradients and weights are the dense model's, whatever was pruned
            return self._at_once(program, patterns, seed)
        of_dense = model.layer_by_layer(seed, program.terminals - flowing)
        walk = Walk(model.loaded.model, model.blocks(seed))
        masks: Masks = {}
        for number, (inside, dense) in enumerate(of_dense):
            # No name is left for what has weights: they must be gone when the next are read.
            seen = flows({name: model.layers[name] for name in inside}, walk.runs(number), flowing)
            here = {name: {**dense[name], **seen[name]} for name in inside}
            sets = compared(model.loaded.model, inside, self.group)
            bits = self._bits_of(program, sets, patterns, here, seed)
            if isinstance(bits, Failed):
                return bits
            masks |= bits
            with model.lent(inside):
                self._drop(bits)
                walk.step(number)
        return masks

    def _drop(self, masks: Masks) -> None:
        """Zero the live weights that masks drop."""
        for name, bits in masks.items():
            weight = self._model.weights[name]
            weight.masked_fill_(~unpack(bits, weight), 0.0)

    def _bits_of(
        self,
        program: Program,
        sets: Iterable[Sequence[str]],
        patterns: Mapping[str, Pattern],
        statistics: Statistics,
        seed: int,
    ) -> Masks | Failed:
        """Return the masks of several sets of matrices, each compared within itself."""
        masks: Masks = {}
        for names in sets:
            bits = self._bits(program, names, patterns, statistics, seed)
            if isinstance(bits, Failed):
                return bits
            masks |= bits
        return masks

    def _bits(
        self,
        program: Program,
        names: Sequence[str],
        patterns: Mapping[str, Pattern],
        statistics: Statistics,
        seed: int,
    ) -> Masks | Failed:
        """Return the masks of matrices that are compared together."""
        pattern = patterns[names[0]]  # the same of all that are compared
        if len(names) > 1 and isinstance(pattern, Unstructured):
            importances = self._model.importances(program, names, statistics, seed)
            if isinstance(importances, Failed):
                return importances
            return {name: pack(mask) for name, mask in keep_masks(importances, pattern).items()}
        (name,) = names
        inputs = self._model.inputs(name, program.terminals, statistics, seed)
        group = "matrix" if self.group in SPANNING else self.group  # the only one of its set
        bits = self._tiles.keep_bits(program, inputs, pattern, group)
        return Failed(f"not finite on {name}") if bits is None else {name: bits}

    def _patterns(self, program: Program, seed: int) -> Mapping[str, Pattern] | Failed:
        """Return how many are dropped of each matrix, by its name."""
        if self._allocation == "uniform" or isinstance(self.pattern, NM):
            return dict.fromkeys(self._model.layers, self.pattern)
        shares = self._shares(self.pattern.sparsity, program, seed)
        return shares if isinstance(shares, Failed) else self._spread(shares)

    def _spread(self, shares: Sequence[Fraction]) -> dict[str, Pattern]:
        """Return the share of each decoder layer as the pattern of its matrices."""
        return {
            name: Unstructured(share)
            for names, share in zip(self._model.by_layer, shares, strict=True)
            for name in names
        }

    def _shares(
        self, sparsity: Fraction, program: Program, seed: int
    ) -> Sequence[Fraction] | Failed:
        """Return the sparsity of each decoder layer."""
        if self._allocation == "owl":
            return self.owl(seed, sparsity)
        if self._allocation == "alpha":
            return alpha_pruning(self._tail_exponents, self._model.sizes, sparsity)
        if self._allocation == "metric":
            return self._shares_of_metric(sparsity, program, seed)
        return self._shares_of_file(sparsity)

    def _shares_of_metric(
        self, sparsity: Fraction, program: Program, seed: int
    ) -> Sequence[Fraction] | Failed:
        """Return what an importance drops of each decoder layer if it compares all weights."""
        model = self._model
        statistics = model.statistics(seed, program.terminals)
        importances = model.importances(program, model.layers, statistics, seed)
        if isinstance(importances, Failed):
            return importances
        kept = keep_masks(importances, Unstructured(sparsity))
        return [
            Fraction(sum(int((~kept[name]).sum()) for name in names), size)
            for names, size in zip(model.by_layer, model.sizes, strict=True)
        ]

    def _shares_of_file(self, sparsity: Fraction) -> list[Fraction]:
        return read_allocation(Path(self._allocation), len(self._model.by_layer), sparsity)

    def _outliers(self, seed: int) -> list[float]:
        """Return the share of outliers of Wanda's importance in each decoder layer."""
        if seed in self._outliers_of:
            return self._outliers_of[seed]
        wanda = Program([WANDA])
        shares = []
        for names, statistics in self._model.layer_by_layer(seed, wanda.terminals):
            importances = self._model.importances(wanda, names, statistics, seed)
            if isinstance(importances, Failed):
                raise ConfigError(f"allocation owl: Wanda's importance is {importances.reason}")
            shares.append(outlier_share(list(importances.values())))
        self._outliers_of[seed] = shares
        return shares

    @cached_property
    def _tail_exponents(self) -> list[float]:
        weights = self._model.weights
        return [
            math.fsum(tail_exponent(weights[name]) for name in names) / len(names)
            for names, _ in self._model.layer_by_layer(0, frozenset())  # of any draw: no statistics
        ]


def _check_finite(method: str, seen: Statistics) -> None:
    """Raise a ModelError where what a method reads is not finite: it would prune a wrong count."""
    for layer, values in seen.items():
        for name, value in values.items():
            if not torch.isfinite(value).all():
                raise ModelError(
                    f"{method} cannot prune this model: {name} of {layer} is not finite, as with "
                    "float16, which holds no number above 65504; ask for --dtype bfloat16 or "
                    "float32"
                )
