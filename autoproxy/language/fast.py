"""The bits of some meanings in fewer passes over memory.

Exports copy `meanings`, which say plainly what is computed; programs run these instead. Whatever
is written in place is their own temporary, never an operand. Each proves itself against its
meaning when the catalogue is made.
"""

from torch import Tensor

from autoproxy.language import meanings


def div(a: Tensor, b: Tensor) -> Tensor:
    """Return `meanings.div`: one division where no divisor is near zero."""
    # Not on other devices: to look would be to wait for them.
    if b.device.type == "cpu" and b.numel() and float(b.abs().amin()) >= 1e-30:
        return a / b
    return meanings.div(a, b)


def sqrt(a: Tensor) -> Tensor:
    """Return `meanings.sqrt`."""
    return a.abs().sqrt_()


def log(a: Tensor) -> Tensor:
    """Return `meanings.log`."""
    return a.abs().clamp_min_(1e-30).log_()


def exp(a: Tensor) -> Tensor:
    """Return `meanings.exp`."""
    return a.clamp_max(80.0).exp_()


def power(a: Tensor, exponent: float) -> Tensor:
    """Return `meanings.power`."""
    base = a.abs()
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


def row_minmax(a: Tensor) -> Tensor:
    """Return `meanings.row_minmax`."""
    low = a.amin(dim=1, keepdim=True)
    return (a - low).div_((a.amax(dim=1, keepdim=True) - low).clamp_min_(1e-30))


def zscore(a: Tensor) -> Tensor:
    """Return `meanings.zscore`."""
    centred = a - a.mean()
    return centred.div_(centred.square().mean().sqrt().clamp_min(1e-30))


def row_zscore(a: Tensor) -> Tensor:
    """Return `meanings.row_zscore`."""
    centred = a - a.mean(dim=1, keepdim=True)
    return centred.div_(centred.square().mean(dim=1, keepdim=True).sqrt_().clamp_min_(1e-30))
