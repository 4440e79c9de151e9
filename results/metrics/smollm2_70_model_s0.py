"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def smollm2_70_model_s0(weight: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: g_token * abs(W) ** 1.16

    LaTeX: \lVert G^{t}\rVert \cdot \left|W\right|^{1.16}

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(g_token, pow(W, 1.16))
    Key: 60defb73d0fc1a0014f59a129803a41d
    source run: smollm2-70-model-s0
    model: smollm2-135m-instruct-q4_1
    condition: 70%
    group: model
    calibration: ../shared/text/sotu/1850.txt + ../shared/text/sotu/1900.txt +
        ../shared/text/austen/emma.txt + ../shared/text/austen/persuasion.txt
    validation: ../shared/text/sotu/1950.txt + ../shared/text/sotu/2000.txt +
        ../shared/text/austen/pride_and_prejudice.txt +
        ../shared/text/austen/sense_and_sensibility.txt
    model_hash: 016f3f30e9e74f2df2f20ce5c3d96d5b
    value: 1.80205 nats (kl)

    >>> import torch
    >>> tuple(smollm2_70_model_s0(torch.ones(2, 3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _power(weight, 1.159999966621399)  # (d_out, d_in)
    return _mul(g_token, v1)  # (d_out, d_in)


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def _power(a: Tensor, exponent: float) -> Tensor:
    """Return |a| to the exponent; for a negative one, |a| below 1e-9 counts as 1e-9."""
    base = a.abs()
    return torch.pow(base.clamp_min(1e-9) if exponent < 0 else base, exponent)
