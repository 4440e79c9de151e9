"""What the words of a published language do to numbers, where ours mean something else.

They stay as they were published, faults included, so that a formula of that language is the same
formula here; a test holds them to their source, since protocols do not hash this file. Only what
gave no number is mended, for every meaning is total in float32. Like `meanings` each function
stands alone, because exports copy its source.

Those of Pruner-Zero: its `lib/gptree.py`.
"""

import torch
from torch import Tensor


def pz_div(a: Tensor, b: Tensor) -> Tensor:
    """Return a / ||b||, b as wide as the result; a norm below 1e-30 counts as 1e-30."""
    rows, columns = max(a.shape[0], b.shape[0]), max(a.shape[1], b.shape[1])
    norm: Tensor = torch.linalg.vector_norm(b.expand(rows, columns))
    return a.expand(rows, columns) / norm.clamp_min(1e-30)


def pz_log(a: Tensor) -> Tensor:
    """Return log(|a| + 0.001)."""
    return torch.log(a.abs() + 0.001)


def pz_exp(a: Tensor) -> Tensor:
    """Return e to the a; above 88.72 it stays there, since e to the 88.73 is infinite."""
    return a.clamp_max(88.72).exp()


def pz_zsn(a: Tensor) -> Tensor:
    """Return (a - mean) / the deviation of a sample, over all entries; 0 for a single one."""
    centred = a - a.mean()
    return centred / (centred.square().sum() / max(1, a.numel() - 1)).sqrt().clamp_min(1e-30)


def pz_skp(a: Tensor) -> Tensor:
    """Return a."""
    return a.clone()
