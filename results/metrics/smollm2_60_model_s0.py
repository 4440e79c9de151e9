"""A metric discovered or exported by AutoProxy; it needs torch alone."""

from torch import Tensor


def smollm2_60_model_s0(weight: Tensor, g_norm: Tensor, g_token: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: abs(W) * g_token + g_norm * square(W)

    LaTeX: \left(\left|W\right| \cdot \lVert G^{t}\rVert + \lVert G\rVert \cdot
        \left(W\right)^2\right)

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        g_norm: (d_out, d_in), taken as float32; sqrt(sum over sequences of (dL/dW)^2); GBLM and
            Pruner-Zero use 100 times this.
        g_token: (d_out, d_in), taken as float32; sqrt(sum over sequences and tokens of (dL/dy_i
            x_j)^2): what g_norm is, with every token's part of the gradient squared for itself,
            so that parts cannot cancel.

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: add(mul(abs(W), g_token), mul(g_norm, square(W)))
    Key: 37feab7453dfb5577a617d817502e736
    source run: smollm2-60-model-s0
    model: smollm2-135m-instruct-q4_1
    condition: 60%
    group: model
    calibration: ../shared/text/sotu/1850.txt + ../shared/text/sotu/1900.txt +
        ../shared/text/austen/emma.txt + ../shared/text/austen/persuasion.txt
    validation: ../shared/text/sotu/1950.txt + ../shared/text/sotu/2000.txt +
        ../shared/text/austen/pride_and_prejudice.txt +
        ../shared/text/austen/sense_and_sensibility.txt
    model_hash: 016f3f30e9e74f2df2f20ce5c3d96d5b
    value: 0.896738 nats (kl)

    >>> import torch
    >>> tuple(smollm2_60_model_s0(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    g_norm = g_norm.float()  # (d_out, d_in)
    g_token = g_token.float()  # (d_out, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = _mul(v1, g_token)  # (d_out, d_in)
    v3 = _square(weight)  # (d_out, d_in)
    v4 = _mul(g_norm, v3)  # (d_out, d_in)
    return _add(v2, v4)  # (d_out, d_in)


def _absolute(a: Tensor) -> Tensor:
    """Return |a|."""
    return a.abs()


def _add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b."""
    return a + b


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def _square(a: Tensor) -> Tensor:
    """Return a squared."""
    return a * a
