"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def importance_starter_llama_50_s0(weight: Tensor, x_norm: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: g_token * abs(W) ** 2.02 * (x_norm - 0.064)

    LaTeX: \lVert G^{t}\rVert \cdot \left|W\right|^{2.02} \cdot \left(\lVert X_j\rVert -
        0.064\right)

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        x_norm: (d_in,), taken as float32; sqrt((1/N) sum over N sequences and all tokens of
            x_j^2): Wanda's sqrt(scaler_row).
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(mul(g_token, pow(W, 2.02)), sub(x_norm, 0.064))
    Key: 592d067af6aed578f344ee16766a4ab3
    source run: importance-starter-llama-50-s0
    model: starter-llama
    condition: 50%
    group: row
    calibration: topics:calibration
    validation: topics:validation
    model_hash: 702e86728f43edb7f820e6d6f002c806
    value: 0.265791 nats (kl)

    >>> import torch
    >>> tuple(importance_starter_llama_50_s0(torch.ones(2, 3), torch.ones(3), torch.ones(2,
    ...     3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    x_norm = x_norm.float().reshape(1, -1)  # (1, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _power(weight, 2.0199999809265137)  # (d_out, d_in)
    v2 = _mul(g_token, v1)  # (d_out, d_in)
    v3 = weight.new_full((1, 1), 0.064)  # (1, 1)
    v4 = _sub(x_norm, v3)  # (1, d_in)
    return _mul(v2, v4)  # (d_out, d_in)


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def _power(a: Tensor, exponent: float) -> Tensor:
    """Return |a| to the exponent; for a negative one, |a| below 1e-9 counts as 1e-9."""
    base = a.abs()
    return torch.pow(base.clamp_min(1e-9) if exponent < 0 else base, exponent)


def _sub(a: Tensor, b: Tensor) -> Tensor:
    """Return a - b."""
    return a - b
