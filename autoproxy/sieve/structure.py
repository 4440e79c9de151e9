"""Rules that need the tree alone."""

from autoproxy.language.blindness import Blindness
from autoproxy.language.expression import Expression
from autoproxy.language.parse import kind_of
from autoproxy.language.types import Kind, varies_within_row
from autoproxy.sieve.rules import Context, Cost, Rule


def _limits(expression: Expression, slot: int, context: Context) -> str | None:
    del slot
    return context.space.violation(expression)


def _varies(expression: Expression, slot: int, context: Context) -> str | None:
    """Drop what reads no terminal that differs within the group that is compared."""
    del slot
    if context.space.root in {Kind.SCALAR, Kind.MODEL}:  # decoder layers, or networks
        return None if expression.terminals() else "it reads no terminal"
    rows = context.blindness is Blindness.ROW
    if any(_differs(kind, rows=rows) for kind in map(_leaf_kind, expression.walk()) if kind):
        return None
    group = "a row" if rows else "the matrix"
    return f"it reads no terminal that varies within {group}"


def _leaf_kind(node: Expression) -> Kind | None:
    return None if node.operands or node.is_constant else kind_of(node)


def _differs(kind: Kind, *, rows: bool) -> bool:
    return varies_within_row(kind) if rows else kind is not Kind.SCALAR


STRUCTURE_RULES = (
    Rule("limits", Cost.STRUCTURE, _limits),
    Rule("varies", Cost.STRUCTURE, _varies),
)
