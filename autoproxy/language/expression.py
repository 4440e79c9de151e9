"""The expression: an immutable tree whose text form says all there is to know of it."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

CONSTANT = "constant"
"""Head of the nodes that hold a number."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A primitive applied to expressions, or a terminal or a constant (no operands).

    Two expressions are equal when they are the same tree.

    Attributes:
        head: Name of the primitive or terminal, or `CONSTANT`.
        operands: The expressions that the primitive combines.
        value: The number of a constant, rounded to float32, as it is used in float32.

    >>> str(Expression("mul", (Expression("W"), constant(0.1))))
    'mul(W, 0.1)'
    """

    head: str
    operands: tuple["Expression", ...] = ()
    value: float | None = None
    _hash: int = field(init=False, repr=False, compare=False, default=0)
    size: int = field(init=False, repr=False, compare=False, default=1)
    depth: int = field(init=False, repr=False, compare=False, default=1)

    def __post_init__(self) -> None:
        # Computed once: sizes and hashes of sub-expressions are asked for all the time.
        put = object.__setattr__
        put(self, "_hash", hash((self.head, self.operands, self.value)))
        put(self, "size", 1 + sum(operand.size for operand in self.operands))
        put(self, "depth", 1 + max((operand.depth for operand in self.operands), default=0))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
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
    return Expression(CONSTANT, (), rounded + 0.0)  # + 0.0: there is one zero, not two


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
