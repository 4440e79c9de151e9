"""Which values of an expression depend on which rows of its terminals."""

from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of
from autoproxy.language.types import Kind

_OF_ALL = frozenset(
    {
        "minmax",
        "zscore",
        "entropy",
        "nuclear",
        "spectral",
        "erank",
        "logdet",
        "correlation",
        "pz_zsn",
    }
)
"""Primitives that look at all entries of what they are applied to, besides `all_...`."""


def looks_across(node: Expression) -> bool:
    """Return whether a node itself, apart from its operands, mixes rows with one another.

    Reductions over outputs or over all entries do, and min-max and z-score of what has rows; so
    does what makes rows of activations, which have none.

    >>> from autoproxy.language.parse import parse
    >>> looks_across(parse("col_sum(W)")), looks_across(parse("zscore(x_norm)"))
    (True, False)
    """
    if node.head.startswith(("col_", "outputs_")):
        return True
    if node.head == "pz_div":  # its divisor is made as large as its dividend
        return has_rows(node)
    if node.head.startswith("all_") or node.head in _OF_ALL:
        return has_rows(node.operands[0])
    return False


def has_rows(node: Expression) -> bool:
    """Return whether a value is a Weight or PerOutput, with one row for each output."""
    return kind_of(node) in {Kind.WEIGHT, Kind.PER_OUTPUT}
