"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def smollm2_70_model_s1(weight: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: abs(W) * g_token + g_token * abs(W) ** 2.09

    LaTeX: \left(\left|W\right| \cdot \lVert G^{t}\rVert + \lVert G^{t}\rVert \cdot
        \left|W\right|^{2.09}\right)

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: add(mul(abs(W), g_token), mul(g_token, pow(W, 2.09)))
    Key: 239936f0b89c0a138a005433a329009a
    source run: smollm2-70-model-s1
    model: smollm2-135m-instruct-q4_1
    condition: 70%
    model_hash:
    value: -1.15698 log of KL to Wanda's (log_ratio)

    >>> import torch
    >>> tuple(smollm2_70_model_s1(torch.ones(2, 3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = _mul(v1, g_token)  # (d_out, d_in)
    v3 = _power(weight, 2.0899999141693115)  # (d_out, d_in)
    v4 = _mul(g_token, v3)  # (d_out, d_in)
    return _add(v2, v4)  # (d_out, d_in)


def _absolute(a: Tensor) -> Tensor:
    """Return |a|."""
    return a.abs()


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
