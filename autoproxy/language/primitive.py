"""The primitive: one record that holds every face of an operation."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch

from autoproxy.errors import ConfigError
from autoproxy.language.types import FLOWING_KINDS, Kind, Signature, shape_of

PROBES = (-1e4, -1.0, -1e-8, 0.0, 1e-8, 1.0, 1e4)
EXPONENTS = (-4.0, -0.5, 0.0, 0.3, 1.0, 4.0)
EXPONENT_RANGE = (-4.0, 4.0)


@dataclass(frozen=True, slots=True)
class Primitive:
    """An operation that expressions are built from.

    Numbers, symbols and print-outs come from this one record, so they cannot drift apart. It
    proves itself when it is made: finite on hard probes, pure, of the kind that it declares.

    Attributes:
        name: Word used in expression text, for example `add`.
        signatures: Kinds it takes and gives.
        tensor: Its meaning on float tensors (an `EXPONENT` arrives as a float; a Scalar that an
            aggregation takes as (layers, 1)). A plain function of torch alone: exports copy its
            source.
        symbol: The same meaning for sympy.
        latex: Format string with one slot an operand.
        cost: Weight in the complexity of an expression.
        commutative: Whether `f(a, b)` and `f(b, a)` are the same bits.
        nonnegative: When the result is never below zero: `always`, `never` (not known to be),
            or `operands` (when no operand is ever below zero).
        increasing: Where it is strictly increasing in its only operand, and so keeps every
            order: `everywhere`, `nonnegative` operands, or `nowhere`. Float rounding counts:
            `tanh` is 1 above 9, so it is `nowhere`.
        idempotent: Whether `f(f(x))` is `f(x)`, to the bit.
        fast: The same bits as `tensor` gives, in fewer passes over memory; None for `tensor`.
    """

    name: str
    signatures: tuple[Signature, ...]
    tensor: Callable[..., torch.Tensor]
    symbol: Callable[..., Any]
    latex: str
    cost: int = 1
    commutative: bool = False
    nonnegative: str = "never"
    increasing: str = "nowhere"
    idempotent: bool = False
    fast: Callable[..., torch.Tensor] | None = None
    _results: dict[tuple[Kind, ...], Kind] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_results", dict(self.signatures))
        for operands, result in self.signatures:
            self._prove(operands, result)

    @property
    def arity(self) -> int:
        """Number of operands."""
        return len(self.signatures[0][0])

    def result(self, operands: tuple[Kind, ...]) -> Kind | None:
        """Return the kind of the result, or None when these operands do not fit."""
        return self._results.get(operands)

    def source(self) -> str:
        """Return the source code of its meaning, for exports."""
        return inspect.getsource(self.tensor)

    def _prove(self, kinds: tuple[Kind, ...], result: Kind) -> None:
        for operands in _probe_operands(kinds):
            tensors = [o for o in operands if isinstance(o, torch.Tensor)]
            before = [tensor.clone() for tensor in tensors]
            value = self.tensor(*operands)
            if any(not torch.equal(a, b) for a, b in zip(tensors, before, strict=True)):
                raise ConfigError(f"primitive {self.name!r} changes its operands in place")
            expected = shape_of(result, *_PROBE_SHAPE)
            if not _is_of_shape(tuple(value.shape), expected, result):
                raise ConfigError(
                    f"primitive {self.name!r} on {[k.value for k in kinds]} gives shape "
                    f"{tuple(value.shape)}, but declares {result.value} {expected}"
                )
            if not torch.isfinite(value).all():
                raise ConfigError(f"primitive {self.name!r} is not finite on {operands}")
            if self.fast is not None and not _same_bits(self.fast(*operands), value):
                raise ConfigError(f"primitive {self.name!r} has a fast form of other bits")


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def _is_of_shape(found: tuple[int, ...], wanted: tuple[int, ...], kind: Kind) -> bool:
    """Return whether a shape is of a kind; what flows may have reduced axes of size 1."""
    if kind not in FLOWING_KINDS:
        return found == wanted
    return len(found) == len(wanted) and all(
        size in {1, most} for size, most in zip(found, wanted, strict=True)
    )


_PROBE_SHAPE = (len(PROBES), len(PROBES) + 2)


def _probe_operands(kinds: tuple[Kind, ...]) -> list[list[torch.Tensor | float]]:
    """Return operand lists in which every pair of hard numbers meets once."""
    rows, columns = _PROBE_SHAPE
    made: list[list[torch.Tensor | float]] = []
    for flipped, exponent in product((False, True), EXPONENTS):
        made.append(
            [
                exponent
                if kind is Kind.EXPONENT
                else _probe(
                    shape_of(kind, rows, columns), along_rows=(place % 2 == 0) is not flipped
                )
                for place, kind in enumerate(kinds)
            ]
        )
        if Kind.EXPONENT not in kinds and flipped:
            break
    return made


def _probe(shape: tuple[int, ...], *, along_rows: bool) -> torch.Tensor:
    """Return hard numbers that vary along one of the last two axes, where these are so long."""
    rows, columns = _PROBE_SHAPE
    values = torch.tensor(PROBES)
    full = (
        values.reshape(-1, 1) if along_rows else torch.cat([values, values[:2]]).reshape(1, -1)
    ).expand(rows, columns)
    return full[: shape[-2], : shape[-1]].expand(shape).clone()
