"""Pruner-Zero's `best_tree.json`: a formula as nested objects of `data`, `left` and `right`.

Its operations and terminals are those of `autoproxy/language/pruner_zero.py`; an operation of one
operand has it on the left.
"""

import json
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from pathlib import Path
from typing import Any

from autoproxy.errors import ConfigError, unknown_name
from autoproxy.export.manifest import read_json
from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.parse import MAX_DEPTH, parse
from autoproxy.language.pruner_zero import OPERATIONS, TERMINALS

LARGEST = 10_000
"""Most nodes that are read."""

_EXPAND = {label: parse(text) for label, text in TERMINALS.items()}
_LABELS = {form: label for label, form in _EXPAND.items()}
_WORDS = {word: label for label, word in OPERATIONS.items() if label != "pow"}  # square is sqr
_KEYS = frozenset({"data", "left", "right"})

Tree = dict[str, Any]
"""One node of the format, with those below it."""


def read_best_tree(path: Path) -> Expression:
    """Return the formula in a file of Pruner-Zero's format.

    It is the same tree, node for node, with each terminal written as what it is here.

    Raises:
        ConfigError: There is no such file, or it holds something else.
    """
    return from_tree(read_json(path), f"the root of {path}")


def is_tree(content: object) -> bool:
    """Return whether something read from JSON has the shape of this format.

    >>> is_tree({"data": "abs", "left": {"data": "W"}}), is_tree({"format": "autoproxy-metric"})
    (True, False)
    """
    return isinstance(content, dict) and "data" in content and set(content) <= _KEYS


def from_tree(content: object, where: str = "the root") -> Expression:
    """Return the formula that nested objects spell.

    Args:
        content: As read from JSON.
        where: What the outermost of them is called in messages.

    Raises:
        ConfigError: They do not; the message says where.

    >>> print(from_tree({"data": "mul", "left": {"data": "W"}, "right": {"data": "X"}}))
    mul(abs(W), square(x_norm))
    """
    return _Reader().read(content, where, 1)


def write_best_tree(expression: Expression) -> str:
    """Return a formula in Pruner-Zero's format, to be saved as `best_tree.json`.

    Whoever runs it gets the same order of weights, in every group: `g_norm` may be written as G,
    which is 100 times as large, only where that multiplies the whole formula by a number.

    Raises:
        ConfigError: The format has no word for something in it; the message says what.

    >>> print(write_best_tree(parse("square(W)")))
    {
        "data": "sqr",
        "left": {
            "data": "W"
        }
    }
    """
    return json.dumps(_Writer(expression).tree(expression), indent=4)


class _Reader:
    """Reads one file; it counts nodes, since a small file may not become a large tree."""

    def __init__(self) -> None:
        self._nodes = 0

    def read(self, node: object, where: str, depth: int) -> Expression:
        """Return the formula of a node; `where` says which one it is."""
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > LARGEST:
            raise ConfigError(
                f"the tree is too large; at most {MAX_DEPTH} levels and {LARGEST} nodes are read"
            )
        label, operands = _node(node, where)
        if label in _EXPAND and not operands:
            return _EXPAND[label]
        word = OPERATIONS.get(label)
        if word is None and label not in _EXPAND:
            known = [*OPERATIONS, *_EXPAND]
            raise ConfigError(f"{where}: {unknown_name('word of Pruner-Zero', label, known)}")
        wanted = CATALOG[word].arity if word else 0
        if word is None or len(operands) != wanted:
            raise ConfigError(f"{where}: {label!r} takes {wanted} operand(s), got {len(operands)}")
        sides = zip(("left", "right"), operands, strict=False)
        read = [self.read(operand, f"{side} of {where}", depth + 1) for side, operand in sides]
        return Expression(word, tuple(read))


def _node(node: object, where: str) -> tuple[str, list[object]]:
    """Return the word of a node and what stands below it."""
    if not isinstance(node, dict) or not isinstance(node.get("data"), str):
        raise ConfigError(
            f'{where} must be an object with "data", a word of Pruner-Zero, got {node!r:.60}'
        )
    beyond = sorted(set(node) - _KEYS)
    if beyond:
        raise ConfigError(f"{where} has {', '.join(beyond)}, but a node has data, left and right")
    below = [node[side] for side in ("left", "right") if node.get(side) is not None]
    if node.get("left") is None and below:
        raise ConfigError(
            f"{where} has an operand on the right alone; one operand goes to the left"
        )
    return node["data"], below


class _Writer:
    """Writes one formula.

    Args:
        whole: The formula, which decides whether a bare gradient can be written.
    """

    def __init__(self, whole: Expression) -> None:
        # were a part of the gradients written 100 times too large, all must be
        self._gradient_scales = _degree(whole) is not None and _EXPAND["G"] not in whole.walk()

    def tree(self, node: Expression) -> Tree:
        """Return the nodes of a formula or a part of it."""
        if node in _LABELS:
            return {"data": _LABELS[node]}
        if node.value is not None:
            raise ConfigError(f"{node}: Pruner-Zero's formulas have no numbers; leave it out")
        if not node.operands:
            return self._terminal(node)
        if node.head == "pow":
            return self._power(node)
        if node.head not in _WORDS:
            raise ConfigError(_without_word(node))
        if node.head in _EVEN and node.operands[0].head == "W":
            return {"data": _WORDS[node.head], "left": {"data": "W"}}  # the sign is not seen
        sides = zip(("left", "right"), map(self.tree, node.operands), strict=False)
        return {"data": _WORDS[node.head], **dict(sides)}

    def _terminal(self, node: Expression) -> Tree:
        if node.head == "x_norm":
            return {"data": "sqrt", "left": {"data": "X"}}
        if node.head == "g_norm" and self._gradient_scales:
            return {"data": "G"}
        why = {
            "W": "its W is the weight's magnitude; take abs(W)",
            "g_norm": "its G is 100 times that, which here changes the order; take 100 * g_norm",
        }.get(node.head, "it reads abs(W), 100 * g_norm and square(x_norm) alone")
        raise ConfigError(f"{node.head} cannot be written in Pruner-Zero's format: {why}")

    def _power(self, node: Expression) -> Tree:
        """Return a power as a product of squares of squares and roots of roots."""
        base, exponent = node.operands
        left = Fraction(exponent.value or 0).limit_denominator(16)
        if not 0 < left <= 4 or abs(float(left) - (exponent.value or 0)) > 1e-6:
            raise ConfigError(_unsaid_power(node))
        factors = []
        for steps in (2, 1, 0, -1, -2, -3, -4):
            while left >= Fraction(2) ** steps:
                factors.append(_repeated(steps, base))
                left -= Fraction(2) ** steps
        if left:
            raise ConfigError(_unsaid_power(node))
        return self.tree(reduce(lambda a, b: Expression("mul", (a, b)), factors))


_EVEN = frozenset({"abs", "square", "sqrt", "pz_log"})
"""Words of one operand that do not see its sign."""

_NEAR = {
    "div": "its div(a, b) divides by the norm of b: pz_div",
    "log": "its log adds 0.001: pz_log",
    "exp": "its exp goes on to e to the 88th, ours to e to the 80th: pz_exp",
    "zscore": "its zsn divides by the deviation of a sample: pz_zsn",
}


def _without_word(node: Expression) -> str:
    near = _NEAR.get(node.head, f"it has {', '.join(OPERATIONS)}")
    return f"{node.head!r} of {node} has no word in Pruner-Zero's format; {near}"


def _unsaid_power(node: Expression) -> str:
    return (
        f"{node} cannot be written in Pruner-Zero's format: it has squares and roots, so exponents "
        "are sums of 4, 2, 1, 1/2, 1/4, 1/8 and 1/16"
    )


def _repeated(steps: int, base: Expression) -> Expression:
    """Return |base| to the 2 to the `steps`, by squares or roots."""
    if steps == 0:
        return Expression("abs", (base,))
    for _ in range(abs(steps)):
        base = Expression("square" if steps > 0 else "sqrt", (base,))
    return base


def _degree(node: Expression) -> Fraction | None:
    """Return d such that a formula is c^d times as large where the gradient is c times.

    None where there is no such number for every c above zero.
    """
    if not node.operands:
        return Fraction(node.head == "g_norm")
    if node.head == "pow":
        base = _degree(node.operands[0])
        return None if base is None else base * Fraction(node.operands[1].value or 0)
    degrees = [degree for operand in node.operands if (degree := _degree(operand)) is not None]
    if len(degrees) < len(node.operands):
        return None
    if node.head in _DEGREES:
        return _DEGREES[node.head](degrees[0], degrees[-1])
    kept = len(set(degrees)) == 1 and (node.head in _HOMOGENEOUS or not degrees[0])
    return degrees[0] if kept else None


_DEGREES: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "mul": lambda first, last: first + last,
    "pz_div": lambda first, last: first - last,
    "square": lambda first, _: first * 2,
    "sqrt": lambda first, _: first / 2,
    "minmax": lambda *_: Fraction(0),
    "pz_zsn": lambda *_: Fraction(0),
}
"""What becomes of the degrees of the first and the last operand."""

_HOMOGENEOUS = frozenset({"add", "sub", "abs", "neg", "pz_skp"})
"""Primitives that are as many times as large as all their operands."""
