"""Triton kernels that choose which weights stay on a CUDA device: the masks of `kernels`, exactly.

torch's builds for CUDA bring Triton, which compiles each kernel on first use; where it is missing
or fails, `evaluators.masks` does the same with torch. A kernel reads each weight once and writes
its byte, 1 = keep. Ties are dropped from the left, and -0.0 ties with 0.0, as `masks` says.

With `TRITON_INTERPRET=1` the kernels run without a device, on tensors of the CPU: so they are
tested (`make triton`).
"""

import contextlib
import logging

import torch
import triton
import triton.language as tl
from torch import Tensor

LONGEST_ROW = 32_768
"""Values of a row that one group of threads holds in its registers."""

_SIZE = 1024
"""Values that one group of threads looks at, where no row decides."""

_log = logging.getLogger(__name__)


def usable(device: torch.device) -> bool:
    """Return whether the kernels compile and run on a device, to torch's masks on a small case.

    What Triton lacks, a compiler for its launchers for example, shows only when a kernel is run.
    """
    values = torch.tensor([[2.0, 1.0, 1.0, 3.0], [-0.0, 0.0, -1.0, 0.0]], device=device)
    expected = [[True, False, False, True], [False, True, False, True]]
    try:
        found = [keep_in_rows(values, 2).tolist(), keep_in_blocks(values, 4, 2).tolist()]
        same = found == [expected, expected] and kth_smallest(values.reshape(-1), 5) == 1.0
    except Exception as error:  # noqa: BLE001 - whatever Triton raises, torch can do it
        _log.warning("Triton does not run on %s, masks are made by torch: %s", device, error)
        return False
    if not same:
        _log.warning("Triton's masks on %s are not torch's, which are taken", device)
    return same


def keep_in_rows(values: Tensor, dropped: int) -> Tensor:
    """Return the mask, (rows, columns) bool, that drops exactly `dropped` of each row.

    Args:
        values: (rows, columns), float32, finite; at most `LONGEST_ROW` columns.
        dropped: From 1 to columns - 1.
    """
    values = values.contiguous()
    rows, columns = values.shape
    keep = torch.empty(values.shape, dtype=torch.uint8, device=values.device)
    size = triton.next_power_of_2(columns)
    warps = min(16, max(1, size // 512))
    with _on(values.device):
        _keep_in_rows[rows,](values, keep, columns, dropped, SIZE=size, num_warps=warps)
    return keep.view(torch.bool)


def keep_in_blocks(values: Tensor, block: int, kept: int) -> Tensor:
    """Return the mask, as `values`, that keeps `kept` of each `block` neighbours in a row.

    Args:
        values: (rows, columns), float32, finite; `block` divides columns.
        block: Neighbours that are compared.
        kept: From 1 to block - 1.
    """
    values = values.contiguous()
    keep = torch.empty(values.shape, dtype=torch.uint8, device=values.device)
    count = values.numel()
    with _on(values.device):
        _keep_in_blocks[triton.cdiv(count, _SIZE),](
            values, keep, count, BLOCK=block, KEPT=kept, SIZE=_SIZE
        )
    return keep.view(torch.bool)


def kth_smallest(values: Tensor, k: int) -> float:
    """Return the k-th smallest of many values, by four passes, each of which settles eight bits.

    Args:
        values: (count,), float32, finite.
        k: From 1 to count.
    """
    values = values.contiguous()
    prefix, left = 0, k
    for shift in (24, 16, 8, 0):
        counts = torch.zeros(256, dtype=torch.int64, device=values.device)
        with _on(values.device):
            _count_digits[triton.cdiv(len(values), _SIZE),](
                values, counts, len(values), prefix, shift, SIZE=_SIZE
            )
        under = counts.cumsum(0).tolist()
        digit = next(digit for digit, reached in enumerate(under) if reached >= left)
        left -= under[digit - 1] if digit else 0
        prefix = prefix << 8 | digit
    return _value_of(prefix)


def _value_of(rank: int) -> float:
    """Return the float whose `_rank` is given."""
    bits = rank ^ 0x80000000 if rank >= 0x80000000 else rank ^ 0xFFFFFFFF
    return torch.tensor(bits, dtype=torch.uint32).view(torch.float32).item()


def _on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Launch on this device: Triton takes the current one, wherever the tensors lie."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@triton.jit
def _rank(value):  # type: ignore[no-untyped-def]  # Triton's own language
    """Return an unsigned integer for each float32, in the order of the floats."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.uint32, bitcast=True)
    negative = (bits >> 31) == 1
    return tl.where(negative, bits ^ 0xFFFFFFFF, bits ^ 0x80000000)


@triton.jit(do_not_specialize=["columns", "dropped"])
def _keep_in_rows(values, keep, columns, dropped, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Find a row's threshold bit by bit: the largest that fewer than `dropped` lie under."""
    start = tl.program_id(0).to(tl.int64) * columns
    place = tl.arange(0, SIZE)
    inside = place < columns
    rank = _rank(tl.load(values + start + place, mask=inside, other=float("inf")))
    threshold = tl.full((), 0, tl.uint32)
    bit = tl.full((), 0x80000000, tl.uint32)
    for _ in range(32):
        guess = threshold | bit
        under = tl.sum((rank < guess).to(tl.int32), axis=0)
        threshold = tl.where(under < dropped, guess, threshold)
        bit = bit >> 1
    go = dropped - tl.sum((rank < threshold).to(tl.int32), axis=0)  # of those at the threshold
    tied = rank == threshold
    stays = (rank > threshold) | (tied & (tl.cumsum(tied.to(tl.int32), axis=0) > go))
    tl.store(keep + start + place, stays.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["count"])
def _keep_in_blocks(  # type: ignore[no-untyped-def]
    values,
    keep,
    count,
    BLOCK: tl.constexpr,  # noqa: N803
    KEPT: tl.constexpr,  # noqa: N803
    SIZE: tl.constexpr,  # noqa: N803
):
    """Count for each value how many of its block it beats; the block lies in the first cache."""
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = place < count
    own = place % BLOCK
    value = tl.load(values + place, mask=inside, other=0.0)
    beaten = tl.zeros((SIZE,), tl.int32)
    for other in tl.static_range(BLOCK):
        neighbour = tl.load(values + place - own + other, mask=inside, other=0.0)
        won = (value > neighbour) | ((value == neighbour) & (own > other))
        beaten += won.to(tl.int32)
    tl.store(keep + place, (beaten >= BLOCK - KEPT).to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["count", "prefix", "shift"])
def _count_digits(values, counts, count, prefix, shift, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Count the digits at `shift` of the ranks that begin with `prefix`."""
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = place < count
    rank = _rank(tl.load(values + place, mask=inside, other=0.0))
    upper = rank >> shift.to(tl.uint32)
    begins = inside & ((upper >> 8) == prefix.to(tl.uint32))
    digit = tl.where(begins, upper & 255, 256).to(tl.int32)
    digits = tl.arange(0, 512)  # 256 stands for none of them
    found = tl.histogram(digit, 512).to(tl.int64)
    tl.atomic_add(counts + digits, found, mask=(digits < 256) & (found > 0))
