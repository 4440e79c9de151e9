"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def starter_llama_70_s0(weight: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: abs(W) * g_token ** 0.806

    LaTeX: \left|W\right| \cdot \left|\lVert G^{t}\rVert\right|^{0.806}

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(abs(W), pow(g_token, 0.806))
    Key: 70f239995cba6576aed62311805ff6b7
    source run: starter-llama-70-s0
    model: starter-llama
    condition: 70%
    group: row
    calibration: topics:calibration
    validation: topics:validation
    model_hash: 702e86728f43edb7f820e6d6f002c806
    value: 1.0292 nats (kl)

    >>> import torch
    >>> tuple(starter_llama_70_s0(torch.ones(2, 3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = _power(g_token, 0.8059999942779541)  # (d_out, d_in)
    return _mul(v1, v2)  # (d_out, d_in)


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
