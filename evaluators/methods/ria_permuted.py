"""RIA with channel permutation: inputs are dealt to N:M blocks so that important ones part."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from evaluators.masks import NM, Pattern, keep_mask
from evaluators.methods.method import refuse_share


@dataclass(frozen=True, slots=True)
class RIAPermuted:
    """RIA's importance with inputs permuted before N:M (Zhang et al. 2024).

    First the inputs, by the sum of their importances, are dealt to blocks in turns that change
    direction. Then, for each place of a block in turn, the inputs at this place are taken out of
    all blocks and given back so that the importance that stays is largest (a linear assignment).

    Exactly block - keep weights of each block of the *permuted* inputs are zero: the pattern
    holds for `weight[:, permutation(...)]`, not for the order of inputs that is given back, so
    hardware gains only where the permutation is folded into the model. Weights that stay are
    unchanged.
    """

    name: str = "ria-permuted"
    source: str = "Zhang et al. 2024 (RIA, ICLR), channel permutation"
    needs: frozenset[str] = frozenset({"x_norm"})
    group: str = "block of permuted inputs"

    def check(self, pattern: Pattern) -> None:
        """Raise a ConfigError for a share."""
        refuse_share(self.name, pattern)

    def prune(self, weight: Tensor, seen: Mapping[str, Tensor], pattern: Pattern) -> Tensor:
        """Return the pruned weight, as `Method.prune`, in the order of inputs that was given.

        Args:
            weight: (d_out, d_in), float32.
            seen: `x_norm`, (1, d_in).
            pattern: keep:block.
        """
        blocks = refuse_share(self.name, pattern)
        importance = _ria(weight, seen["x_norm"])
        order = permutation(importance, blocks)
        keep = torch.empty_like(weight, dtype=torch.bool)
        keep[:, order] = keep_mask(importance[:, order].contiguous(), blocks, "row")
        return weight.masked_fill(~keep, 0.0)


def permutation(importance: Tensor, pattern: NM) -> Tensor:
    """Return the order of inputs that parts important ones, (d_in,) int64.

    Args:
        importance: (d_out, d_in), finite; the block divides d_in.
        pattern: keep:block.

    >>> importance = torch.tensor([[9.0, 8.0, 1.0, 2.0]])
    >>> permutation(importance, NM(1, 2)).tolist()
    [2, 0, 3, 1]
    """
    dealt = _dealt(importance, pattern.block)
    for place in range(pattern.block):
        dealt[:, place] = dealt[_assigned(importance, dealt, place, pattern), place]
    return dealt.reshape(-1)


def _ria(weight: Tensor, x_norm: Tensor) -> Tensor:
    """Return A / its column's sum + A / its row's sum, times sqrt(x_norm)."""
    size = weight.abs()
    columns, rows = size.sum(dim=0, keepdim=True), size.sum(dim=1, keepdim=True)
    relative = size / columns.clamp_min(1e-30) + size / rows.clamp_min(1e-30)
    return relative * x_norm.sqrt()


def _dealt(importance: Tensor, block: int) -> Tensor:
    """Return the inputs of each block, (blocks, block), dealt from the least important on."""
    order = importance.double().sum(dim=0).argsort(stable=True)
    turns = order.reshape(block, -1)
    return torch.stack([t.flip(0) if n % 2 else t for n, t in enumerate(turns)], dim=1)


def _assigned(importance: Tensor, dealt: Tensor, place: int, pattern: NM) -> Tensor:
    """Return which block's input at a place each block should have, (blocks,)."""
    others = [n for n in range(pattern.block) if n != place]
    # Of what else a block holds, the keep-th largest is what a new input must beat.
    rival = importance[:, dealt[:, others]].topk(pattern.keep, dim=2).values[:, :, -1]
    rival, free = rival.double(), importance[:, dealt[:, place]].double()
    # The sum of max(0, free - rival) over outputs is half of the sum of |free - rival| and both.
    apart = torch.cdist(rival.T.contiguous(), free.T.contiguous(), p=1)
    gains = apart + free.sum(dim=0) - rival.sum(dim=0)[:, None]
    _, chosen = linear_sum_assignment(gains.cpu().numpy(), maximize=True)
    return torch.from_numpy(chosen).to(dealt.device)


RIA_PERMUTED = RIAPermuted()
