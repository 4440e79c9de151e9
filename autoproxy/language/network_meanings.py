"""What the primitives of predictions compute, beside those of `meanings`.

They have a file of their own, since the hash of `meanings` is part of every pruning protocol.
Shapes: weights (d_out, d_in); inputs and outputs of a layer (sequences, tokens, features);
attention (sequences, heads, queries, keys); values of layers (layers, 1).
"""

import torch
from torch import Tensor


def entropy(a: Tensor) -> Tensor:
    """Return -sum p log p in nats, p = |a| / sum |a| over all entries; 0 where all are 0."""
    share = a.abs() / a.abs().sum().clamp_min(1e-30)
    return -(share * share.clamp_min(1e-30).log()).sum().reshape(1, 1)


def nuclear(a: Tensor) -> Tensor:
    """Return the sum of the singular values of the matrix whose rows are all but the last axis.

    NaN where an entry is not finite.
    """
    rows = a.reshape(-1, a.shape[-1]).double()
    rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
    gram = rows @ rows.T  # in float64, where squares neither overflow nor hide small values
    finite = gram.isfinite().all()
    values = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0)).clamp_min(0.0).sqrt()
    return torch.where(finite, values.sum(), torch.nan).to(a.dtype).reshape(1, 1)


def spectral(a: Tensor) -> Tensor:
    """Return the largest singular value of the matrix whose rows are all but the last axis.

    NaN where an entry is not finite.
    """
    rows = a.reshape(-1, a.shape[-1]).double()
    rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
    gram = rows @ rows.T
    finite = gram.isfinite().all()
    values = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0)).clamp_min(0.0).sqrt()
    return torch.where(finite, values.amax(), torch.nan).to(a.dtype).reshape(1, 1)


def erank(a: Tensor) -> Tensor:
    """Return the effective rank of the matrix whose rows are all but the last axis.

    exp(-sum p log p), p = singular values over their sum; 1 where all entries are 0, NaN where
    an entry is not finite.
    """
    rows = a.reshape(-1, a.shape[-1]).double()
    rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
    gram = rows @ rows.T
    finite = gram.isfinite().all()
    values = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0)).clamp_min(0.0).sqrt()
    share = values / values.sum().clamp_min(1e-300)
    rank = torch.exp(-(share * share.clamp_min(1e-300).log()).sum())
    return torch.where(finite, rank, torch.nan).to(a.dtype).reshape(1, 1)


def logdet(a: Tensor) -> Tensor:
    """Return log det(A A^T / n + 1e-6 I), A the matrix whose rows are all but the last axis.

    A lies so that it has no more rows than columns, n of them. NaN where an entry is not finite.
    """
    rows = a.reshape(-1, a.shape[-1]).double()
    rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
    gram = rows @ rows.T
    finite = gram.isfinite().all()
    values = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0)).clamp_min(0.0)
    volume = (values / rows.shape[1] + 1e-6).log().sum()
    return torch.where(finite, volume, torch.nan).to(a.dtype).reshape(1, 1)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation over all entries; 0 where one is constant."""
    shape = (a + b).shape
    left, right = a.double().expand(shape), b.double().expand(shape)
    constant = (left.max() == left.min()) | (right.max() == right.min())
    left, right = left - left.mean(), right - right.mean()
    scale = torch.linalg.vector_norm(left) * torch.linalg.vector_norm(right)
    found = ((left * right).sum() / scale.clamp_min(1e-300)).clamp(-1.0, 1.0)
    return torch.where(constant, 0.0, found).to(a.dtype).reshape(1, 1)


def token_max(a: Tensor) -> Tensor:
    """Return the maximum over the tokens of each sequence, for each feature."""
    return a.amax(dim=1, keepdim=True)


def token_mean(a: Tensor) -> Tensor:
    """Return the mean over the tokens of each sequence, for each feature."""
    return a.mean(dim=1, keepdim=True)


def head_max(a: Tensor) -> Tensor:
    """Return the maximum over heads, for each query and key."""
    return a.amax(dim=1, keepdim=True)


def head_mean(a: Tensor) -> Tensor:
    """Return the mean over heads, for each query and key."""
    return a.mean(dim=1, keepdim=True)


def key_max(a: Tensor) -> Tensor:
    """Return the maximum over keys, for each head and query."""
    return a.amax(dim=-1, keepdim=True)


def key_entropy(a: Tensor) -> Tensor:
    """Return -sum a log |a| over keys, for each head and query; log as `log` is protected."""
    return -(a * a.abs().clamp_min(1e-30).log()).sum(dim=-1, keepdim=True)


def tokens_norm(a: Tensor) -> Tensor:
    """Return the Euclidean norm of each input over all sequences and tokens."""
    norm: Tensor = torch.linalg.vector_norm(a.reshape(-1, a.shape[-1]), dim=0)
    return norm.reshape(1, -1)


def tokens_mean(a: Tensor) -> Tensor:
    """Return the mean of each input over all sequences and tokens."""
    return a.reshape(-1, a.shape[-1]).mean(dim=0).reshape(1, -1)


def tokens_std(a: Tensor) -> Tensor:
    """Return the population standard deviation of each input over all sequences and tokens."""
    flat = a.reshape(-1, a.shape[-1])
    return (flat - flat.mean(dim=0)).square().mean(dim=0).sqrt().reshape(1, -1)


def outputs_norm(a: Tensor) -> Tensor:
    """Return the Euclidean norm of each output over all sequences and tokens."""
    norm: Tensor = torch.linalg.vector_norm(a.reshape(-1, a.shape[-1]), dim=0)
    return norm.reshape(-1, 1)


def outputs_mean(a: Tensor) -> Tensor:
    """Return the mean of each output over all sequences and tokens."""
    return a.reshape(-1, a.shape[-1]).mean(dim=0).reshape(-1, 1)


def outputs_std(a: Tensor) -> Tensor:
    """Return the population standard deviation of each output over all sequences and tokens."""
    flat = a.reshape(-1, a.shape[-1])
    return (flat - flat.mean(dim=0)).square().mean(dim=0).sqrt().reshape(-1, 1)


def layers_sum(a: Tensor) -> Tensor:
    """Return the sum over layers, one a row."""
    return a.sum().reshape(1, 1)


def layers_mean(a: Tensor) -> Tensor:
    """Return the mean over layers, one a row."""
    return a.mean().reshape(1, 1)


def layers_max(a: Tensor) -> Tensor:
    """Return the maximum over layers, one a row."""
    return a.max().reshape(1, 1)


def layers_min(a: Tensor) -> Tensor:
    """Return the minimum over layers, one a row."""
    return a.min().reshape(1, 1)


def layers_std(a: Tensor) -> Tensor:
    """Return the population standard deviation over layers, one a row."""
    return (a - a.mean()).square().mean().sqrt().reshape(1, 1)


def layers_logsum(a: Tensor) -> Tensor:
    """Return the sum of log |a| over layers, one a row; below 1e-30 it stays at log 1e-30."""
    return a.abs().clamp_min(1e-30).log().sum().reshape(1, 1)


def layers_first(a: Tensor) -> Tensor:
    """Return the value of the layer that is executed first, one a row."""
    return a.reshape(-1, 1)[:1]


def layers_last(a: Tensor) -> Tensor:
    """Return the value of the layer that is executed last, one a row."""
    return a.reshape(-1, 1)[-1:]
