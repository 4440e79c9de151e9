"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def starter_gpt2_50_s0(weight: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: abs(W) * g_token + g_token * g_token ** 2.1 + abs(W) ** 2.05 * square(tanh(W))

    LaTeX: \left(\left(\left|W\right| \cdot \lVert G^{t}\rVert + \lVert G^{t}\rVert \cdot
        \left|\lVert G^{t}\rVert\right|^{2.1}\right) + \left|W\right|^{2.05} \cdot
        \left(\tanh\left(W\right)\right)^2\right)

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: add(add(mul(abs(W), g_token), mul(g_token, pow(g_token, 2.1))), mul(pow(W, 2.05),
        square(tanh(W))))
    Key: abc578d8f100c7df93fd296e8a936e92
    source run: starter-gpt2-50-s0
    model: starter-gpt2
    condition: 50%
    group: row
    calibration: topics:calibration
    validation: topics:validation
    model_hash: e6b196f80969d60665810346b922777d
    value: 0.121113 nats (kl)

    >>> import torch
    >>> tuple(starter_gpt2_50_s0(torch.ones(2, 3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = _mul(v1, g_token)  # (d_out, d_in)
    v3 = _power(g_token, 2.0999999046325684)  # (d_out, d_in)
    v4 = _mul(g_token, v3)  # (d_out, d_in)
    v5 = _add(v2, v4)  # (d_out, d_in)
    v6 = _power(weight, 2.049999952316284)  # (d_out, d_in)
    v7 = _tanh(weight)  # (d_out, d_in)
    v8 = _square(v7)  # (d_out, d_in)
    v9 = _mul(v6, v8)  # (d_out, d_in)
    return _add(v5, v9)  # (d_out, d_in)


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


def _square(a: Tensor) -> Tensor:
    """Return a squared."""
    return a * a


def _tanh(a: Tensor) -> Tensor:
    """Return the hyperbolic tangent of a."""
    return a.tanh()
