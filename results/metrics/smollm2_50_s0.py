"""A metric discovered or exported by AutoProxy; it needs torch alone."""

import torch
from torch import Tensor


def smollm2_50_s0(weight: Tensor, x_norm: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: (abs(W) / col_sum(abs(W)) + abs(W) / row_sum(abs(W))) * x_norm ** 0.217 * x_norm **
        0.57

    LaTeX: \left(\frac{\left|W\right|}{\sum_{i}\left(\left|W\right|\right)} +
        \frac{\left|W\right|}{\sum_{j}\left(\left|W\right|\right)}\right) \cdot \left|\lVert
        X_j\rVert\right|^{0.217} \cdot \left|\lVert X_j\rVert\right|^{0.57}

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        x_norm: (d_in,), taken as float32; sqrt((1/N) sum over N sequences and all tokens of
            x_j^2): Wanda's sqrt(scaler_row).

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(mul(add(div(abs(W), col_sum(abs(W))), div(abs(W), row_sum(abs(W)))),
        pow(x_norm, 0.217)), pow(x_norm, 0.57))
    Key: 95caac3a50d16e122e0ff7b5589cc974
    source run: smollm2-50-s0
    model: smollm2-135m-instruct-q4_1
    condition: 50%
    group: row
    calibration: ../shared/text/sotu/1850.txt + ../shared/text/sotu/1875.txt +
        ../shared/text/sotu/1900.txt
    validation: ../shared/text/sotu/1950.txt + ../shared/text/sotu/2000.txt +
        ../shared/text/austen/pride_and_prejudice.txt +
        ../shared/text/austen/sense_and_sensibility.txt
    model_hash: 016f3f30e9e74f2df2f20ce5c3d96d5b
    value: 0.807646 nats (kl)

    >>> import torch
    >>> tuple(smollm2_50_s0(torch.ones(2, 3), torch.ones(3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    x_norm = x_norm.float().reshape(1, -1)  # (1, d_in)
    v1 = _absolute(weight)  # (d_out, d_in)
    v2 = _col_sum(v1)  # (1, d_in)
    v3 = _div(v1, v2)  # (d_out, d_in)
    v4 = _row_sum(v1)  # (d_out, 1)
    v5 = _div(v1, v4)  # (d_out, d_in)
    v6 = _add(v3, v5)  # (d_out, d_in)
    v7 = _power(x_norm, 0.21699999272823334)  # (1, d_in)
    v8 = _mul(v6, v7)  # (d_out, d_in)
    v9 = _power(x_norm, 0.5699999928474426)  # (1, d_in)
    return _mul(v8, v9)  # (d_out, d_in)


def _absolute(a: Tensor) -> Tensor:
    """Return |a|."""
    return a.abs()


def _add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b."""
    return a + b


def _col_sum(a: Tensor) -> Tensor:
    """Return the sum over the outputs of each input."""
    return a.sum(dim=0, keepdim=True)


def _div(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; a divisor nearer to zero than 1e-30 counts as 1e-30 with its sign."""
    tiny = torch.full_like(b, 1e-30).copysign(b + 0.0)
    return a / torch.where(b.abs() < 1e-30, tiny, b)


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def _power(a: Tensor, exponent: float) -> Tensor:
    """Return |a| to the exponent; for a negative one, |a| below 1e-9 counts as 1e-9."""
    base = a.abs()
    return torch.pow(base.clamp_min(1e-9) if exponent < 0 else base, exponent)


def _row_sum(a: Tensor) -> Tensor:
    """Return the sum over the inputs of each output."""
    return a.sum(dim=1, keepdim=True)
