"""SparseGPT: columns are dropped one after another, and later ones make good what is lost."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from evaluators.hessian import upper_factor
from evaluators.masks import NM, Pattern, Unstructured, keep_mask


@dataclass(frozen=True, slots=True)
class SparseGPT:
    """Optimal brain surgery from the first input to the last (Frantar & Alistarh 2023).

    With U^T U = H^-1, H damped as for `h_inv`, the weight W_ij is rated W_ij^2 / U_jj^2. A dropped
    one leaves the error W_ij / U_jj, which later inputs k take up: W_ik -= error * U_jk. Shares
    are compared in blocks of 128 inputs over all outputs, N:M in its own blocks, both as they
    are after all earlier updates.

    Exactly floor(d_out * d_in * sparsity) weights are zero, or block - keep of each block. Up to
    every 128th input the count is the floor of its share too (the published code drops ties
    beyond the count). Weights of inputs that are always zero are dropped first and else stay as
    they are (the published code zeroes them all); where all inputs are (an expert that no token
    chose) the smallest weights are dropped.

    Attributes:
        name: Word used on the command line.
        update: Whether weights that stay are changed; without, only the mask is SparseGPT's.
        width: Inputs in a block.

    >>> from evaluators.masks import NM
    >>> seen = {"moments": torch.tensor([[2.0, 1.0], [1.0, 2.0]])}
    >>> SPARSEGPT.prune(torch.tensor([[1.0, 3.0]]), seen, NM(1, 2))  # 3 + 1 / 2.02
    tensor([[0.0000, 3.4950]])
    """

    name: str = "sparsegpt"
    update: bool = True
    width: int = 128

    @property
    def source(self) -> str:
        """The paper."""
        return "Frantar & Alistarh 2023, arXiv:2301.00774" + ("" if self.update else ", mask only")

    @property
    def needs(self) -> frozenset[str]:
        """The Hessian of the layer's squared error."""
        return frozenset({"moments"})

    @property
    def group(self) -> str:
        """Blocks of inputs over all outputs, after updates."""
        return f"columns:{self.width}"

    def check(self, pattern: Pattern) -> None:
        """Every pattern can be made."""

    def prune(self, weight: Tensor, seen: Mapping[str, Tensor], pattern: Pattern) -> Tensor:
        """Return the pruned weight, as `Method.prune`.

        Args:
            weight: (d_out, d_in), float32.
            seen: `moments`, (d_in, d_in).
            pattern: How many weights are dropped.
        """
        moments = seen["moments"]
        factor = upper_factor(moments).float()
        scale = _scale(moments, factor)
        pruned = weight.clone()
        keep = torch.ones_like(weight, dtype=torch.bool)
        columns = weight.shape[1]
        width = self.width if isinstance(pattern, Unstructured) else _whole(self.width, pattern)
        for start in range(0, columns, width):
            stop = min(start + width, columns)
            inside = slice(start, stop)
            if isinstance(pattern, Unstructured):
                dropped = pattern.dropped(stop * len(weight)) - pattern.dropped(start * len(weight))
                keep[:, inside] = _keep(pruned[:, inside] * scale[inside], dropped)
            errors = torch.zeros_like(pruned[:, inside])
            for j in range(start, stop):
                if isinstance(pattern, NM) and j % pattern.block == 0:
                    block = slice(j, j + pattern.block)
                    rated = (pruned[:, block] * scale[block]).abs()
                    keep[:, block] = keep_mask(rated, pattern, "row")
                error = torch.where(keep[:, j], 0.0, pruned[:, j] / factor[j, j])
                pruned[:, j:stop] -= error[:, None] * factor[j, j:stop]
                errors[:, j - start] = error
            pruned[:, stop:] -= errors @ factor[inside, stop:]
        return (pruned if self.update else weight).masked_fill(~keep, 0.0)


def _scale(moments: Tensor, factor: Tensor) -> Tensor:
    """Return what weights are multiplied with to be rated: 1 / U_jj, and 0 for dead inputs.

    Not squared: the order is the same, and small weights do not vanish.
    """
    dead = moments.diagonal() == 0
    if dead.all():
        return torch.ones_like(factor.diagonal())
    return torch.where(dead, 0.0, 1.0 / factor.diagonal())


def _whole(width: int, pattern: NM) -> int:
    """Return the widest block of inputs that N:M blocks fill."""
    return max(pattern.block, width // pattern.block * pattern.block)


def _keep(rated: Tensor, dropped: int) -> Tensor:
    """Return the mask that drops a count of the smallest magnitudes; ties as everywhere."""
    count = Unstructured(Fraction(dropped, rated.numel()))
    return keep_mask(rated.abs(), count, "matrix")


SPARSEGPT = SparseGPT()
SPARSEGPT_MASK = SparseGPT("sparsegpt-mask", update=False)
