"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def smollm2_24_s0(weight: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: abs(W) * g_token / col_sum(abs(W))

    LaTeX: \frac{\left|W\right| \cdot \lVert G^{t}\rVert}{\sum_{i}\left(\left|W\right|\right)}

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: div(mul(abs(W), g_token), col_sum(abs(W)))
    Key: b701a572f57db3da1d101ff45c24f288
    source run: smollm2-24-s0
    model: smollm2-135m-instruct-q4_1
    condition: 2:4
    group: block
    calibration: ../shared/text/sotu/1850.txt + ../shared/text/sotu/1900.txt +
        ../shared/text/austen/emma.txt + ../shared/text/austen/persuasion.txt
    validation: ../shared/text/sotu/1950.txt + ../shared/text/sotu/2000.txt +
        ../shared/text/austen/pride_and_prejudice.txt +
        ../shared/text/austen/sense_and_sensibility.txt
    model_hash: 016f3f30e9e74f2df2f20ce5c3d96d5b
    value: 1.48805 nats (kl)

    >>> import torch
    >>> tuple(smollm2_24_s0(torch.ones(2, 3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = _mul(v1, g_token)  # (d_out, d_in)
    v3 = _col_sum(v1)  # (1, d_in)
    return _div(v2, v3)  # (d_out, d_in)


def _absolute(a: Tensor) -> Tensor:
    """Return |a|."""
    return a.abs()


def _col_sum(a: Tensor) -> Tensor:
    """Return the sum over the outputs of each input."""
    return a.sum(dim=0, keepdim=True)


def _div(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; a divisor nearer to zero than 1e-30 counts as 1e-30 with its sign."""
    tiny = torch.full_like(b, 1e-30).copysign(b + 0.0)
    return a / torch.where(b.abs() < 1e-30, tiny, b)


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b
