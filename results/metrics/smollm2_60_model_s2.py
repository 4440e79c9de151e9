"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def smollm2_60_model_s2(weight: Tensor, g_norm: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: g_norm * g_token + g_token * abs(W) ** 1.64

    LaTeX: \left(\lVert G\rVert \cdot \lVert G^{t}\rVert + \lVert G^{t}\rVert \cdot
        \left|W\right|^{1.64}\right)

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        g_norm: (d_out, d_in), taken as float32; sqrt(sum over sequences of (dL/dW)^2); GBLM and
            Pruner-Zero use 100 times this.
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: add(mul(g_norm, g_token), mul(g_token, pow(W, 1.64)))
    Key: 894883222ed87fab7e7a658476feef33
    source run: smollm2-60-model-s2
    model: smollm2-135m-instruct-q4_1
    condition: 60%
    model_hash:
    value: -1.59448 log of KL to Wanda's (log_ratio)

    >>> import torch
    >>> tuple(smollm2_60_model_s2(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    g_norm = g_norm.float()  # (d_out, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _mul(g_norm, g_token)  # (d_out, d_in)
    v2 = _power(weight, 1.6399999856948853)  # (d_out, d_in)
    v3 = _mul(g_token, v2)  # (d_out, d_in)
    return _add(v1, v3)  # (d_out, d_in)


def _add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b."""
    return a + b


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def _power(a: Tensor, exponent: float) -> Tensor:
    """Return |a| to the exponent; for a negative one, |a| below 1e-9 counts as 1e-9."""
    base = a.abs()
    return torch.pow(base.clamp_min(1e-9) if exponent < 0 else base, exponent)
