"""Wanda's variant: rows lose different counts, but the same share of their importance."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from evaluators.masks import Pattern, keep_mask
from evaluators.methods.method import refuse_blocks


@dataclass(frozen=True, slots=True)
class WandaVariant:
    """Wanda's importance A * x_norm with a count of each row's own (Sun et al. 2023).

    A row drops its smallest importances as long as their sum is at most a share alpha of the sum
    of the row; alpha is one for the whole matrix. The published code bisects alpha until the
    sparsity is near enough; here a weight is rated by the share at which it falls, so that the
    smallest of the matrix are exact: floor(d_out * d_in * sparsity) weights are zero.

    Weights that stay are unchanged.

    >>> from evaluators.masks import parse_pattern
    >>> import torch
    >>> weight = torch.tensor([[1.0, 1.0, 1.0, 7.0], [4.0, 5.0, 6.0, 5.0]])
    >>> seen = {"x_norm": torch.ones(1, 4)}
    >>> WANDA_VARIANT.prune(weight, seen, parse_pattern("0.5", None)).tolist()
    [[0.0, 0.0, 0.0, 7.0], [0.0, 5.0, 6.0, 5.0]]
    """

    name: str = "wanda-variant"
    source: str = "Sun et al. 2023, arXiv:2306.11695, --use_variant"
    needs: frozenset[str] = frozenset({"x_norm"})
    group: str = "row, equal shares of importance"

    def check(self, pattern: Pattern) -> None:
        """Raise a ConfigError for keep:block."""
        refuse_blocks(self.name, pattern)

    def prune(self, weight: Tensor, seen: Mapping[str, Tensor], pattern: Pattern) -> Tensor:
        """Return the pruned weight, as `Method.prune`.

        Args:
            weight: (d_out, d_in), float32.
            seen: `x_norm`, (1, d_in).
            pattern: A share.
        """
        share = refuse_blocks(self.name, pattern)
        keep = keep_mask(_falls_at(weight.abs() * seen["x_norm"]), share, "matrix")
        return weight.masked_fill(~keep, 0.0)


def _falls_at(importance: Tensor) -> Tensor:
    """Return the share of its row's sum at which each weight is dropped, (d_out, d_in) float64."""
    ordered, place = importance.double().sort(dim=1, stable=True)
    sums = ordered.cumsum(dim=1)
    shares = sums / sums[:, -1:].clamp_min(1e-300)  # a row of zeros is dropped first
    return shares.scatter(1, place, shares)


WANDA_VARIANT = WandaVariant()
