"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def starter_llama_24_s0(weight: Tensor, x_norm: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: g_token * (abs(W) * g_token) * abs(W) ** 2.3 * abs(W) ** 2.3 * sqrt(x_norm)

    LaTeX: \lVert G^{t}\rVert \cdot \left|W\right| \cdot \lVert G^{t}\rVert \cdot
        \left|W\right|^{2.3} \cdot \left|W\right|^{2.3} \cdot \sqrt{\left|\lVert
        X_j\rVert\right|}

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        x_norm: (d_in,), taken as float32; sqrt((1/N) sum over N sequences and all tokens of
            x_j^2): Wanda's sqrt(scaler_row).
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(mul(mul(mul(g_token, mul(abs(W), g_token)), pow(W, 2.3)), pow(W, 2.3)),
        sqrt(x_norm))
    Key: b253d05842f5264a2b08b4130c94ccea
    source run: starter-llama-24-s0
    model: starter-llama
    condition: 2:4
    group: block
    calibration: topics:calibration
    validation: topics:validation
    model_hash: 702e86728f43edb7f820e6d6f002c806
    value: 0.567014 nats (kl)

    >>> import torch
    >>> tuple(starter_llama_24_s0(torch.ones(2, 3), torch.ones(3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    x_norm = x_norm.float().reshape(1, -1)  # (1, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = _mul(v1, g_token)  # (d_out, d_in)
    v3 = _mul(g_token, v2)  # (d_out, d_in)
    v4 = _power(weight, 2.299999952316284)  # (d_out, d_in)
    v5 = _mul(v3, v4)  # (d_out, d_in)
    v6 = _mul(v5, v4)  # (d_out, d_in)
    v7 = _sqrt(x_norm)  # (1, d_in)
    return _mul(v6, v7)  # (d_out, d_in)


def _absolute(a: Tensor) -> Tensor:
    """Return |a|."""
    return a.abs()


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def _power(a: Tensor, exponent: float) -> Tensor:
    """Return |a| to the exponent; for a negative one, |a| below 1e-9 counts as 1e-9."""
    base = a.abs()
    return torch.pow(base.clamp_min(1e-9) if exponent < 0 else base, exponent)


def _sqrt(a: Tensor) -> Tensor:
    """Return the square root of |a|."""
    return a.abs().sqrt()
