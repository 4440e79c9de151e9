"""How much an expression costs to read and to trust."""

from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression


def complexity(expression: Expression) -> int:
    """Return the sum of the costs of its primitives, and one for each leaf; at least 1.

    >>> from autoproxy.language.parse import parse
    >>> complexity(parse("mul(abs(W), x_norm)"))
    4
    """
    return sum(CATALOG[n.head].cost if n.operands else 1 for n in expression.walk())
