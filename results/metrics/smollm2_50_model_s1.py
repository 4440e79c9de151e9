"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def smollm2_50_model_s1(weight: Tensor, g_norm: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: g_norm * (g_norm * (abs(W) * g_norm)) * abs(W) ** 1.54 * abs(W) ** 2.1

    LaTeX: \lVert G\rVert \cdot \lVert G\rVert \cdot \left|W\right| \cdot \lVert G\rVert \cdot
        \left|W\right|^{1.54} \cdot \left|W\right|^{2.1}

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        g_norm: (d_out, d_in), taken as float32; sqrt(sum over sequences of (dL/dW)^2); GBLM and
            Pruner-Zero use 100 times this.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(mul(mul(g_norm, mul(g_norm, mul(abs(W), g_norm))), pow(W, 1.54)), pow(W,
        2.1))
    Key: 9640609ab63432abf295853d2ec6d725
    source run: smollm2-50-model-s1
    model: smollm2-135m-instruct-q4_1
    condition: 50%
    model_hash:
    value: -2.12388 log of KL to Wanda's (log_ratio)

    >>> import torch
    >>> tuple(smollm2_50_model_s1(torch.ones(2, 3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    g_norm = g_norm.float()  # (d_out, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = _mul(v1, g_norm)  # (d_out, d_in)
    v3 = _mul(g_norm, v2)  # (d_out, d_in)
    v4 = _mul(g_norm, v3)  # (d_out, d_in)
    v5 = _power(weight, 1.5399999618530273)  # (d_out, d_in)
    v6 = _mul(v4, v5)  # (d_out, d_in)
    v7 = _power(weight, 2.0999999046325684)  # (d_out, d_in)
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
