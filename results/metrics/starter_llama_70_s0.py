"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def starter_llama_70_s0(weight: Tensor, x_norm: Tensor, g_norm: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: abs(W) * square(sqrt(W) + sqrt(g_norm)) * x_norm + abs(W) ** 0.51 + sqrt(g_norm)

    LaTeX: \left(\left(\left|W\right| \cdot \left(\left(\sqrt{\left|W\right|} +
        \sqrt{\left|\lVert G\rVert\right|}\right)\right)^2 \cdot \lVert X_j\rVert +
        \left|W\right|^{0.51}\right) + \sqrt{\left|\lVert G\rVert\right|}\right)

    Args:
        weight: (d_out, d_in), float32; the layer's weight, signed.
        x_norm: (d_in,), float32; sqrt((1/N) sum over N sequences and all tokens of x_j^2):
            Wanda's sqrt(scaler_row).
        g_norm: (d_out, d_in), float32; sqrt(sum over sequences of (dL/dW)^2); GBLM and
            Pruner-Zero use 100 times this.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: add(add(mul(mul(abs(W), square(add(sqrt(W), sqrt(g_norm)))), x_norm), pow(W,
        0.51)), sqrt(g_norm))
    Key: 5d4aa0c5f909eac01196f51140937da8
    source run: starter-llama-70-s0
    model: starter-llama
    condition: 70%
    group: row
    calibration: topics:calibration
    validation: topics:validation
    model_hash: 702e86728f43edb7f820e6d6f002c806
    value: 1.0764 nats (kl)

    >>> import torch
    >>> tuple(starter_llama_70_s0(torch.ones(2, 3), torch.ones(3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    x_norm = x_norm.reshape(1, -1)  # (1, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = _sqrt(weight)  # (d_out, d_in)
    v3 = _sqrt(g_norm)  # (d_out, d_in)
    v4 = _add(v2, v3)  # (d_out, d_in)
    v5 = _square(v4)  # (d_out, d_in)
    v6 = _mul(v1, v5)  # (d_out, d_in)
    v7 = _mul(v6, x_norm)  # (d_out, d_in)
    v8 = _power(weight, 0.51)  # (d_out, d_in)
    v9 = _add(v7, v8)  # (d_out, d_in)
    return _add(v9, v3)  # (d_out, d_in)


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


def _sqrt(a: Tensor) -> Tensor:
    """Return the square root of |a|."""
    return a.abs().sqrt()


def _square(a: Tensor) -> Tensor:
    """Return a squared."""
    return a * a
