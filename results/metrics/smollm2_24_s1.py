"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def smollm2_24_s1(weight: Tensor, g_norm: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: (abs(W) * g_token + g_token * (W * g_norm)) * (abs(W) * g_token + abs(W) * g_token
        * g_norm ** 0.34)

    LaTeX: \left(\left|W\right| \cdot \lVert G^{t}\rVert + \lVert G^{t}\rVert \cdot W \cdot
        \lVert G\rVert\right) \cdot \left(\left|W\right| \cdot \lVert G^{t}\rVert +
        \left|W\right| \cdot \lVert G^{t}\rVert \cdot \left|\lVert G\rVert\right|^{0.34}\right)

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        g_norm: (d_out, d_in), taken as float32; sqrt(sum over sequences of (dL/dW)^2); GBLM and
            Pruner-Zero use 100 times this.
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(add(mul(abs(W), g_token), mul(g_token, mul(W, g_norm))), add(mul(abs(W),
        g_token), mul(mul(abs(W), g_token), pow(g_norm, 0.34))))
    Key: 88e708e60fe5298b993938ddf8502949
    source run: smollm2-24-s1
    model: smollm2-135m-instruct-q4_1
    condition: 2:4
    model_hash:
    value: -0.164444 log of KL to Wanda's (log_ratio)

    >>> import torch
    >>> tuple(smollm2_24_s1(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    g_norm = g_norm.float()  # (d_out, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = _mul(v1, g_token)  # (d_out, d_in)
    v3 = _mul(weight, g_norm)  # (d_out, d_in)
    v4 = _mul(g_token, v3)  # (d_out, d_in)
    v5 = _add(v2, v4)  # (d_out, d_in)
    v6 = _power(g_norm, 0.3400000035762787)  # (d_out, d_in)
    v7 = _mul(v2, v6)  # (d_out, d_in)
    v8 = _add(v2, v7)  # (d_out, d_in)
    return _mul(v5, v8)  # (d_out, d_in)


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
