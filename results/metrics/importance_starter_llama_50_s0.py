"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def importance_starter_llama_50_s0(weight: Tensor, x_norm: Tensor, g_norm: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: abs(W) ** 4 * square(minmax(sqrt(g_norm)) + abs(W) ** 0.52) * x_norm * x_norm *
        x_norm

    LaTeX: \left|W\right|^{4} \cdot \left(\left(\mathrm{minmax}\left(\sqrt{\left|\lVert
        G\rVert\right|}\right) + \left|W\right|^{0.52}\right)\right)^2 \cdot \lVert X_j\rVert
        \cdot \lVert X_j\rVert \cdot \lVert X_j\rVert

    Args:
        weight: (d_out, d_in), float32; the layer's weight, signed.
        x_norm: (d_in,), float32; sqrt((1/N) sum over N sequences and all tokens of x_j^2):
            Wanda's sqrt(scaler_row).
        g_norm: (d_out, d_in), float32; sqrt(sum over sequences of (dL/dW)^2); GBLM and
            Pruner-Zero use 100 times this.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(mul(mul(mul(pow(W, 4), square(add(minmax(sqrt(g_norm)), pow(W, 0.52)))),
        x_norm), x_norm), x_norm)
    Key: 674523214401e4eebcfb3af4a59229cf
    source run: importance-starter-llama-50-s0
    model: starter-llama
    condition: 50%
    group: row
    calibration: topics:calibration
    validation: topics:validation
    model_hash: 702e86728f43edb7f820e6d6f002c806
    value: 0.270856 nats (kl)

    >>> import torch
    >>> tuple(importance_starter_llama_50_s0(torch.ones(2, 3), torch.ones(3), torch.ones(2,
    ...     3)).shape)
    (2, 3)
    """
    x_norm = x_norm.reshape(1, -1)  # (1, d_in)
    v1 = _power(weight, 4)  # (d_out, d_in)
    v2 = _sqrt(g_norm)  # (d_out, d_in)
    v3 = _minmax(v2)  # (d_out, d_in)
    v4 = _power(weight, 0.52)  # (d_out, d_in)
    v5 = _add(v3, v4)  # (d_out, d_in)
    v6 = _square(v5)  # (d_out, d_in)
    v7 = _mul(v1, v6)  # (d_out, d_in)
    v8 = _mul(v7, x_norm)  # (d_out, d_in)
    v9 = _mul(v8, x_norm)  # (d_out, d_in)
    return _mul(v9, x_norm)  # (d_out, d_in)


def _add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b."""
    return a + b


def _minmax(a: Tensor) -> Tensor:
    """Return (a - min) / (max - min) over all entries; 0 where all are equal."""
    low = a.min()
    return (a - low) / (a.max() - low).clamp_min(1e-30)


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
