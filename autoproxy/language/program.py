"""Running a whole generation of expressions: what they share is computed once."""

import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.locality import has_rows, looks_across
from autoproxy.language.parse import kind_of
from autoproxy.language.types import Kind

DEFAULT_LIMIT = 2 * 1024**3

TILE = 2**17
"""Entries of a tile: with a few temporaries they stay in a second-level cache."""

_LANES = 32
"""Entries that torch computes at a time; a rest is computed otherwise, with other last bits."""


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
        self._buffer = torch.empty(0)

    @property
    def node_count(self) -> int:
        """Number of distinct primitive applications in the graph."""
        return sum(1 for node in self._uses if node.operands)

    def run(self, inputs: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """Yield the value of each expression, in order, for one layer.

        Args:
            inputs: Terminal name to 2-D tensor, shaped as its kind says; never changed.

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

        Temporaries of a few rows stay in the cache, which is several times faster for large
        layers. What has no rows or mixes them is computed first, of the whole layer; where an
        expression has such a part, one buffer of the layer's size is held until the program
        goes. On one thread the bits are those of `run`.

        Args:
            inputs: As in `run`, contiguous.
            size: Entries of the layer in a tile, about.

        Yields:
            The rows, and the values in order, each to be taken before the next rows are; a
            value that has no rows is whole each time.
        """
        rows = max((value.shape[0] for value in inputs.values()), default=1)
        columns = max((value.shape[1] for value in inputs.values()), default=1)
        step = self._rows_of_tile(columns, size)
        if step >= rows:
            yield slice(0, rows), self.run(inputs)
            return
        layer = _Layer(inputs, rows, step, self.limit_bytes)
        if any(looks_across(node) for node in self._uses if node.operands):
            if self._buffer.numel() < rows * columns:
                self._buffer = next(iter(inputs.values())).new_empty(rows * columns)
            layer.buffer = self._buffer
        layer.begin(self._uses)
        yield from layer.tiles(self.expressions)

    def _rows_of_tile(self, columns: int, size: int) -> int:
        """Return how many rows are computed at a time: all but the last fill torch's lanes."""
        narrow = any(n.operands and kind_of(n) is Kind.PER_OUTPUT for n in self._uses)
        unit = _LANES if narrow else _LANES // math.gcd(columns, _LANES)
        return max(unit, size // columns // unit * unit)


@dataclass(slots=True)
class _Layer:
    """One layer's values that its tiles have in common.

    Attributes:
        inputs: The terminals, whole.
        rows: How many the layer has.
        step: How many a tile has.
        limit: Bytes that a tile may hold for later expressions.
        whole: Values without rows, by node.
        scaled: What makes a min-max or z-score of the operand's rows, by node.
        buffer: Room for one value of the layer.
    """

    inputs: Mapping[str, Tensor]
    rows: int
    step: int
    limit: int
    whole: dict[Expression, Tensor] = field(default_factory=dict)
    scaled: dict[Expression, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    buffer: Tensor = field(default_factory=lambda: torch.empty(0))

    def begin(self, nodes: Iterable[Expression]) -> None:
        """Compute all that no tile can compute of its own rows, operands before their users."""
        apart = [n for n in nodes if n.operands and (looks_across(n) or not has_rows(n))]
        # Those of one operand after one another; z-scores last, since they write over it.
        first = {n.operands[0]: place for place, n in reversed(list(enumerate(apart)))}
        apart.sort(key=lambda n: (n.depth, first[n.operands[0]], n.head == "zscore"))
        lying: Expression | None = None
        for node in apart:
            if not looks_across(node):
                self.whole[node] = self._values(self.inputs, Counter([node])).take(node)
                continue
            operand = node.operands[0]
            if operand != lying:
                value = self._assembled(operand)
            lying = None if node.head == "zscore" else operand
            if node.head in {"minmax", "zscore"}:
                make = _minmax_of if node.head == "minmax" else _zscore_of
                self.scaled[node] = make(value, self.buffer)
            else:
                self.whole[node] = _meaning(node)(value)

    def tiles(self, wanted: Sequence[Expression]) -> Iterator[tuple[slice, Iterator[Tensor]]]:
        """Yield rows after rows, and the values of expressions on them."""
        uses = _count_uses(wanted, self.whole)
        for start in range(0, self.rows, self.step):
            rows = slice(start, min(start + self.step, self.rows))
            here = {n: v[rows] if v.shape[0] > 1 else v for n, v in self.inputs.items()}
            yield rows, map(self._values(here, Counter(uses)).take, wanted)

    def _values(self, inputs: Mapping[str, Tensor], uses: Counter[Expression]) -> "_Values":
        return _Values(inputs, uses, self.limit, self.whole, self.scaled)

    def _assembled(self, node: Expression) -> Tensor:
        """Return the value of a node on all rows, computed by tiles."""
        if not node.operands:
            return self.inputs[node.head]
        if node in self.whole:
            return self.whole[node]
        value = torch.empty(0)
        for rows, (part,) in self.tiles([node]):
            if rows.start == 0:
                count = self.rows * part.shape[1]
                value = self.buffer[:count].view(self.rows, part.shape[1])
            value[rows] = part
        return value


def _minmax_of(value: Tensor, buffer: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what gives `minmax` of a value on some of its rows."""
    del buffer
    low = value.min()
    span = (value.max() - low).clamp_min(1e-30)
    return lambda rows: (rows - low).div_(span)


def _zscore_of(value: Tensor, buffer: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what gives `zscore` of a value on some of its rows; the buffer is written over."""
    mean = value.mean()
    centred = buffer[: value.numel()].view(value.shape)
    torch.sub(value, mean, out=centred)
    spread = centred.square_().mean().sqrt().clamp_min(1e-30)
    return lambda rows: (rows - mean).div_(spread)


def _meaning(node: Expression) -> Callable[..., Tensor]:
    primitive = CATALOG[node.head]
    return primitive.fast or primitive.tensor


class _Values:
    """The values that are alive during one run."""

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        uses: Counter[Expression],
        limit: int,
        whole: Mapping[Expression, Tensor] | None = None,
        scaled: Mapping[Expression, Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        self._inputs = inputs
        self._uses = uses
        self._limit = limit
        self._whole = whole or {}
        self._scaled = scaled or {}
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
        if node in self._whole:
            return self._whole[node]
        value = self._held.get(node)
        if value is None:
            value = self._compute(node)
            self._hold(node, value)
        self._uses[node] -= 1
        if self._uses[node] <= 0:
            self._drop(node)
        return value

    def _compute(self, node: Expression) -> Tensor:
        if node in self._scaled:
            return self._scaled[node](self.take(node.operands[0]))
        meaning = _meaning(node)
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


def _count_uses(
    expressions: Sequence[Expression], known: Container[Expression] = ()
) -> Counter[Expression]:
    """Return how often each distinct node is asked for when each is computed once.

    Nodes below a known one are not asked for by it.
    """
    uses: Counter[Expression] = Counter()
    pending = list(expressions)
    while pending:
        node = pending.pop()
        uses[node] += 1
        if uses[node] == 1 and node not in known:
            pending.extend(node.operands)
    return uses
