"""A small space of importances, for enumeration: every formula of it up to a size can be tried.

Three terminals, eight unary and four binary primitives, no numbers but those that primitives hold:
without regard to kinds that makes 29,631 trees of at most five nodes.
"""

from autoproxy.language.types import Kind
from autoproxy.spaces import SearchSpace
from search_spaces.importance import BASELINES

SPACE = SearchSpace(
    name="importance-small",
    root=Kind.WEIGHT,
    terminals={"W": 4, "x_norm": 3, "g_norm": 2},
    primitives={
        "mul": 6,
        "div": 3,
        "add": 3,
        "sub": 1,
        "abs": 3,
        "square": 2,
        "sqrt": 4,
        "log": 1,
        "row_mean": 1,
        "row_norm": 1,
        "col_mean": 1,
        "col_norm": 1,
    },
    constants=(),
    exponents=(),
    max_size=24,
    max_depth=9,
    baselines=BASELINES,
)
