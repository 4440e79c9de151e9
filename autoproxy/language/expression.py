"""The expression: an immutable tree whose text form says all there is to know of it."""

import struct
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from threading import RLock
from typing import final
from weakref import WeakValueDictionary

CONSTANT = "constant"
"""Head of the nodes that hold a number."""

_Tree = tuple[str, tuple["Expression", ...], float | None]
"""What an expression is made of: head, operands and value."""


@final
class Expression:
    """A primitive applied to expressions, or a terminal or a constant (no operands).

    There is one object of each tree: making it again gives the one that is there, so that two
    expressions are equal when they are the same object, and comparing them costs nothing however
    deep they are. It goes when nobody holds it any more. It cannot be changed.

    Attributes:
        head: Name of the primitive or terminal, or `CONSTANT`.
        operands: The expressions that the primitive combines.
        value: The number of a constant, rounded to float32, as it is used in float32.
        size: Number of nodes.
        depth: Nodes on the longest path from the root to a leaf.

    >>> str(Expression("mul", (Expression("W"), constant(0.1))))
    'mul(W, 0.1)'
    >>> Expression("neg", (Expression("W"),)) is Expression("neg", (Expression("W"),))
    True
    """

    __slots__ = ("__weakref__", "_text", "depth", "head", "operands", "size", "value")

    head: str
    operands: tuple["Expression", ...]
    value: float | None
    size: int
    depth: int
    _text: str | None

    def __new__(
        cls, head: str, operands: tuple["Expression", ...] = (), value: float | None = None
    ) -> "Expression":
        """Return the expression of a tree, the one that is there if there is one."""
        # + 0.0: whole numbers are floats, and there is one zero, not two.
        tree = (head, operands, value if value is None else value + 0.0)
        found = _ALIVE.get(tree)
        return _make(tree) if found is None else found

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r} of an expression")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r} of an expression")

    def __reduce__(self) -> tuple[type["Expression"], _Tree]:
        # Copied and read back as what it is made of: the copy is this object, or, in another
        # process, that one's own.
        return Expression, (self.head, self.operands, self.value)

    def __repr__(self) -> str:
        return f"Expression({str(self)!r})"

    def __str__(self) -> str:
        text = self._text
        if text is None:
            text = self._spelled()
            object.__setattr__(self, "_text", text)
        return text

    def _spelled(self) -> str:
        if self.value is not None:
            return format_number(self.value)
        if not self.operands:
            return self.head
        return f"{self.head}({', '.join(map(str, self.operands))})"

    @property
    def is_constant(self) -> bool:
        """Whether this node is a number."""
        return self.value is not None

    def walk(self) -> Iterator["Expression"]:
        """Yield this node and all below it, each occurrence, parents first.

        >>> [str(node) for node in Expression("neg", (Expression("W"),)).walk()]
        ['neg(W)', 'W']
        """
        yield self
        for operand in self.operands:
            yield from operand.walk()

    def terminals(self) -> frozenset[str]:
        """Return the names of the terminals that it reads; constants are none."""
        return frozenset(
            node.head for node in self.walk() if not node.operands and not node.is_constant
        )


_ALIVE: WeakValueDictionary[_Tree, Expression] = WeakValueDictionary()
_MAKING = RLock()


def _make(tree: _Tree) -> Expression:
    """Return the expression of a tree that there was none of; of two threads, one makes it."""
    head, operands, value = tree
    with _MAKING:
        found = _ALIVE.get(tree)
        if found is not None:
            return found
        made = object.__new__(Expression)
        put = object.__setattr__
        put(made, "head", head)
        put(made, "operands", operands)
        put(made, "value", value)
        put(made, "size", 1 + sum([operand.size for operand in operands]))
        put(made, "depth", 1 + max([operand.depth for operand in operands], default=0))
        put(made, "_text", None)  # spelled when it is asked for, once
        _ALIVE[tree] = made
        return made


def constant(value: float) -> Expression:
    """Return the expression of a number, rounded to float32.

    Raises:
        ValueError: The number is not finite in float32.

    >>> str(constant(1 / 3))
    '0.33333334'
    """
    try:
        (rounded,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError as error:
        raise ValueError(f"a constant is finite in float32, got {value}") from error
    if rounded - rounded != 0:  # infinities and NaN
        raise ValueError(f"a constant is finite in float32, got {value}")
    return Expression(CONSTANT, (), rounded)


def format_number(value: float) -> str:
    """Return the shortest decimal text that reads back as the same float32.

    >>> format_number(0.5), format_number(100.0), format_number(1e-5)
    ('0.5', '100', '1e-05')
    """
    if value.is_integer() and abs(value) < 1e6:
        return str(int(value))
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if struct.pack("f", float(text)) == struct.pack("f", value):
            break
    return text
