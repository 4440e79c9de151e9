"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def smollm2_50_s2(weight: Tensor, x_norm: Tensor, g_norm: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: g_token * ((abs(W) / col_sum(abs(W)) + abs(W) / row_sum(abs(W))) * g_norm) * abs(W)
        ** 2.41 * x_norm

    LaTeX: \lVert G^{t}\rVert \cdot
        \left(\frac{\left|W\right|}{\sum_{i}\left(\left|W\right|\right)} +
        \frac{\left|W\right|}{\sum_{j}\left(\left|W\right|\right)}\right) \cdot \lVert G\rVert
        \cdot \left|W\right|^{2.41} \cdot \lVert X_j\rVert

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        x_norm: (d_in,), taken as float32; sqrt((1/N) sum over N sequences and all tokens of
            x_j^2): Wanda's sqrt(scaler_row).
        g_norm: (d_out, d_in), taken as float32; sqrt(sum over sequences of (dL/dW)^2); GBLM and
            Pruner-Zero use 100 times this.
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(mul(mul(g_token, mul(add(div(abs(W), col_sum(abs(W))), div(abs(W),
        row_sum(abs(W)))), g_norm)), pow(W, 2.41)), x_norm)
    Key: 54e1c473ffef4a4f3b13b8457c7f879b
    source run: smollm2-50-s2
    model: smollm2-135m-instruct-q4_1
    condition: 50%
    model_hash:
    value: -0.0474836 log of KL to Wanda's (log_ratio)

    >>> import torch
    >>> tuple(smollm2_50_s2(torch.ones(2, 3), torch.ones(3), torch.ones(2, 3), torch.ones(2,
    ...     3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    x_norm = x_norm.float().reshape(1, -1)  # (1, d_in)
    g_norm = g_norm.float()  # (d_out, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = _col_sum(v1)  # (1, d_in)
    v3 = _div(v1, v2)  # (d_out, d_in)
    v4 = _row_sum(v1)  # (d_out, 1)
    v5 = _div(v1, v4)  # (d_out, d_in)
    v6 = _add(v3, v5)  # (d_out, d_in)
    v7 = _mul(v6, g_norm)  # (d_out, d_in)
    v8 = _mul(g_token, v7)  # (d_out, d_in)
    v9 = _power(weight, 2.4100000858306885)  # (d_out, d_in)
    v10 = _mul(v8, v9)  # (d_out, d_in)
    return _mul(v10, x_norm)  # (d_out, d_in)


def _absolute(a: Tensor) -> Tensor:
    """Return |a|."""
    return a.abs()


def _add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b."""
    return a + b


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


def _power(a: Tensor, exponent: float) -> Tensor:
    """Return |a| to the exponent; for a negative one, |a| below 1e-9 counts as 1e-9."""
    base = a.abs()
    return torch.pow(base.clamp_min(1e-9) if exponent < 0 else base, exponent)


def _row_sum(a: Tensor) -> Tensor:
    """Return the sum over the inputs of each output."""
    return a.sum(dim=1, keepdim=True)
