"""Masks of one layer from its formula, a few rows at a time: metric and selection in the cache."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoproxy.language.program import Program
from evaluators import kernels
from evaluators.masks import NM, Pattern, bits_of_matrix, keep_mask, pack


class Tiles:
    """Makes masks, and keeps the room in which it does from layer to layer.

    The room is one float32 matrix of the largest layer, for groups that are wider than a row;
    per row and N:M it is a few rows. On one thread the masks are those of `masks.keep_mask` on
    the whole importance, to the bit.
    """

    def __init__(self) -> None:
        self._values = np.empty(0, np.float32)
        self._keep = np.empty(0, np.uint8)

    def keep_bits(
        self, program: Program, inputs: Mapping[str, Tensor], pattern: Pattern, group: str
    ) -> NDArray[np.uint8] | None:
        """Return the mask of one layer as bits, or None where the importance is not finite.

        Args:
            program: Of one importance.
            inputs: Its terminals and `W` (d_out, d_in), float32, contiguous.
            pattern: How many are dropped.
            group: `row`, `matrix` or `columns:N`.

        >>> from fractions import Fraction
        >>> from autoproxy.language.parse import parse
        >>> from evaluators.masks import Unstructured, unpack
        >>> weight = torch.tensor([[3.0, -1.0], [-2.0, 4.0]])
        >>> half, program = Unstructured(Fraction(1, 2)), Program([parse("abs(W)")])
        >>> unpack(Tiles().keep_bits(program, {"W": weight}, half, "row"), weight).tolist()
        [[True, False], [False, True]]
        """
        weight = inputs["W"]
        if not (kernels.AVAILABLE and weight.device.type == "cpu"):
            (value,) = program.run(inputs)
            if not torch.isfinite(value).all():
                return None
            return pack(keep_mask(value.expand(weight.shape), pattern, group))
        if isinstance(pattern, NM) or group == "row":
            return self._row_by_row(program, inputs, pattern)
        values = self._whole(program, inputs)
        if values is None:
            return None
        if group == "matrix":
            return bits_of_matrix(values, pattern)
        return pack(keep_mask(values, pattern, group))

    def _row_by_row(
        self, program: Program, inputs: Mapping[str, Tensor], pattern: Pattern
    ) -> NDArray[np.uint8] | None:
        rows, columns = inputs["W"].shape
        bits = np.empty(-(-rows * columns // 8), np.uint8)
        last = np.zeros(3, np.float32)
        for part, (value,) in program.run_in_tiles(inputs):
            values = _as_array(value, part, columns)
            # A tile but the last has a multiple of 32 weights, so it ends with a byte.
            here = bits[part.start * columns // 8 :]
            if not _select(values, pattern, last, self._bytes(values.size), here):
                return None
        return bits

    def _whole(self, program: Program, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Return the importance of the whole layer in the room that is kept for it."""
        rows, columns = inputs["W"].shape
        if self._values.size < rows * columns:
            self._values = np.empty(rows * columns, np.float32)
        room = self._values[: rows * columns].reshape(rows, columns)
        for part, (value,) in program.run_in_tiles(inputs):
            values = _as_array(value, part, columns)
            if not kernels.all_finite(values.reshape(-1)):
                return None
            room[part] = values
        return torch.from_numpy(room)

    def _bytes(self, size: int) -> NDArray[np.uint8]:
        if self._keep.size < size:
            self._keep = np.empty(size, np.uint8)
        return self._keep[:size]


def _select(
    values: kernels.Floats,
    pattern: Pattern,
    last: kernels.Floats,
    keep: kernels.Bytes,
    bits: kernels.Bytes,
) -> bool:
    """Write the bits of some rows; return whether all values are finite."""
    if isinstance(pattern, NM):
        return bool(kernels.bits_of_blocks(values, pattern.block, pattern.keep, keep, bits))
    if dropped := pattern.dropped(values.shape[1]):
        return bool(kernels.bits_of_rows(values, dropped, last, keep, bits))
    packed = np.packbits(np.ones(values.size, np.uint8))
    bits[: packed.size] = packed
    return bool(kernels.all_finite(values.reshape(-1)))


def _as_array(value: Tensor, rows: slice, columns: int) -> NDArray[np.float32]:
    """Return a value on some rows, which may lack rows or columns, as one contiguous array."""
    shape = (rows.stop - rows.start, columns)
    if value.shape != shape:
        value = value.expand(shape)
    array: NDArray[np.float32] = value.contiguous().numpy()
    return array
