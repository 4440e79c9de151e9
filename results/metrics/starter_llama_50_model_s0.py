"""A metric discovered or exported by AutoProxy; it needs torch alone."""

from torch import Tensor


def starter_llama_50_model_s0(weight: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: (0.1 * (abs(W) * square(g_token)) + abs(W) * g_token) * row_minmax(sqrt(W))

    LaTeX: \left(0.1 \cdot \left|W\right| \cdot \left(\lVert G^{t}\rVert\right)^2 +
        \left|W\right| \cdot \lVert G^{t}\rVert\right) \cdot
        \mathrm{minmax}_j\left(\sqrt{\left|W\right|}\right)

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(add(mul(0.1, mul(abs(W), square(g_token))), mul(abs(W), g_token)),
        row_minmax(sqrt(W)))
    Key: 3357a000a2219f1a0d05b48eabe95ee8
    source run: starter-llama-50-model-s0
    model: starter-llama
    condition: 50%
    group: model
    calibration: topics:calibration
    validation: topics:validation
    model_hash: 702e86728f43edb7f820e6d6f002c806
    value: 0.177534 nats (kl)

    >>> import torch
    >>> tuple(starter_llama_50_model_s0(torch.ones(2, 3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = weight.new_full((1, 1), 0.1)  # (1, 1)
    v2 = _absolute(weight)  # (d_out, d_in)
    v3 = _square(g_token)  # (d_out, d_in)
    v4 = _mul(v2, v3)  # (d_out, d_in)
    v5 = _mul(v1, v4)  # (d_out, d_in)
    v6 = _mul(v2, g_token)  # (d_out, d_in)
    v7 = _add(v5, v6)  # (d_out, d_in)
    v8 = _sqrt(weight)  # (d_out, d_in)
    v9 = _row_minmax(v8)  # (d_out, d_in)
    return _mul(v7, v9)  # (d_out, d_in)


def _absolute(a: Tensor) -> Tensor:
    """Return |a|."""
    return a.abs()


def _add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b."""
    return a + b


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


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
