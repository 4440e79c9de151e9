"""What an importance does on a probe of real rows: the order it gives, or why it is hopeless."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from autoproxy.evaluation import Failed, Fingerprint
from autoproxy.language.expression import Expression
from autoproxy.language.locality import looks_across
from autoproxy.language.program import Program
from evaluators.calibrated import WANDA, Calibrated
from evaluators.masks import NM, SPANNING, Pattern, columns_of, keep_mask

MOST_TIES = 0.9
"""Share of neighbours in order that may be equal; beyond it the column number decides."""


@dataclass(slots=True)
class Probe:
    """The orders that one importance gives to the sampled groups of one layer after another."""

    digest: Any = field(default_factory=hashlib.sha256)
    finite: bool = True
    neighbours: int = 0
    ties: int = 0
    error: float = 0.0

    def see(self, groups: Tensor) -> None:
        """Take in the values of some groups, (groups, members)."""
        if not self.finite or not torch.isfinite(groups).all():
            self.finite = False
            return
        ordered, places = groups.sort(dim=1, stable=True)
        tied = ordered[:, 1:] == ordered[:, :-1]
        self.neighbours += tied.numel()
        self.ties += int(tied.sum())
        # Places alone would not tell an order from one with ties that fall alike.
        self.digest.update(places.int().cpu().numpy().tobytes())
        self.digest.update(tied.cpu().numpy().tobytes())

    def lose(self, groups: Tensor, squares: Tensor, whole: float, pattern: Pattern) -> None:
        """Take in what is lost of a layer when the least of each group are dropped.

        Args:
            groups: Values, (groups, members); for N:M the members of one block each.
            squares: (W_ij ||x_j||)^2 of the same weights: the squared error that dropping one
                makes in the layer's outputs, if inputs are not correlated.
            whole: Their sum in float64, the same for all probes of the layer.
            pattern: How many are dropped.
        """
        if self.finite:
            kept = keep_mask(groups.contiguous(), pattern, "row")
            stays = float(squares[kept].sum(dtype=torch.float64))
            self.error += (whole - stays) / max(whole, 1e-30)


def judge_orders(probe: Probe, reference: float | None = None) -> Fingerprint | Failed:
    """Return the fingerprint of what a probe saw, or why the importance is hopeless.

    Args:
        probe: After it saw all layers.
        reference: The error of a known good metric, if errors were taken in.
    """
    if not probe.finite:
        return Failed("not finite on real rows")
    if probe.neighbours and probe.ties == probe.neighbours:
        return Failed("constant within every group of real rows")
    if probe.ties > MOST_TIES * probe.neighbours:
        return Failed(f"{probe.ties / probe.neighbours:.0%} of neighbours in order are tied")
    distortion = None if reference is None else probe.error / max(reference, 1e-30)
    return Fingerprint(probe.digest.hexdigest()[:32], distortion)


def row_local(expression: Expression) -> bool:
    """Return whether each row of the value depends on that row of the terminals alone.

    Then a few rows can be computed without the rest. Reductions over outputs or over all
    entries, and min-max and z-score of what has rows, look at other rows.

    >>> from autoproxy.language.parse import parse
    >>> row_local(parse("row_minmax(abs(W)) * zscore(x_norm)")), row_local(parse("minmax(W)"))
    (True, False)
    """
    return not any(looks_across(node) for node in expression.walk())


class Prober:
    """Shows importances sampled rows of every matrix, in the groups that are compared.

    Args:
        model: The model with its statistics.
        pattern: How many are dropped.
        group: Where importances are compared; of N:M whatever it is.
        seed: Of the calibration draw.
    """

    def __init__(self, model: Calibrated, pattern: Pattern, group: str, seed: int) -> None:
        self._model = model
        self._pattern = pattern
        self.group = group
        self._sets = model.sets(group)
        self._seed = seed

    def judge(self, expressions: Sequence[Expression], reject: float) -> list[Fingerprint | Failed]:
        """Return the order of each importance on the sampled rows as a digest, and its distortion.

        Formulas whose rows do not depend on one another run on the sampled rows alone; the
        others on whole layers, of which the rows are then taken. The distortion is what dropping
        the least of the sampled rows takes from the layers' outputs, as a multiple of Wanda's;
        it can only grow from layer to layer, so a probe ends when it exceeds `reject`.
        """
        reference = self._wanda_error
        probes = self._probe(expressions, reject, reference)
        return [judge_orders(probe, reference) for probe in probes]

    def values(self, expressions: Sequence[Expression]) -> list[str]:
        """Return a digest of the bits of each value on the sampled rows of every layer.

        They may be of any kind along the axes of a weight; what has no rows is taken whole.
        """
        digests = [hashlib.sha256() for _ in expressions]
        for wanted in (True, False):
            chosen = [i for i, one in enumerate(expressions) if row_local(one) is wanted]
            program = Program([expressions[i] for i in chosen])
            for name in self._model.layers if chosen else ():
                for i, value in zip(chosen, self._sample(program, name, local=wanted), strict=True):
                    digests[i].update(value.contiguous().cpu().numpy().tobytes())
        return [digest.hexdigest()[:32] for digest in digests]

    @cached_property
    def _wanda_error(self) -> float:
        (probe,) = self._probe([WANDA], math.inf, 1.0)
        return max(probe.error, 1e-30)

    def _probe(
        self, expressions: Sequence[Expression], reject: float, reference: float
    ) -> list[Probe]:
        """Return probes that saw every layer, or some until they distorted more than `reject`."""

        def goes_on(probe: Probe) -> bool:
            return probe.finite and probe.error / reference <= reject

        probes = [Probe() for _ in expressions]
        local = [row_local(expression) for expression in expressions]
        for wanted in (True, False):
            chosen = [i for i, is_local in enumerate(local) if is_local is wanted]
            program = Program([expressions[i] for i in chosen])
            for names in self._sets:
                left = [i for i in chosen if goes_on(probes[i])]
                if len(left) < len(chosen):
                    chosen, program = left, Program([expressions[i] for i in left])
                if chosen:
                    self._see(program, names, [probes[i] for i in chosen], local=wanted)
        return probes

    def _see(
        self, program: Program, names: Sequence[str], probes: Sequence[Probe], *, local: bool
    ) -> None:
        """Show each probe the sampled rows of its value on matrices that are compared."""
        samples: list[list[Tensor]] = [[] for _ in probes]
        for name in names:
            for place, sample in enumerate(self._sample(program, name, local=local)):
                samples[place].append(sample)
        errors = self._commensurable([self._sampled_squares(name) for name in names])
        wholes = [float(squares.sum(dtype=torch.float64)) for squares in errors]
        for probe, parts in zip(probes, samples, strict=True):
            probe.see(self._grouped(parts))
            for groups, squares, whole in zip(
                self._commensurable(parts), errors, wholes, strict=True
            ):
                probe.lose(groups, squares, whole, self._pattern)

    def _sampled_squares(self, name: str) -> Tensor:
        """Return (W_ij ||x_j||)^2 on the sampled rows of a layer."""
        norms = self._model.statistics(self._seed, WANDA.terminals())[name]["x_norm"]
        return (self._model.weights[name][self._sampled_rows(name)].float() * norms).square()

    def _sample(self, program: Program, name: str, *, local: bool) -> Iterator[Tensor]:
        """Yield the sampled rows of each value of a program on one layer."""
        rows = self._sampled_rows(name)
        statistics = self._model.statistics(self._seed, program.terminals)
        inputs = self._model.inputs(name, program.terminals, statistics, self._seed)
        if local:
            inputs = {k: v[rows] if v.shape[0] > 1 else v for k, v in inputs.items()}
        for value in program.run(inputs):
            yield value if local or value.shape[0] == 1 else value[rows]

    def _sampled_rows(self, layer: str) -> Tensor:
        """Return eight rows of a layer, spread evenly: heads and channels differ along them.

        Two where the whole model is compared at once, which bounds the memory of a batch.
        """
        rows = self._model.weights[layer].shape[0]
        count = min(2 if self.group == "model" else 8, rows)
        return torch.arange(count, device=self._model.weights[layer].device) * rows // count

    def _commensurable(self, parts: list[Tensor]) -> list[Tensor]:
        """Return sampled rows as the groups that a distortion is taken of.

        Errors of outputs say nothing across matrices: a large one in one layer may matter less
        than a small one in another. Of several that are compared each is taken for itself, and
        how sparsity is given out among them is left to the objective.
        """
        if self.group in SPANNING:
            return [part.reshape(1, -1) for part in parts]
        return [self._grouped(parts)]

    def _grouped(self, parts: list[Tensor]) -> Tensor:
        """Return sampled rows as the groups that are compared, one a row.

        Args:
            parts: The sample of each matrix that is compared with the others.
        """
        columns = columns_of(self.group)
        if isinstance(self._pattern, NM):
            return parts[0].reshape(-1, self._pattern.block)
        if columns:
            blocks = parts[0].reshape(len(parts[0]), -1, columns).transpose(0, 1)
            return blocks.reshape(-1, len(parts[0]) * columns)
        if self.group == "row":
            return parts[0]
        return torch.cat([part.reshape(1, -1) for part in parts], dim=1)
