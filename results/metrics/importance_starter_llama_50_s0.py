"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def importance_starter_llama_50_s0(weight: Tensor, x_norm: Tensor, g_norm: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: abs(W) ** 2.51 * g_norm ** 0.6 * x_norm

    LaTeX: \left|W\right|^{2.51} \cdot \left|\lVert G\rVert\right|^{0.6} \cdot \lVert X_j\rVert

    Args:
        weight: (d_out, d_in), float32; the layer's weight, signed.
        x_norm: (d_in,), float32; sqrt((1/N) sum over N sequences and all tokens of x_j^2):
            Wanda's sqrt(scaler_row).
        g_norm: (d_out, d_in), float32; sqrt(sum over sequences of (dL/dW)^2); GBLM and
            Pruner-Zero use 100 times this.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(mul(pow(W, 2.51), pow(g_norm, 0.6)), x_norm)
    Key: 41da56276ebe41e7a2035d28c1fa69f6
    source run: importance-starter-llama-50-s0
    model: starter-llama
    condition: 50%
    group: row
    calibration: topics:calibration
    validation: topics:validation
    model_hash: 702e86728f43edb7f820e6d6f002c806
    value: 0.271857 nats (kl)

    >>> import torch
    >>> tuple(importance_starter_llama_50_s0(torch.ones(2, 3), torch.ones(3), torch.ones(2,
    ...     3)).shape)
    (2, 3)
    """
    x_norm = x_norm.reshape(1, -1)  # (1, d_in)
    v1 = _power(weight, 2.51)  # (d_out, d_in)
    v2 = _power(g_norm, 0.6)  # (d_out, d_in)
    v3 = _mul(v1, v2)  # (d_out, d_in)
    return _mul(v3, x_norm)  # (d_out, d_in)


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def _power(a: Tensor, exponent: float) -> Tensor:
    """Return |a| to the exponent; for a negative one, |a| below 1e-9 counts as 1e-9."""
    base = a.abs()
    return torch.pow(base.clamp_min(1e-9) if exponent < 0 else base, exponent)
