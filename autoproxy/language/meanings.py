"""What each primitive does to numbers: plain functions of torch, total in float32.

Each stands alone (torch and nothing else), because exports copy its source word for word. Tensors
are 2-D: a row belongs to an output, a column to an input, and size 1 broadcasts.
"""

import torch
from torch import Tensor


def add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b."""
    return a + b


def sub(a: Tensor, b: Tensor) -> Tensor:
    """Return a - b."""
    return a - b


def mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def div(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; a divisor nearer to zero than 1e-30 counts as 1e-30 with its sign."""
    tiny = torch.full_like(b, 1e-30).copysign(b + 0.0)
    return a / torch.where(b.abs() < 1e-30, tiny, b)


def maximum(a: Tensor, b: Tensor) -> Tensor:
    """Return the larger of a and b."""
    return torch.maximum(a, b)


def minimum(a: Tensor, b: Tensor) -> Tensor:
    """Return the smaller of a and b."""
    return torch.minimum(a, b)


def neg(a: Tensor) -> Tensor:
    """Return -a."""
    return -a


def absolute(a: Tensor) -> Tensor:
    """Return |a|."""
    return a.abs()


def square(a: Tensor) -> Tensor:
    """Return a squared."""
    return a * a


def sqrt(a: Tensor) -> Tensor:
    """Return the square root of |a|."""
    return a.abs().sqrt()


def log(a: Tensor) -> Tensor:
    """Return log |a|; below 1e-30 it stays at log 1e-30 = -69.08."""
    return a.abs().clamp_min(1e-30).log()


def exp(a: Tensor) -> Tensor:
    """Return e to the a; above 80 it stays at e to the 80."""
    return a.clamp_max(80.0).exp()


def tanh(a: Tensor) -> Tensor:
    """Return the hyperbolic tangent of a."""
    return a.tanh()


def sigmoid(a: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-a))."""
    return a.sigmoid()


def sign(a: Tensor) -> Tensor:
    """Return -1, 0 or 1."""
    return a.sign()


def power(a: Tensor, exponent: float) -> Tensor:
    """Return |a| to the exponent; for a negative one, |a| below 1e-9 counts as 1e-9."""
    base = a.abs()
    return torch.pow(base.clamp_min(1e-9) if exponent < 0 else base, exponent)


def row_sum(a: Tensor) -> Tensor:
    """Return the sum over the inputs of each output."""
    return a.sum(dim=1, keepdim=True)


def row_mean(a: Tensor) -> Tensor:
    """Return the mean over the inputs of each output."""
    return a.mean(dim=1, keepdim=True)


def row_max(a: Tensor) -> Tensor:
    """Return the maximum over the inputs of each output."""
    return a.amax(dim=1, keepdim=True)


def row_min(a: Tensor) -> Tensor:
    """Return the minimum over the inputs of each output."""
    return a.amin(dim=1, keepdim=True)


def row_std(a: Tensor) -> Tensor:
    """Return the population standard deviation over the inputs of each output."""
    return (a - a.mean(dim=1, keepdim=True)).square().mean(dim=1, keepdim=True).sqrt()


def row_norm(a: Tensor) -> Tensor:
    """Return the Euclidean norm over the inputs of each output."""
    norm: Tensor = torch.linalg.vector_norm(a, dim=1, keepdim=True)
    return norm


def col_sum(a: Tensor) -> Tensor:
    """Return the sum over the outputs of each input."""
    return a.sum(dim=0, keepdim=True)


def col_mean(a: Tensor) -> Tensor:
    """Return the mean over the outputs of each input."""
    return a.mean(dim=0, keepdim=True)


def col_max(a: Tensor) -> Tensor:
    """Return the maximum over the outputs of each input."""
    return a.amax(dim=0, keepdim=True)


def col_min(a: Tensor) -> Tensor:
    """Return the minimum over the outputs of each input."""
    return a.amin(dim=0, keepdim=True)


def col_std(a: Tensor) -> Tensor:
    """Return the population standard deviation over the outputs of each input."""
    return (a - a.mean(dim=0, keepdim=True)).square().mean(dim=0, keepdim=True).sqrt()


def col_norm(a: Tensor) -> Tensor:
    """Return the Euclidean norm over the outputs of each input."""
    norm: Tensor = torch.linalg.vector_norm(a, dim=0, keepdim=True)
    return norm


def all_sum(a: Tensor) -> Tensor:
    """Return the sum over all entries."""
    return a.sum().reshape(1, 1)


def all_mean(a: Tensor) -> Tensor:
    """Return the mean over all entries."""
    return a.mean().reshape(1, 1)


def all_max(a: Tensor) -> Tensor:
    """Return the maximum over all entries."""
    return a.max().reshape(1, 1)


def all_min(a: Tensor) -> Tensor:
    """Return the minimum over all entries."""
    return a.min().reshape(1, 1)


def all_std(a: Tensor) -> Tensor:
    """Return the population standard deviation over all entries."""
    return (a - a.mean()).square().mean().sqrt().reshape(1, 1)


def all_norm(a: Tensor) -> Tensor:
    """Return the Euclidean (Frobenius) norm over all entries."""
    norm: Tensor = torch.linalg.vector_norm(a)
    return norm.reshape(1, 1)


def minmax(a: Tensor) -> Tensor:
    """Return (a - min) / (max - min) over all entries; 0 where all are equal."""
    low = a.min()
    return (a - low) / (a.max() - low).clamp_min(1e-30)


def row_minmax(a: Tensor) -> Tensor:
    """Return (a - min) / (max - min) over each row; 0 where all of a row are equal."""
    low = a.amin(dim=1, keepdim=True)
    return (a - low) / (a.amax(dim=1, keepdim=True) - low).clamp_min(1e-30)


def zscore(a: Tensor) -> Tensor:
    """Return (a - mean) / standard deviation over all entries."""
    centred = a - a.mean()
    return centred / centred.square().mean().sqrt().clamp_min(1e-30)


def row_zscore(a: Tensor) -> Tensor:
    """Return (a - mean) / standard deviation over each row."""
    centred = a - a.mean(dim=1, keepdim=True)
    return centred / centred.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-30)
