"""The kinds of value that an expression over linear layers can have."""

from enum import Enum
from itertools import product


class Kind(Enum):
    """Along which axes a value varies.

    Those of a layer's weight (d_out, d_in) are 2-D, so that broadcasting needs no thought:
    WEIGHT (d_out, d_in), PER_INPUT (1, d_in), PER_OUTPUT (d_out, 1), SCALAR (1, 1).
    EXPONENT is no tensor: a number written out in the text, -4 to 4, for `pow` alone.

    Of what flows through a layer, each sequence and token by itself: INPUT (sequences, tokens,
    d_in), OUTPUT (sequences, tokens, d_out), ATTENTION (sequences, heads, queries, keys); an axis
    that was reduced is kept with size 1. MODEL is one number for a whole network, float64 when
    networks are compared, where numbers alone are still float32.
    """

    WEIGHT = "Weight"
    PER_INPUT = "PerInput"
    PER_OUTPUT = "PerOutput"
    SCALAR = "Scalar"
    EXPONENT = "Exponent"
    # What predictions need comes last.
    INPUT = "Input"
    OUTPUT = "Output"
    ATTENTION = "Attention"
    MODEL = "Model"

    __hash__ = object.__hash__  # an Enum's own is of its name and written in Python, so slow


TENSOR_KINDS = (Kind.WEIGHT, Kind.PER_INPUT, Kind.PER_OUTPUT, Kind.SCALAR)
"""Kinds along the axes of one weight: what importances are made of."""

FLOWING_KINDS = (Kind.INPUT, Kind.OUTPUT, Kind.ATTENTION)
"""Kinds along sequences and tokens: only predictions read them."""

_AXES = {
    Kind.WEIGHT: (True, True),
    Kind.PER_INPUT: (False, True),
    Kind.PER_OUTPUT: (True, False),
    Kind.SCALAR: (False, False),
}
_KIND_OF_AXES = {axes: kind for kind, axes in _AXES.items()}
_JOINS_TO = {
    Kind.INPUT: frozenset({Kind.INPUT, Kind.PER_INPUT, Kind.SCALAR}),
    Kind.OUTPUT: frozenset({Kind.OUTPUT, Kind.SCALAR}),
    Kind.ATTENTION: frozenset({Kind.ATTENTION, Kind.SCALAR}),
    Kind.MODEL: frozenset({Kind.MODEL}),
}
"""What joins to a kind that is not along the axes of a weight, itself among it."""


def join(*kinds: Kind) -> Kind | None:
    """Return the smallest kind that all `kinds` broadcast to, or None where there is none.

    >>> join(Kind.PER_INPUT, Kind.PER_OUTPUT)
    <Kind.WEIGHT: 'Weight'>
    >>> join(Kind.SCALAR, Kind.INPUT)
    <Kind.INPUT: 'Input'>
    """
    for whole, parts in _JOINS_TO.items():
        if whole in kinds:
            return whole if parts.issuperset(kinds) else None
    outputs = any(_AXES[kind][0] for kind in kinds)
    inputs = any(_AXES[kind][1] for kind in kinds)
    return _KIND_OF_AXES[outputs, inputs]


def varies_within_row(kind: Kind) -> bool:
    """Return whether a value of `kind` can differ between two columns of one row of a weight."""
    return kind in _AXES and _AXES[kind][1]


def shape_of(
    kind: Kind, d_out: int, d_in: int, *, sequences: int = 2, tokens: int = 3, heads: int = 2
) -> tuple[int, ...]:
    """Return the shape of a value of `kind` for a weight of (d_out, d_in).

    >>> shape_of(Kind.PER_INPUT, 4, 3), shape_of(Kind.INPUT, 4, 3, tokens=7)
    ((1, 3), (2, 7, 3))
    """
    match kind:
        case Kind.INPUT:
            return (sequences, tokens, d_in)
        case Kind.OUTPUT:
            return (sequences, tokens, d_out)
        case Kind.ATTENTION:
            return (sequences, heads, tokens, tokens)
        case Kind.MODEL:
            return (1, 1)
    outputs, inputs = _AXES[kind]
    return (d_out if outputs else 1, d_in if inputs else 1)


Signature = tuple[tuple[Kind, ...], Kind]
"""Kinds of the operands, and the kind of the result."""


def elementwise(arity: int) -> tuple[Signature, ...]:
    """Return the signatures of an elementwise primitive: kinds that join in, their join out.

    >>> len(elementwise(2))
    28
    """
    joins = [(kinds, join(*kinds)) for kinds in _operands(arity)]
    return tuple((kinds, result) for kinds, result in joins if result is not None)


def _operands(arity: int) -> list[tuple[Kind, ...]]:
    """Return what might join, kinds of a weight first: the order shapes random draws."""
    known = [kind for kind in Kind if kind is not Kind.EXPONENT]
    first = list(product(TENSOR_KINDS, repeat=arity))
    return first + [kinds for kinds in product(known, repeat=arity) if kinds not in set(first)]
