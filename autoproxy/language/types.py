"""The kinds of value that an expression over one linear layer can have."""

from enum import Enum
from itertools import product


class Kind(Enum):
    """Along which axes of the layer's weight (d_out, d_in) a value varies.

    Every value is a 2-D tensor, so that broadcasting needs no thought:
    WEIGHT (d_out, d_in), PER_INPUT (1, d_in), PER_OUTPUT (d_out, 1), SCALAR (1, 1).
    EXPONENT is no tensor: a number written out in the text, -4 to 4, for `pow` alone.
    """

    WEIGHT = "Weight"
    PER_INPUT = "PerInput"
    PER_OUTPUT = "PerOutput"
    SCALAR = "Scalar"
    EXPONENT = "Exponent"


TENSOR_KINDS = (Kind.WEIGHT, Kind.PER_INPUT, Kind.PER_OUTPUT, Kind.SCALAR)

_AXES = {
    Kind.WEIGHT: (True, True),
    Kind.PER_INPUT: (False, True),
    Kind.PER_OUTPUT: (True, False),
    Kind.SCALAR: (False, False),
}
_KIND_OF_AXES = {axes: kind for kind, axes in _AXES.items()}


def join(*kinds: Kind) -> Kind:
    """Return the smallest kind that all `kinds` broadcast to.

    >>> join(Kind.PER_INPUT, Kind.PER_OUTPUT)
    <Kind.WEIGHT: 'Weight'>
    >>> join(Kind.SCALAR, Kind.PER_INPUT)
    <Kind.PER_INPUT: 'PerInput'>
    """
    outputs = any(_AXES[kind][0] for kind in kinds)
    inputs = any(_AXES[kind][1] for kind in kinds)
    return _KIND_OF_AXES[outputs, inputs]


def varies_within_row(kind: Kind) -> bool:
    """Return whether a value of `kind` can differ between two columns of one row."""
    return _AXES[kind][1]


def shape_of(kind: Kind, d_out: int, d_in: int) -> tuple[int, int]:
    """Return the shape of a value of `kind` for a weight of (d_out, d_in).

    >>> shape_of(Kind.PER_INPUT, 4, 3)
    (1, 3)
    """
    outputs, inputs = _AXES[kind]
    return (d_out if outputs else 1, d_in if inputs else 1)


Signature = tuple[tuple[Kind, ...], Kind]
"""Kinds of the operands, and the kind of the result."""


def elementwise(arity: int) -> tuple[Signature, ...]:
    """Return the signatures of an elementwise primitive: any kinds in, their join out.

    >>> len(elementwise(2))
    16
    """
    return tuple((kinds, join(*kinds)) for kinds in product(TENSOR_KINDS, repeat=arity))
