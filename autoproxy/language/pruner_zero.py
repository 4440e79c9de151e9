"""Pruner-Zero's words and what they are in this language: of its formulas, and of its search."""

from collections.abc import Mapping
from types import MappingProxyType

OPERATIONS: Mapping[str, str] = MappingProxyType(
    {
        "add": "add",
        "sub": "sub",
        "mul": "mul",
        "div": "pz_div",
        "sqr": "square",
        "pow": "square",
        "neg": "neg",
        "abs": "abs",
        "log": "pz_log",
        "exp": "pz_exp",
        "sqrt": "sqrt",
        "tanh": "tanh",
        "skp": "pz_skp",
        "mms": "minmax",
        "zsn": "pz_zsn",
    }
)
"""Each of its operations, and the primitive that it is; those beginning with `pz_` are its alone,
the others the same as ours."""

TERMINALS: Mapping[str, str] = MappingProxyType(
    {"W": "abs(W)", "G": "mul(100, g_norm)", "X": "square(x_norm)"}
)
"""What it calls weight, gradient and activation."""
