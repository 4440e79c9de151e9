"""What an importance does on a probe of real rows: the order it gives, or why it is hopeless."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autoproxy.evaluation import Failed, Fingerprint
from autoproxy.language.expression import Expression
from autoproxy.language.locality import looks_across
from evaluators.masks import Pattern, keep_mask

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
