"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def starter_llama_60_s0(weight: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: g_token * abs(W) ** 1.5

    LaTeX: \lVert G^{t}\rVert \cdot \left|W\right|^{1.5}

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(g_token, pow(W, 1.5))
    Key: 1411f018d52c0b73a0977f0218536362
    source run: starter-llama-60-s0
    model: starter-llama
    condition: 60%
    group: row
    calibration: topics:calibration
    validation: topics:validation
    model_hash: 702e86728f43edb7f820e6d6f002c806
    value: 0.526229 nats (kl)

    >>> import torch
    >>> tuple(starter_llama_60_s0(torch.ones(2, 3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _power(weight, 1.5)  # (d_out, d_in)
    return _mul(g_token, v1)  # (d_out, d_in)


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def _power(a: Tensor, exponent: float) -> Tensor:
    """Return |a| to the exponent; for a negative one, |a| below 1e-9 counts as 1e-9."""
    base = a.abs()
    return torch.pow(base.clamp_min(1e-9) if exponent < 0 else base, exponent)
