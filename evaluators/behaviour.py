"""What an importance does on a probe of real rows: the order it gives, or why it is hopeless."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autoproxy.evaluation import Failed, Fingerprint
from autoproxy.language.expression import Expression
from autoproxy.language.locality import looks_across

MOST_TIES = 0.9
"""Share of neighbours in order that may be equal; beyond it the column number decides."""


@dataclass(slots=True)
class Probe:
    """The orders that one importance gives to the sampled groups of one layer after another."""

    digest: Any = field(default_factory=hashlib.sha256)
    finite: bool = True
    neighbours: int = 0
    ties: int = 0

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


def judge_orders(probe: Probe) -> Fingerprint | Failed:
    """Return the fingerprint of what a probe saw, or why the importance is hopeless."""
    if not probe.finite:
        return Failed("not finite on real rows")
    if probe.neighbours and probe.ties == probe.neighbours:
        return Failed("constant within every group of real rows")
    if probe.ties > MOST_TIES * probe.neighbours:
        return Failed(f"{probe.ties / probe.neighbours:.0%} of neighbours in order are tied")
    return Fingerprint(probe.digest.hexdigest()[:32])


def row_local(expression: Expression) -> bool:
    """Return whether each row of the value depends on that row of the terminals alone.

    Then a few rows can be computed without the rest. Reductions over outputs or over all
    entries, and min-max and z-score of what has rows, look at other rows.

    >>> from autoproxy.language.parse import parse
    >>> row_local(parse("row_minmax(abs(W)) * zscore(x_norm)")), row_local(parse("minmax(W)"))
    (True, False)
    """
    return not any(looks_across(node) for node in expression.walk())
