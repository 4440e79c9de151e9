"""A metric discovered or exported by AutoProxy; it needs torch alone."""

from torch import Tensor


def smollm2_50(weight: Tensor, x_norm: Tensor) -> Tensor:
    r"""Return the importance of what a linear layer computes with; larger is kept.

    Formula: abs(tanh(W)) * x_norm

    LaTeX: \left|\tanh\left(W\right)\right| \cdot \lVert X_j\rVert

    Args:
        weight: (d_out, d_in), taken as float32; the layer's weight, signed.
        x_norm: (d_in,), taken as float32; sqrt((1/N) sum over N sequences and all tokens of
            x_j^2): Wanda's sqrt(scaler_row).

    Returns:
        (d_out, d_in) importance; compare within the group it was made for.

    Text form: mul(abs(tanh(W)), x_norm)
    Key: 725912f63ec2d38346a338e7065a6834
    source run: smollm2-50
    model: smollm2-135m-instruct-q4_1
    condition: 50%
    group: row
    calibration: ../shared/text/sotu/1850.txt + ../shared/text/sotu/1875.txt +
        ../shared/text/sotu/1900.txt
    validation: ../shared/text/austen/pride_and_prejudice.txt +
        ../shared/text/austen/sense_and_sensibility.txt
    model_hash: 016f3f30e9e74f2df2f20ce5c3d96d5b
    value: 0.716248 nats (kl)

    >>> import torch
    >>> tuple(smollm2_50(torch.ones(2, 3), torch.ones(3)).shape)
    (2, 3)
    """
    weight = weight.float()  # (d_out, d_in)
    x_norm = x_norm.float().reshape(1, -1)  # (1, d_in)
    v1 = _tanh(weight)  # (d_out, d_in)
    v2 = _absolute(v1)  # (d_out, d_in)
    return _mul(v2, x_norm)  # (d_out, d_in)


def _absolute(a: Tensor) -> Tensor:
    """Return |a|."""
    return a.abs()


def _mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b."""
    return a * b


def _tanh(a: Tensor) -> Tensor:
    """Return the hyperbolic tangent of a."""
    return a.tanh()
