"""Running expressions on a few rows of a layer at a time, so that values stay in the cache."""

import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from autoproxy.language.catalog import CATALOG
from autoproxy.language.expression import Expression
from autoproxy.language.fast import WRITERS
from autoproxy.language.locality import has_rows, looks_across
from autoproxy.language.parse import kind_of
from autoproxy.language.types import Kind

TILE = 2**17
"""Entries of a tile: a value and a mask of it fit into a second-level cache."""

_LANES = 32
"""Entries that torch computes at a time; a rest is computed otherwise, with other last bits."""


def rows_of_tile(nodes: Iterable[Expression], columns: int, size: int) -> int:
    """Return how many rows are computed at a time: all tiles but the last fill torch's lanes.

    Args:
        nodes: All that is computed.
        columns: Of the layer.
        size: Entries of a tile, about.
    """
    narrow = any(node.operands and kind_of(node) is Kind.PER_OUTPUT for node in nodes)
    unit = _LANES if narrow else _LANES // math.gcd(columns, _LANES)
    return max(unit, size // columns // unit * unit)


@dataclass(slots=True)
class Layer:
    """One layer, and what its tiles have in common.

    Attributes:
        inputs: The terminals, contiguous.
        rows: How many the layer has.
        columns: How many the layer has.
        step: Rows of a tile.
        room: Room for one value of the layer; made where it is needed and lacks.
        whole: Values without rows, by node.
        scaled: What makes a min-max or z-score of the operand's rows, by node.
    """

    inputs: Mapping[str, Tensor]
    rows: int
    columns: int
    step: int
    room: Tensor
    whole: dict[Expression, Tensor] = field(default_factory=dict)
    scaled: dict[Expression, Callable[..., Tensor]] = field(default_factory=dict)

    def begin(self, nodes: Iterable[Expression]) -> None:
        """Compute all that no tile can compute of its own rows, operands before their users."""
        apart = [n for n in nodes if n.operands and (looks_across(n) or not has_rows(n))]
        # Those of one operand after one another; z-scores last, since they write over it.
        first = {n.operands[0]: place for place, n in reversed(list(enumerate(apart)))}
        apart.sort(key=lambda n: (n.depth, first[n.operands[0]], n.head == "zscore"))
        lying: Expression | None = None
        for node in apart:
            if not looks_across(node):
                self.whole[node] = self._without_rows(node)
                continue
            operand = node.operands[0]
            if len(node.operands) > 1:
                self.whole[node] = self._of_pair(node)
                lying = None
                continue
            if operand != lying:
                value = self._assembled(operand)
            lying = None if node.head == "zscore" else operand
            if node.head == "minmax":
                self.scaled[node] = _minmax_of(value)
            elif node.head == "zscore":
                self.scaled[node] = _zscore_of(value, self._room_for(value.shape[1]))
            else:
                self.whole[node] = _meaning(node)(value)

    def tiles(self, wanted: Sequence[Expression]) -> Iterator[tuple[slice, Iterator[Tensor]]]:
        """Yield rows after rows, and the values of expressions on them."""
        tape = _Tape(self, wanted)
        for start in range(0, self.rows, self.step):
            rows = slice(start, min(start + self.step, self.rows))
            yield rows, tape.run(rows)

    def _of_pair(self, node: Expression) -> Tensor:
        left, right = node.operands
        kept = self._assembled(left).clone()  # the other is assembled in the same room
        return _meaning(node)(kept, self._assembled(right))

    def _without_rows(self, node: Expression) -> Tensor:
        operands = [self.known(operand) for operand in node.operands[: _tensors(node)]]
        return _meaning(node)(*operands, *_exponent(node))

    def known(self, node: Expression) -> Tensor:
        """Return a constant, a terminal, or what `begin` has found without rows."""
        if node.value is not None:
            return next(iter(self.inputs.values())).new_full((1, 1), node.value)
        return self.inputs[node.head] if not node.operands else self.whole[node]

    def _assembled(self, node: Expression) -> Tensor:
        """Return the value of a node on all rows, computed by tiles into the room."""
        if not node.operands or node in self.whole:
            return self.known(node)
        value: Tensor | None = None
        for rows, (part,) in self.tiles([node]):
            if value is None:
                value = self._room_for(part.shape[1])
            value[rows] = part
        assert value is not None  # noqa: S101 - a layer has rows
        return value

    def _room_for(self, columns: int) -> Tensor:
        if self.room.numel() < self.rows * self.columns:
            self.room = next(iter(self.inputs.values())).new_empty(self.rows * self.columns)
        return self.room[: self.rows * columns].view(self.rows, columns)


def _meaning(node: Expression) -> Callable[..., Tensor]:
    primitive = CATALOG[node.head]
    return primitive.fast or primitive.tensor


def _tensors(node: Expression) -> int:
    """Return how many operands of a node are tensors: all but an exponent."""
    return 1 if node.head == "pow" else len(node.operands)


def _exponent(node: Expression) -> tuple[float, ...]:
    value = node.operands[1].value if node.head == "pow" else None
    return () if value is None else (value,)


def _minmax_of(value: Tensor) -> Callable[..., Tensor]:
    """Return what gives `minmax` of a value on some of its rows."""
    low = value.min()
    return partial(_scale, low, (value.max() - low).clamp_min(1e-30))


def _zscore_of(value: Tensor, room: Tensor) -> Callable[..., Tensor]:
    """Return what gives `zscore` of a value on some of its rows; `room` is written over."""
    mean = value.mean()
    torch.sub(value, mean, out=room)
    return partial(_scale, mean, room.square_().mean().sqrt().clamp_min(1e-30))


def _scale(origin: Tensor, unit: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.sub(rows, origin, out=out).div_(unit)


@dataclass(frozen=True, slots=True)
class _Step:
    """One application in a tape.

    Attributes:
        apply: What is applied.
        sources: Registers of the operands.
        exponent: A last operand that is a number, or none.
        target: Register of the result.
        slot: Which buffer the result is written to, None for memory of its own.
    """

    apply: Callable[..., Tensor]
    sources: tuple[int, ...]
    exponent: tuple[float, ...]
    target: int
    slot: int | None


class _Tape:
    """Expressions as one list of steps; equal sub-expressions are one step.

    A buffer is used again once its value has had its last use, by the very step that uses it
    if it can be, so that few buffers, and the same, are in the cache.
    """

    def __init__(self, layer: Layer, wanted: Sequence[Expression]) -> None:
        self._layer = layer
        self._registers: list[Tensor] = []
        self._sliced: list[tuple[int, Tensor]] = []
        self._places: dict[Expression, int] = {}
        self._uses = count_uses(wanted, layer.whole)
        self._slots: dict[Expression, int] = {}
        self._free: list[int] = []
        self._count = 0
        self._parts: list[tuple[list[_Step], int]] = []
        for expression in wanted:
            steps: list[_Step] = []
            place = self._place(expression, steps)
            self._parts.append((steps, place))
            self._use(expression)
        first = next(iter(layer.inputs.values()))
        shape = (self._count, layer.step * layer.columns)
        self._buffers = [first.new_empty(shape[1]) for _ in range(self._count)]

    def run(self, rows: slice) -> Iterator[Tensor]:
        """Yield the values of all expressions on some rows."""
        registers, columns = self._registers, self._layer.columns
        count = rows.stop - rows.start
        buffers = [b[: count * columns].view(count, columns) for b in self._buffers]
        for place, terminal in self._sliced:
            registers[place] = terminal[rows]
        for steps, place in self._parts:
            for step in steps:
                operands = [registers[source] for source in step.sources]
                if step.slot is None:
                    registers[step.target] = step.apply(*operands, *step.exponent)
                else:
                    out = buffers[step.slot]
                    registers[step.target] = step.apply(*operands, *step.exponent, out=out)
            yield registers[place]

    def _place(self, node: Expression, steps: list[_Step]) -> int:
        """Return the register of a node's value, after the steps that compute it."""
        if node in self._places:
            return self._places[node]
        if not node.operands or node in self._layer.whole:
            place = self._register(node, self._layer.known(node))
            if not node.is_constant and has_rows(node):
                self._sliced.append((place, self._registers[place]))
            return place
        operands = node.operands[: _tensors(node)]
        sources = tuple(self._place(operand, steps) for operand in operands)
        apply = self._layer.scaled.get(node) or _meaning(node)
        for operand in node.operands:
            self._use(operand)
        target = self._register(node, torch.empty(0))
        steps.append(_Step(apply, sources, _exponent(node), target, self._slot(node, apply)))
        return target

    def _register(self, node: Expression, value: Tensor) -> int:
        self._registers.append(value)
        self._places[node] = len(self._registers) - 1
        return self._places[node]

    def _use(self, node: Expression) -> None:
        """Count one use; after the last one the buffer is free."""
        self._uses[node] -= 1
        if self._uses[node] == 0 and node in self._slots:
            self._free.append(self._slots[node])

    def _slot(self, node: Expression, apply: Callable[..., Tensor]) -> int | None:
        writes = apply in WRITERS or node in self._layer.scaled
        if not writes or kind_of(node) is not Kind.WEIGHT:
            return None
        if not self._free:
            self._free.append(self._count)
            self._count += 1
        self._slots[node] = self._free.pop()
        return self._slots[node]


def count_uses(
    wanted: Iterable[Expression], known: Container[Expression] = ()
) -> Counter[Expression]:
    """Return how often each distinct node is used when each is computed once.

    Args:
        wanted: The expressions whose values are asked for.
        known: Nodes whose values are there already, so that their operands are not asked for.
    """
    uses: Counter[Expression] = Counter()
    pending = list(wanted)
    while pending:
        node = pending.pop()
        uses[node] += 1
        if uses[node] == 1 and node not in known:
            pending.extend(node.operands)
    return uses
