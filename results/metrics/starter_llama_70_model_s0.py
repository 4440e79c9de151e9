"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def starter_llama_70_model_s0(weight: Tensor, g_norm: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: 8 * (g_norm * g_token * abs(W) ** 1.2 * row_minmax(square(W)) * sqrt(W) *
        tanh(g_token))

    LaTeX: 8 \cdot \lVert G\rVert \cdot \lVert G^{t}\rVert \cdot \left|W\right|^{1.2} \cdot
        \mathrm{minmax}_j\left(\left(W\right)^2\right) \cdot \sqrt{\left|W\right|} \cdot
        \tanh\left(\lVert G^{t}\rVert\right)

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        g_norm: (d_out, d_in), taken as float32; sqrt(sum over sequences of (dL/dW)^2); GBLM and
            Pruner-Zero use 100 times this.
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(8, mul(mul(mul(mul(mul(g_norm, g_token), pow(W, 1.2)),
        row_minmax(square(W))), sqrt(W)), tanh(g_token)))
    Key: 9ba9717672618a7456309b4795f7e224
    source run: starter-llama-70-model-s0
    model: starter-llama
    condition: 70%
    group: model
    calibration: topics:calibration
    validation: topics:validation
    model_hash: 702e86728f43edb7f820e6d6f002c806
    value: 0.703651 nats (kl)

    >>> import torch
    >>> tuple(starter_llama_70_model_s0(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2,
    ...     3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    g_norm = g_norm.float()  # (d_out, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = weight.new_full((1, 1), 8)  # (1, 1)
    v2 = _mul(g_norm, g_token)  # (d_out, d_in)
    v3 = _power(weight, 1.2000000476837158)  # (d_out, d_in)
    v4 = _mul(v2, v3)  # (d_out, d_in)
    v5 = _square(weight)  # (d_out, d_in)
    v6 = _row_minmax(v5)  # (d_out, d_in)
    v7 = _mul(v4, v6)  # (d_out, d_in)
    v8 = _sqrt(weight)  # (d_out, d_in)
    v9 = _mul(v7, v8)  # (d_out, d_in)
    v10 = _tanh(g_token)  # (d_out, d_in)
    v11 = _mul(v9, v10)  # (d_out, d_in)
    return _mul(v1, v11)  # (d_out, d_in)


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def _power(a: Tensor, exponent: float) -> Tensor:
    """Return |a| to the exponent; for a negative one, |a| below 1e-9 counts as 1e-9."""
    base = a.abs()
    return torch.pow(base.clamp_min(1e-9) if exponent < 0 else base, exponent)


def _row_minmax(a: Tensor) -> Tensor:
    """Return (a - min) / (max - min) over each row; 0 where all of a row are equal."""
    low = a.amin(dim=1, keepdim=True)
    return (a - low) / (a.amax(dim=1, keepdim=True) - low).clamp_min(1e-30)


def _sqrt(a: Tensor) -> Tensor:
    """Return the square root of |a|."""
    return a.abs().sqrt()


def _square(a: Tensor) -> Tensor:
    """Return a squared."""
    return a * a


def _tanh(a: Tensor) -> Tensor:
    """Return the hyperbolic tangent of a."""
    return a.tanh()
