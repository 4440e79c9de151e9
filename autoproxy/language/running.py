"""What a formula costs to run: the passes that its statistics need, then its arithmetic."""

from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of
from autoproxy.language.terminals import MODEL_TERMINALS
from autoproxy.language.types import Kind

_BACKWARD = frozenset({"g", "g_norm", "g_abs", "g_token", "g_region", "dx", "dy"})
"""Terminals that need a pass backward, which costs two passes forward."""

_DEAR = frozenset({"h_inv", "u_diag", "hg", "flow", "log_flow", "order_change"})
"""Terminals that need a Hessian or passes of their own."""

_OF_PLACES = {"fan_in", "fan_out", "block_index", "is_attention", "is_mlp", "is_first"}

_FREE = frozenset({"W", "noise", *_OF_PLACES, *MODEL_TERMINALS} - _DEAR)
"""Terminals that are known without any pass: what is stored, and what is counted."""

_PASSES = {"exp": 4.0, "log": 4.0, "tanh": 11.0, "sigmoid": 11.0, "pow": 20.0, "sqrt": 2.0}
"""What an entry costs, in copies of it; 1.5 where nothing is said (measured on one CPU)."""

_COPY = 1e-3
"""Copies of the weights in a pass forward over a calibration text, roughly."""


def running_cost(expression: Expression) -> float:
    """Return what a formula costs to run, in passes forward over the calibration text.

    An estimate by its words alone, the same on every machine, so that a search may rank by it:
    statistics decide, arithmetic counts little. Parts in common are computed once.

    >>> from autoproxy.language.parse import parse
    >>> [round(running_cost(parse(t)), 4) for t in ("abs(W)", "abs(W) * x_norm", "W * g_norm")]
    [0.0015, 1.003, 3.0015]
    """
    terminals = expression.terminals() - _FREE
    statistics = 0.0
    if terminals:
        statistics = 1.0 + 2.0 * bool(terminals & _BACKWARD) + 3.0 * bool(terminals & _DEAR)
    wide = {node for node in expression.walk() if node.operands and _is_wide(node)}
    return statistics + _COPY * sum(_PASSES.get(node.head, 1.5) for node in wide)


def _is_wide(node: Expression) -> bool:
    """Return whether a node works on as many entries as the weight has."""
    kinds = (kind_of(node), *(kind_of(operand) for operand in node.operands))
    return not all(kind in _NARROW for kind in kinds)


_NARROW = frozenset({Kind.PER_INPUT, Kind.PER_OUTPUT, Kind.SCALAR, Kind.MODEL, Kind.EXPONENT})
