"""Running a whole generation of expressions: what they share is computed once."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.tiling import TILE, Layer, rows_of_tile

DEFAULT_LIMIT = 2 * 1024**3


class Program:
    """Expressions compiled into one graph in which equal sub-expressions are one node.

    Results come one at a time, a value is dropped after its last use, and what is kept for
    later expressions stays under a limit: beyond it the oldest values are dropped and computed
    again when they are needed. At any time at most `limit_bytes` plus the operands of one
    chain of nodes (depth times the size of the layer's weight) are held.

    >>> from autoproxy.language.parse import parse
    >>> program = Program([parse("abs(W)"), parse("square(abs(W))")])
    >>> [value.tolist() for value in program.run({"W": torch.tensor([[-2.0, 3.0]])})]
    [[[2.0, 3.0]], [[4.0, 9.0]]]
    """

    def __init__(
        self, expressions: Sequence[Expression], *, limit_bytes: int = DEFAULT_LIMIT
    ) -> None:
        self.expressions = tuple(expressions)
        self.limit_bytes = limit_bytes
        self.terminals = frozenset().union(*(e.terminals() for e in self.expressions))
        self._uses = _count_uses(self.expressions)
        self._room = torch.empty(0)

    @property
    def node_count(self) -> int:
        """Number of distinct primitive applications in the graph."""
        return sum(1 for node in self._uses if node.operands)

    def run(self, inputs: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """Yield the value of each expression, in order, for one layer.

        Args:
            inputs: Terminal name to tensor, shaped as its kind says; never changed.

        Raises:
            KeyError: A terminal is missing.
        """
        values = _Values(inputs, Counter(self._uses), self.limit_bytes)
        for expression in self.expressions:
            yield values.take(expression)

    def run_in_tiles(
        self, inputs: Mapping[str, Tensor], size: int = TILE
    ) -> Iterator[tuple[slice, Iterator[Tensor]]]:
        """Yield some rows after others, and with them the value of each expression there.

        Values of a few rows stay in the cache, which is several times faster for large layers.
        What has no rows or mixes them is computed first, of the whole layer; where an
        expression has such a part, room for one value of the layer is kept until the program
        goes. On one thread the bits are those of `run`.

        Args:
            inputs: As in `run`, contiguous, on a CPU.
            size: Entries of the layer in a tile, about.

        Yields:
            The rows, and the values in order. A value is good until the next one is taken, and
            may be written over by whoever takes it no more than an input may; one that has no
            rows is whole each time.
        """
        sizes = [value.shape for value in inputs.values() if value.dim() == 2]
        rows = max((size[0] for size in sizes), default=1)
        columns = max((size[1] for size in sizes), default=1)
        step = rows_of_tile(self._uses, columns, size)
        if step >= rows:
            yield slice(0, rows), self.run(inputs)
            return
        layer = Layer(inputs, rows, columns, step, self._room)
        layer.begin(self._uses)
        self._room = layer.room
        yield from layer.tiles(self.expressions)


class _Values:
    """The values that are alive during one run."""

    def __init__(self, inputs: Mapping[str, Tensor], uses: Counter[Expression], limit: int) -> None:
        self._inputs = inputs
        self._uses = uses
        self._limit = limit
        self._held: dict[Expression, Tensor] = {}
        self._bytes = 0
        first = next(iter(inputs.values()), torch.empty(0))
        self._like = first.new_empty(())

    def take(self, node: Expression) -> Tensor:
        """Return the value of `node` and count one use of it."""
        if node.value is not None:
            return self._like.new_full((1, 1), node.value)
        if not node.operands:
            return self._inputs[node.head]
        value = self._held.get(node)
        if value is None:
            value = self._compute(node)
            self._hold(node, value)
        self._uses[node] -= 1
        if self._uses[node] <= 0:
            self._drop(node)
        return value

    def _compute(self, node: Expression) -> Tensor:
        primitive = CATALOG[node.head]
        meaning = primitive.fast or primitive.tensor
        if node.head == "pow":
            return meaning(self.take(node.operands[0]), node.operands[1].value)
        return meaning(*(self.take(operand) for operand in node.operands))

    def _hold(self, node: Expression, value: Tensor) -> None:
        if self._uses[node] <= 1:
            return
        self._held[node] = value
        self._bytes += value.nbytes
        while self._bytes > self._limit and self._held:
            self._drop(next(iter(self._held)))

    def _drop(self, node: Expression) -> None:
        value = self._held.pop(node, None)
        if value is not None:
            self._bytes -= value.nbytes


def _count_uses(expressions: Sequence[Expression]) -> Counter[Expression]:
    """Return how often each distinct node is asked for when each is computed once."""
    uses: Counter[Expression] = Counter()
    pending = list(expressions)
    while pending:
        node = pending.pop()
        uses[node] += 1
        if uses[node] == 1:
            pending.extend(node.operands)
    return uses
