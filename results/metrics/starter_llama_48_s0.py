"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def starter_llama_48_s0(weight: Tensor, x_norm: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: (2 + x_norm ** 0.6) * square(W) * x_norm

    LaTeX: \left(2 + \left|\lVert X_j\rVert\right|^{0.6}\right) \cdot \left(W\right)^2 \cdot
        \lVert X_j\rVert

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        x_norm: (d_in,), taken as float32; sqrt((1/N) sum over N sequences and all tokens of
            x_j^2): Wanda's sqrt(scaler_row).

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(mul(add(2, pow(x_norm, 0.6)), square(W)), x_norm)
    Key: 70c62edf1f43c763f7edf26bcbb4490e
    source run: starter-llama-48-s0
    model: starter-llama
    condition: 4:8
    group: block
    calibration: topics:calibration
    validation: topics:validation
    model_hash: 702e86728f43edb7f820e6d6f002c806
    value: 0.406675 nats (kl)

    >>> import torch
    >>> tuple(starter_llama_48_s0(torch.ones(2, 3), torch.ones(3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    x_norm = x_norm.float().reshape(1, -1)  # (1, d_in)
    v1 = weight.new_full((1, 1), 2)  # (1, 1)
    v2 = _power(x_norm, 0.6000000238418579)  # (1, d_in)
    v3 = _add(v1, v2)  # (1, d_in)
    v4 = _square(weight)  # (d_out, d_in)
    v5 = _mul(v3, v4)  # (d_out, d_in)
    return _mul(v5, x_norm)  # (d_out, d_in)


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


def _square(a: Tensor) -> Tensor:
    """Return a squared."""
    return a * a
