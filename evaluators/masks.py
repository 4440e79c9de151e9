"""Masks: which weights stay. True = keep; a count, never a fraction, reaches the selection."""

import contextlib
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoproxy.errors import ConfigError, unknown_name
from evaluators import kernels

GROUPS = ("row", "matrix", "layer", "model")
"""Where importances are compared, beside `columns:N`: blocks of N inputs over all outputs."""

SPANNING = frozenset({"layer", "model"})
"""Groups of several matrices: all of a decoder layer, all of the model."""


@dataclass(frozen=True, slots=True)
class Unstructured:
    """Drop a share of the weights of each group.

    Attributes:
        sparsity: Share that is dropped, in [0, 1); exact, so that 0.29 of 100 is 29.
    """

    sparsity: Fraction

    def __str__(self) -> str:
        """Return it in percent, exactly: it is all that a protocol says of it.

        >>> str(Unstructured(Fraction(1, 2))), str(Unstructured(Fraction(1, 3)))
        ('50%', '100/3%')
        """
        percent = 100 * self.sparsity
        short = f"{float(percent):g}"
        return f"{short if Fraction(short) == percent else percent}%"

    def dropped(self, size: int) -> int:
        """Return how many of `size` weights are dropped: floor(size * sparsity).

        >>> Unstructured(Fraction("0.29")).dropped(100)
        29
        """
        return int(size * self.sparsity)


@dataclass(frozen=True, slots=True)
class NM:
    """Keep some of each block of consecutive inputs, as 2:4 keeps two of four.

    Attributes:
        keep: Weights that stay in a block.
        block: Weights in a block.
    """

    keep: int
    block: int

    def __str__(self) -> str:
        return f"{self.keep}:{self.block}"


Pattern = Unstructured | NM


def parse_pattern(sparsity: str | float | None, pattern: str | None) -> Pattern:
    """Return the pattern that the user asked for: a sparsity, or KEEP:BLOCK.

    Raises:
        ConfigError: Both or neither are given, or one that cannot be.

    >>> str(parse_pattern("0.5", None)), str(parse_pattern(None, "2:4"))
    ('50%', '2:4')
    """
    if (sparsity is None) == (pattern is None):
        raise ConfigError("give either a sparsity, such as 0.5, or a pattern, such as 2:4")
    if pattern is not None:
        return _nm(pattern)
    try:
        share = Fraction(str(sparsity))
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"sparsity {sparsity!r} is no number; write for example 0.5") from None
    if not 0 <= share < 1:
        raise ConfigError(f"sparsity must lie in [0, 1), got {sparsity}; 0.5 drops half")
    return Unstructured(share)


def amount_of(condition: str) -> dict[str, str]:
    """Return the option that asks for what the text of a pattern says.

    >>> amount_of("2:4"), amount_of("100/3%")
    ({'pattern': '2:4'}, {'sparsity': '1/3'})
    """
    if ":" in condition:
        return {"pattern": condition}
    return {"sparsity": str(Fraction(condition.removesuffix("%")) / 100)}


def check_group(group: str) -> str:
    """Return `group`, or raise a ConfigError that names the nearest."""
    if group.startswith("columns"):
        if not _COLUMNS.fullmatch(group):
            raise ConfigError(f"group {group!r} is not columns:N with N >= 1, such as columns:128")
    elif group not in GROUPS:
        raise ConfigError(unknown_name("group", group, (*GROUPS, "columns:128")))
    return group


_COLUMNS = re.compile(r"columns:[1-9][0-9]{0,6}")


def columns_of(group: str) -> int | None:
    """Return the inputs in a block of columns, None for another group.

    >>> columns_of("columns:128"), columns_of("row")
    (128, None)
    """
    return int(group.partition(":")[2]) if group.startswith("columns") else None


def check_fits(pattern: Pattern, group: str, layers: Mapping[str, Tensor]) -> None:
    """See that blocks divide the inputs of every layer.

    Raises:
        ConfigError: They do not; the message names the first such layer and its inputs.
    """
    block = pattern.block if isinstance(pattern, NM) else columns_of(group)
    what = f"pattern {pattern}" if isinstance(pattern, NM) else f"group {group}"
    if block is None:
        return
    for name, weight in layers.items():
        if weight.shape[1] % block:
            raise ConfigError(
                f"{what} needs inputs that {block} divides, but {name} has {weight.shape[1]}; "
                "choose another block or a sparsity per row"
            )


def keep_mask(importance: Tensor, pattern: Pattern, group: str) -> Tensor:
    """Return the mask that keeps the most important weights of each group.

    Ties are dropped lowest row first, then lowest column first.

    Args:
        importance: (d_out, d_in), finite.
        pattern: How many are dropped.
        group: `row`, `matrix` or `columns:N`; N:M compares within its blocks whatever the
            group. Groups of several matrices are `keep_masks`'s.

    Returns:
        (d_out, d_in) bool, True = keep; exactly the asked count is False in each group.

    >>> scores = torch.tensor([[3.0, 1.0, 1.0, 2.0]])
    >>> keep_mask(scores, Unstructured(Fraction(1, 4)), "row").tolist()
    [[True, False, True, True]]
    """
    columns = columns_of(group)
    if columns and isinstance(pattern, Unstructured):
        return _keep_in_columns(importance, pattern, columns)
    if kernels.AVAILABLE and importance.device.type == "cpu" and importance.dtype == torch.float32:
        return _keep_compiled(importance, pattern, group)
    rows, columns = importance.shape
    triton = _triton_for(importance)
    mask: Tensor
    if isinstance(pattern, NM):
        if triton:
            mask = triton.keep_in_blocks(importance, pattern.block, pattern.keep)
        else:
            mask = _keep_in_blocks(importance.reshape(-1, pattern.block), pattern.keep)
    elif group == "matrix":
        mask = _keep_top(importance.reshape(1, -1), pattern.dropped(rows * columns))
    elif triton and pattern.dropped(columns) and columns <= triton.LONGEST_ROW:
        mask = triton.keep_in_rows(importance, pattern.dropped(columns))
    else:
        mask = _keep_top(importance, pattern.dropped(columns))
    return mask.reshape(rows, columns)


def bits_of_matrix(importance: Tensor, pattern: Unstructured) -> NDArray[np.uint8]:
    """Return what `keep_mask` per matrix returns, as bits, by compiled loops.

    Args:
        importance: (d_out, d_in), float32 on a CPU, finite.
        pattern: How many are dropped.
    """
    values = importance.detach().contiguous().numpy().reshape(-1)
    if dropped := pattern.dropped(values.size):
        return kernels.bits_of_matrix(values, dropped)
    return pack(torch.ones(importance.shape, dtype=torch.bool))


def keep_masks(importances: Mapping[str, Tensor], pattern: Unstructured) -> dict[str, Tensor]:
    """Return the masks that keep the most important weights of several matrices together.

    Ties are dropped first matrix first, then as in `keep_mask`.

    Args:
        importances: (d_out, d_in) each, finite, in the order of the model.
        pattern: How many of all of them are dropped.
    """
    together = torch.cat([values.reshape(1, -1) for values in importances.values()], dim=1)
    mask = keep_mask(together, pattern, "matrix").reshape(-1)
    parts = torch.split(mask, [values.numel() for values in importances.values()])
    return {
        name: part.reshape(values.shape)
        for (name, values), part in zip(importances.items(), parts, strict=True)
    }


def mask_hash(packed: Iterable[NDArray[np.uint8]]) -> str:
    """Return the hash (32 hex digits) of masks as bits, in order."""
    digest = hashlib.sha256()
    for bits in packed:
        digest.update(bits.tobytes())
    return digest.hexdigest()[:32]


def pack(mask: Tensor) -> NDArray[np.uint8]:
    """Return a mask as bits, one a weight, rows one after another.

    >>> pack(torch.tensor([[True, False], [False, True]]))
    array([144], dtype=uint8)
    """
    if mask.device.type == "cpu":
        return np.packbits(mask.numpy())
    return _pack_where_it_is(mask).cpu().numpy()


def unpack(bits: NDArray[np.uint8], like: Tensor) -> Tensor:
    """Return the mask that `pack` made bits of, shaped and placed as `like`."""
    if like.device.type == "cpu":
        flat = np.unpackbits(bits, count=like.numel()).view(np.bool_)
        return torch.from_numpy(flat).reshape(like.shape)
    return _unpack_where_they_are(torch.tensor(bits, device=like.device), like)


def _pack_where_it_is(mask: Tensor) -> Tensor:
    """Do what `numpy.packbits` does, on the mask's device: an eighth of it is to be copied."""
    flat = mask.reshape(-1).to(torch.uint8)
    eights = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).reshape(-1, 8)
    bits = torch.zeros(len(eights), dtype=torch.uint8, device=mask.device)
    for place in range(8):
        bits |= eights[:, place] << (7 - place)
    return bits


def _unpack_where_they_are(bits: Tensor, like: Tensor) -> Tensor:
    """Do what `numpy.unpackbits` does, on the bits' device, and shape it."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    flags = ((bits.unsqueeze(1) >> shifts) & 1).bool().reshape(-1)
    return flags[: like.numel()].reshape(like.shape)


def count_bits(packed: NDArray[np.uint8]) -> int:
    """Return how many bits are 1: of a packed mask, the weights that stay.

    >>> count_bits(pack(torch.tensor([[True, False, True]])))
    2
    """
    return int(np.unpackbits(packed).sum(dtype=np.int64))


def mask_difference(
    one: Mapping[str, NDArray[np.uint8]], other: Mapping[str, NDArray[np.uint8]]
) -> float:
    """Return the share of bits in which the packed masks of the same matrices differ.

    >>> kept = torch.tensor([[True, False, True, False, True, False, True, False]])
    >>> mask_difference({"q": pack(kept)}, {"q": pack(kept.roll(1))})
    1.0
    """
    bits = 8 * sum(packed.size for packed in one.values())
    differing = sum(count_bits(packed ^ other[name]) for name, packed in one.items())
    return differing / bits


Mask = Tensor | NDArray[np.uint8]
"""A mask, or its bits as `pack` gives them."""


@contextlib.contextmanager
def applied(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Mask],
    spare: dict[str, Tensor] | None = None,
) -> Iterator[None]:
    """Zero the dropped weights during the block, then give every bit back, whatever happens.

    Args:
        weights: Live parameters, by layer.
        masks: Masks of the same shapes; layers without one are left alone.
        spare: Where copies of the dense weights lie between one call and the next; taken from
            and put back. What they hold is compared with the live weights at each call, so
            that they are never out of date. Without it they are made anew, and go at the end.
            Either way they are as large as the weights that have masks.
    """
    spare = {} if spare is None else spare
    lent: list[_Loan] = []
    try:
        with torch.no_grad():
            for name, mask in masks.items():
                lent.append(_Loan.of(weights[name], spare.pop(name, None)))
                lent[-1].zero_dropped(mask)
        yield
    finally:
        with torch.no_grad():
            for loan in lent:
                loan.give_back()
        spare.update(zip(masks, (loan.dense for loan in lent), strict=False))


@contextlib.contextmanager
def replaced(weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other weights in the place of live ones during the block."""
    with given_back({name: weights[name] for name in others}):
        with torch.no_grad():
            for name, other in others.items():
                weights[name].copy_(other)
        yield


@contextlib.contextmanager
def given_back(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give every bit of some live weights back after the block, whatever happens in it."""
    dense = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, original in dense.items():
                weights[name].copy_(original)


@dataclass(frozen=True, slots=True)
class _Loan:
    """A weight that is masked for a while.

    Attributes:
        weight: The live one.
        dense: Its copy, from when `done` says so.
        done: One byte, 1 once the copy holds every bit of the weight.
    """

    weight: Tensor
    dense: Tensor
    done: NDArray[np.uint8]

    @classmethod
    def of(cls, weight: Tensor, spare: Tensor | None) -> Self:
        weight = weight.detach()
        fits = spare is not None and (
            (spare.shape, spare.stride(), spare.dtype, spare.device)
            == (weight.shape, weight.stride(), weight.dtype, weight.device)
        )
        dense = spare if spare is not None and fits else torch.empty_like(weight)
        return cls(weight, dense, np.zeros(1, np.uint8))

    def zero_dropped(self, mask: Mask) -> None:
        if not isinstance(mask, Tensor):
            if mask.size != -(-self.weight.numel() // 8):
                raise ValueError(f"{mask.size} bytes of mask, {self.weight.numel()} weights")
            if self._can_be_compiled():
                live, dense = _words(self.weight), _words(self.dense)
                kernels.zero_dropped(live, mask, dense, self.done)
                return
            mask = unpack(mask, self.weight)
        self.dense.copy_(self.weight)
        self.done[0] = 1
        # Not a product: -0.0 and infinities would leave traces.
        self.weight.masked_fill_(~mask, 0.0)

    def _can_be_compiled(self) -> bool:
        weight = self.weight
        known = kernels.AVAILABLE and weight.element_size() in _WORDS
        return known and weight.device.type == "cpu" and weight.is_contiguous()

    def give_back(self) -> None:
        if self.done[0]:
            self.weight.copy_(self.dense)


_WORDS = {2: torch.int16, 4: torch.int32}


def _words(weight: Tensor) -> kernels.Words:
    """Return the memory of a contiguous weight as integers of its size, in one row."""
    words: kernels.Words = weight.view(_WORDS[weight.element_size()]).numpy().reshape(-1)
    return words


def _nm(pattern: str) -> NM:
    keep, _, block = pattern.partition(":")
    if not (keep.isdecimal() and block.isdecimal() and 0 < int(keep) < int(block) <= 64):
        raise ConfigError(
            f"pattern {pattern!r} is not KEEP:BLOCK with 0 < KEEP < BLOCK <= 64; 2:4 keeps two "
            "of four"
        )
    return NM(int(keep), int(block))


def _triton_for(values: Tensor) -> ModuleType | None:
    """Return `cuda_kernels` where they can be used on these values, else None."""
    if values.device.type != "cuda" or values.dtype != torch.float32:
        return None
    return _triton_on(values.device)


@functools.cache
def _triton_on(device: torch.device) -> ModuleType | None:
    """Ask once a process."""
    try:
        from evaluators import cuda_kernels  # noqa: PLC0415 - Triton is optional, and slow
    except ImportError:
        return None
    return cuda_kernels if cuda_kernels.usable(device) else None


def _keep_in_columns(importance: Tensor, pattern: Unstructured, columns: int) -> Tensor:
    """Compare within blocks of columns, each over all rows."""
    rows, count = importance.shape[0], importance.shape[1] // columns
    blocks = importance.reshape(rows, count, columns).transpose(0, 1)
    mask = keep_mask(blocks.reshape(count, rows * columns), pattern, "row")
    return mask.reshape(count, rows, columns).transpose(0, 1).reshape(importance.shape)


def _keep_compiled(importance: Tensor, pattern: Pattern, group: str) -> Tensor:
    """Do what `keep_mask` does by compiled loops."""
    if isinstance(pattern, Unstructured) and group == "matrix":
        return unpack(bits_of_matrix(importance, pattern), importance)
    values = importance.detach().contiguous().numpy()
    keep = np.empty(values.shape, np.uint8)
    if isinstance(pattern, NM):
        flat, flat_keep = values.reshape(-1), keep.reshape(-1)
        if pattern.block == 4:
            kernels.keep_in_fours(flat, pattern.keep, flat_keep)
        else:
            kernels.keep_in_blocks(flat, pattern.block, pattern.keep, flat_keep)
    elif dropped := pattern.dropped(values.shape[1]):
        kernels.keep_in_rows(values, dropped, keep, np.zeros(3, np.float32))
    else:
        keep.fill(1)
    return torch.from_numpy(keep.view(np.bool_))


def _keep_top(importance: Tensor, dropped: int) -> Tensor:
    """Drop exactly `dropped` of each row: all under the threshold, then ties from the left."""
    if dropped == 0:
        return torch.ones_like(importance, dtype=torch.bool)
    threshold = _kth_smallest(importance, dropped)  # (rows, 1)
    keep = importance > threshold
    tied = importance == threshold
    # How many at the threshold must stay: columns - dropped, less what is above it.
    stay = importance.shape[1] - dropped - keep.sum(dim=1, keepdim=True)
    count = tied.sum(dim=1, keepdim=True)
    simple = (stay == count).squeeze(1)
    keep[simple] |= tied[simple]
    hard = (~simple).nonzero().squeeze(1)
    if len(hard):
        place = tied[hard].cumsum(dim=1)  # 1 for the leftmost tie
        keep[hard] |= tied[hard] & (place > (count - stay)[hard])
    return keep


def _kth_smallest(importance: Tensor, k: int) -> Tensor:
    """Return the k-th smallest of each row, (rows, 1); a selection, never a sort."""
    if len(importance) == 1 and (triton := _triton_for(importance)):
        # torch gives one row to one group of threads, however long it is.
        return importance.new_full((1, 1), triton.kth_smallest(importance[0], k))
    if importance.device.type != "cpu":
        return importance.kthvalue(k, dim=1, keepdim=True).values
    # numpy's introselect takes a third of the time of torch's kthvalue on a CPU.
    parted = np.partition(importance.detach().numpy(), k - 1, axis=1)
    return torch.from_numpy(parted[:, k - 1 : k].copy())


def _keep_in_blocks(blocks: Tensor, keep: int) -> Tensor:
    """Keep `keep` of each row of (blocks, block) by counting who beats whom."""
    columns = blocks.unbind(dim=1)
    beaten_by = [torch.zeros(len(blocks), dtype=torch.uint8, device=blocks.device) for _ in columns]
    for left, first in enumerate(columns):
        for right in range(left + 1, len(columns)):
            # Of equals the right one stays: the lowest column is dropped first.
            lost = first <= columns[right]
            beaten_by[left] += lost
            beaten_by[right] += ~lost
    return torch.stack([count < keep for count in beaten_by], dim=1)
