"""The bits of the meanings in fewer passes over memory.

Exports copy `meanings`, which say plainly what is computed; programs run these instead. Each
proves itself against its meaning when the catalogue is made. No operand is changed, unless it is
given as `out`, too: then the result, which has its shape, is written over it.
"""

import torch
from torch import Tensor

from autoproxy.language import meanings


def add(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.add`."""
    return torch.add(a, b, out=out)


def sub(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.sub`."""
    return torch.sub(a, b, out=out)


def mul(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.mul`."""
    return torch.mul(a, b, out=out)


def div(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.div`: one division where no divisor is near zero."""
    # Not on other devices: to look would be to wait for them.
    if b.device.type == "cpu" and b.numel() and float(b.abs().amin()) >= 1e-30:
        return torch.div(a, b, out=out)
    return meanings.div(a, b)


def maximum(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.maximum`."""
    return torch.maximum(a, b, out=out)


def minimum(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.minimum`."""
    return torch.minimum(a, b, out=out)


def neg(a: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.neg`."""
    return torch.neg(a, out=out)


def absolute(a: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.absolute`."""
    return torch.abs(a, out=out)


def square(a: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.square`."""
    return torch.mul(a, a, out=out)


def sqrt(a: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.sqrt`."""
    return torch.abs(a, out=out).sqrt_()


def log(a: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.log`."""
    return torch.abs(a, out=out).clamp_min_(1e-30).log_()


def exp(a: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.exp`."""
    return torch.clamp_max(a, 80.0, out=out).exp_()


def tanh(a: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.tanh`."""
    return torch.tanh(a, out=out)


def sigmoid(a: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.sigmoid`."""
    return torch.sigmoid(a, out=out)


def sign(a: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.sign`."""
    return torch.sign(a, out=out)


def power(a: Tensor, exponent: float, out: Tensor | None = None) -> Tensor:
    """Return `meanings.power`."""
    base = torch.abs(a, out=out)
    if exponent < 0:
        base.clamp_min_(1e-9)
    return base.pow_(exponent)


def row_std(a: Tensor) -> Tensor:
    """Return `meanings.row_std`."""
    return (a - a.mean(dim=1, keepdim=True)).square_().mean(dim=1, keepdim=True).sqrt_()


def col_std(a: Tensor) -> Tensor:
    """Return `meanings.col_std`."""
    return (a - a.mean(dim=0, keepdim=True)).square_().mean(dim=0, keepdim=True).sqrt_()


def all_std(a: Tensor) -> Tensor:
    """Return `meanings.all_std`."""
    return (a - a.mean()).square_().mean().sqrt().reshape(1, 1)


def minmax(a: Tensor) -> Tensor:
    """Return `meanings.minmax`."""
    low = a.min()
    return (a - low).div_((a.max() - low).clamp_min_(1e-30))


def row_minmax(a: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.row_minmax`."""
    low = a.amin(dim=1, keepdim=True)
    span = (a.amax(dim=1, keepdim=True) - low).clamp_min_(1e-30)
    return torch.sub(a, low, out=out).div_(span)


def zscore(a: Tensor) -> Tensor:
    """Return `meanings.zscore`."""
    centred = a - a.mean()
    return centred.div_(centred.square().mean().sqrt().clamp_min(1e-30))


def row_zscore(a: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `meanings.row_zscore`."""
    centred = torch.sub(a, a.mean(dim=1, keepdim=True), out=out)
    return centred.div_(centred.square().mean(dim=1, keepdim=True).sqrt_().clamp_min_(1e-30))


WRITERS = frozenset(
    {add, sub, mul, div, maximum, minimum, neg, absolute, square, sqrt, log, exp, tanh}
    | {sigmoid, sign, power, row_minmax, row_zscore}
)
"""Those that take `out`; `div` returns a tensor of its own where divisors are near zero."""
