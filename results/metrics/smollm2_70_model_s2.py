"""A metric discovered or exported by AutoProxy; it needs torch alone."""

from torch import Tensor


def smollm2_70_model_s2(weight: Tensor, x_norm: Tensor, g_norm: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: g_norm * ((abs(W) * g_norm + g_norm * square(W)) * (abs(W) * (85 + x_norm))) *
        sqrt(tanh(W))

    LaTeX: \lVert G\rVert \cdot \left(\left|W\right| \cdot \lVert G\rVert + \lVert G\rVert \cdot
        \left(W\right)^2\right) \cdot \left|W\right| \cdot \left(85 + \lVert X_j\rVert\right)
        \cdot \sqrt{\left|\tanh\left(W\right)\right|}

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        x_norm: (d_in,), taken as float32; sqrt((1/N) sum over N sequences and all tokens of
            x_j^2): Wanda's sqrt(scaler_row).
        g_norm: (d_out, d_in), taken as float32; sqrt(sum over sequences of (dL/dW)^2); GBLM and
            Pruner-Zero use 100 times this.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(mul(g_norm, mul(add(mul(abs(W), g_norm), mul(g_norm, square(W))), mul(abs(W),
        add(85, x_norm)))), sqrt(tanh(W)))
    Key: 837589d69448fbcc2e836f290047b47d
    source run: smollm2-70-model-s2
    model: smollm2-135m-instruct-q4_1
    condition: 70%
    model_hash:
    value: -1.0737 log of KL to Wanda's (log_ratio)

    >>> import torch
    >>> tuple(smollm2_70_model_s2(torch.ones(2, 3), torch.ones(3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    x_norm = x_norm.float().reshape(1, -1)  # (1, d_in)
    g_norm = g_norm.float()  # (d_out, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = _mul(v1, g_norm)  # (d_out, d_in)
    v3 = _square(weight)  # (d_out, d_in)
    v4 = _mul(g_norm, v3)  # (d_out, d_in)
    v5 = _add(v2, v4)  # (d_out, d_in)
    v6 = weight.new_full((1, 1), 85)  # (1, 1)
    v7 = _add(v6, x_norm)  # (1, d_in)
    v8 = _mul(v1, v7)  # (d_out, d_in)
    v9 = _mul(v5, v8)  # (d_out, d_in)
    v10 = _mul(g_norm, v9)  # (d_out, d_in)
    v11 = _tanh(weight)  # (d_out, d_in)
    v12 = _sqrt(v11)  # (d_out, d_in)
    return _mul(v10, v12)  # (d_out, d_in)


def _absolute(a: Tensor) -> Tensor:
    """Return |a|."""
    return a.abs()


def _add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b."""
    return a + b


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def _sqrt(a: Tensor) -> Tensor:
    """Return the square root of |a|."""
    return a.abs().sqrt()


def _square(a: Tensor) -> Tensor:
    """Return a squared."""
    return a * a


def _tanh(a: Tensor) -> Tensor:
    """Return the hyperbolic tangent of a."""
    return a.tanh()
