"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def smollm2_60_model_s1(weight: Tensor, x_norm: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: g_token * (abs(W) * (100 + x_norm)) * abs(tanh(W)) ** 0.34

    LaTeX: \lVert G^{t}\rVert \cdot \left|W\right| \cdot \left(100 + \lVert X_j\rVert\right)
        \cdot \left|\tanh\left(W\right)\right|^{0.34}

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        x_norm: (d_in,), taken as float32; sqrt((1/N) sum over N sequences and all tokens of
            x_j^2): Wanda's sqrt(scaler_row).
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(mul(g_token, mul(abs(W), add(100, x_norm))), pow(tanh(W), 0.34))
    Key: cb1b201618b6fa77ed1062e91a80b7c2
    source run: smollm2-60-model-s1
    model: smollm2-135m-instruct-q4_1
    condition: 60%
    model_hash:
    value: -1.59975 log of KL to Wanda's (log_ratio)

    >>> import torch
    >>> tuple(smollm2_60_model_s1(torch.ones(2, 3), torch.ones(3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    x_norm = x_norm.float().reshape(1, -1)  # (1, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = weight.new_full((1, 1), 100)  # (1, 1)
    v3 = _add(v2, x_norm)  # (1, d_in)
    v4 = _mul(v1, v3)  # (d_out, d_in)
    v5 = _mul(g_token, v4)  # (d_out, d_in)
    v6 = _tanh(weight)  # (d_out, d_in)
    v7 = _power(v6, 0.3400000035762787)  # (d_out, d_in)
    return _mul(v5, v7)  # (d_out, d_in)


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


def _tanh(a: Tensor) -> Tensor:
    """Return the hyperbolic tangent of a."""
    return a.tanh()
