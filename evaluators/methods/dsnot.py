"""DSnoT: swaps between dropped and kept weights that bring a row's mean output back."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluators.masks import Pattern, keep_mask
from evaluators.methods.method import refuse_blocks


@dataclass(frozen=True, slots=True)
class DSnoT:
    """Dynamic sparse no training (Zhang et al. 2024) from Wanda's mask, row by row.

    With c_ij = W_ij * x_sum_j a row lacks e_i, the sum of its dropped c. A swap takes back the
    dropped weight of e's sign with the largest |c_ij| / x_var_j, and drops the kept weight of
    the other sign with the smallest Wanda importance, which both bring e nearer to zero. A row
    is done when |e| <= 0.1, before a swap that would turn the sign of e, when either kind of
    weight is used up, or after 50 swaps; no weight moves twice. Ties: lowest column first.

    Exactly floor(d_in * sparsity) weights of each row are zero; those that stay are unchanged.
    The published command leaves MLPs at Wanda's mask by default; here every matrix that is given
    is refined.

    >>> from evaluators.masks import parse_pattern
    >>> weight = torch.tensor([[2.0, 2.0, 2.0, -2.5, 9.0, 9.0]])
    >>> one = torch.ones(1, 6)
    >>> seen = {"x_norm": one, "x_sum": one, "x_var": one}
    >>> DSNOT.prune(weight, seen, parse_pattern("0.5", None)).tolist()  # e: 6, then 6 - 2 - 2.5
    [[2.0, 0.0, 0.0, 0.0, 9.0, 9.0]]
    """

    name: str = "dsnot"
    source: str = "Zhang et al. 2024, arXiv:2310.08915"
    needs: frozenset[str] = frozenset({"x_norm", "x_sum", "x_var"})
    group: str = "row"
    swaps: int = 50
    enough: float = 0.1

    def check(self, pattern: Pattern) -> None:
        """Raise a ConfigError for keep:block."""
        refuse_blocks(self.name, pattern)

    def prune(self, weight: Tensor, seen: Mapping[str, Tensor], pattern: Pattern) -> Tensor:
        """Return the pruned weight, as `Method.prune`.

        Args:
            weight: (d_out, d_in), float32.
            seen: `x_norm`, `x_sum` and `x_var`, (1, d_in) each.
            pattern: A share.
        """
        share = refuse_blocks(self.name, pattern)
        importance = weight.abs() * seen["x_norm"]
        keep = keep_mask(importance, share, "row")
        effect = weight * seen["x_sum"]
        lack = effect.double().masked_fill(keep, 0.0).sum(dim=1, keepdim=True)
        sign = lack.sign()
        none = float("inf")
        gain = (effect * sign / seen["x_var"].clamp_min(1e-30)).masked_fill(keep, -none)
        gain.masked_fill_(effect * sign <= 0, -none)
        cost = importance.masked_fill(~keep | (effect * sign >= 0), none)
        count = min(self.swaps, weight.shape[1])
        back, grown = _first(-gain, count)
        gone, dropped = _first(cost, count)
        done = self._swaps(lack, effect.gather(1, grown), effect.gather(1, dropped), back & gone)
        keep = keep.scatter(1, grown, keep.gather(1, grown) | done)
        keep = keep.scatter(1, dropped, keep.gather(1, dropped) & ~done)
        return weight.masked_fill(~keep, 0.0)

    def _swaps(self, lack: Tensor, back: Tensor, gone: Tensor, possible: Tensor) -> Tensor:
        """Return which of the swaps, in order, are made, (d_out, swaps) bool.

        Args:
            lack: (d_out, 1), what each row lacks at first.
            back: (d_out, swaps), what each swap would take back.
            gone: (d_out, swaps), what it would drop.
            possible: (d_out, swaps), whether there are such weights.
        """
        after = lack + (gone.double() - back.double()).cumsum(dim=1)
        before = torch.cat([lack, after[:, :-1]], dim=1)
        good = possible & (before.abs() > self.enough) & (after.sign() == lack.sign())
        return good.cummin(dim=1).values.bool()


def _first(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return whether each of the smallest of a row is finite, and its column."""
    ordered, columns = values.sort(dim=1, stable=True)
    return ordered[:, :count].isfinite(), columns[:, :count]


DSNOT = DSnoT()
