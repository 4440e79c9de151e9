"""Compiled loops that choose which weights stay: exact, one thread, near the speed of memory.

Numba compiles them on first use, in a few seconds, and keeps what it made where it may; where it
is not installed, or numbers are not float32 on a CPU, `evaluators.masks` does the same with torch.

Masks are bytes here, 1 = keep, or bits as numpy packs them. Ties are dropped from the left, as
`evaluators.masks` says.
"""

import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from numba import njit
except ImportError:  # an installation without it: slower, the same masks
    AVAILABLE = False
else:
    AVAILABLE = True

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_F = np.float32
_BIG = np.float32(3.4028235e38)
_SAMPLE = 131_072
"""Values of a matrix that tell roughly where its threshold lies: to 0.14 % of the ranks."""


Words = NDArray[Any]
"""Weights seen as integers of their size, so that no bit of them is touched unasked."""

_CHUNK = 2048
"""Weights that are looked at and then written while they are in the first cache."""


def _jit(loop: Any, **options: Any) -> Any:
    """Compile a loop when it is first called; without Numba it is never called."""
    if not AVAILABLE:
        return loop
    try:
        return njit(nogil=True, cache=True, **options)(loop)
    except RuntimeError:  # neither this folder nor a home can be written: compiled each time
        return njit(nogil=True, **options)(loop)


@_jit
def all_finite(values: Floats) -> bool:
    """Return whether no value of a contiguous array (count,) is infinite or NaN."""
    words = values.view(np.uint32)
    most = np.uint32(0)
    for i in range(words.shape[0]):
        most = max(most, np.uint32(words[i] & np.uint32(0x7FFFFFFF)))
    return bool(most < np.uint32(0x7F800000))


@partial(_jit, fastmath={"reassoc"})  # its sum may be taken in any order
def _size(values: Floats) -> np.float32:
    """Return the sum of absolute values, about: it says only where to look."""
    size = _F(0.0)
    for i in range(values.shape[0]):
        size += abs(values[i])
    return size


@_jit
def _count(values: Floats, threshold: np.float32) -> int:
    """Return how many values are at most `threshold`."""
    count: Any = np.int32(0)
    for i in range(values.shape[0]):
        count += np.int32(1) if values[i] <= threshold else np.int32(0)
    return int(count)


@_jit
def _threshold(  # noqa: PLR0912 - one loop for the compiler
    values: Floats, dropped: int, guess: np.float32, gap: np.float32
) -> tuple[np.float32, int, np.float32]:
    """Return a threshold that exactly `dropped` values reach at most, if there is one.

    A guess is corrected by the distance between neighbours, then the step between two bounds is
    interpolated; every fourth step halves it, so that no distribution is slow. A few vectorised
    counts of a row in the first cache cost less than moving its values about.

    Args:
        values: One group.
        dropped: How many go, at least 1.
        guess: Where to begin, such as the last row's threshold.
        gap: Distance between values of neighbouring ranks there.

    Returns:
        The threshold, how many values are at most it (more than `dropped` where the threshold
        is tied), and the gap for the next group.
    """
    low, high = -_BIG, _BIG
    under, over = 0, values.shape[0]
    has_low, has_high = False, False
    at = guess
    turn = 0
    while True:
        count = _count(values, at)
        if count == dropped:
            return at, count, gap
        if count < dropped:
            low, under, has_low = at, count, True
        else:
            high, over, has_high = at, count, True
        turn += 1
        if has_low and has_high:
            gap = _F((high - low) / _F(over - under))
            at = _F(low + gap * _F(dropped - under))
            if turn % 4 == 0 or not low < at < high:
                at = _F(low * _F(0.5) + high * _F(0.5))
            if not low < at < high:  # no number between them: all of `high` are ties
                return high, over, gap
        else:
            at = _F(at + gap * _F(dropped - count) * _F(1.25))
            gap = _F(gap * _F(2.0) + _F(1e-38))
            if not -_BIG < at < _BIG or turn > 40:
                has_low, has_high = True, True
                at = _F(0.0) if low < _F(0.0) < high else _F(low * _F(0.5) + high * _F(0.5))


@_jit
def _write_row(values: Floats, threshold: np.float32, keep: Bytes) -> None:
    for i in range(values.shape[0]):
        keep[i] = np.uint8(1) if values[i] > threshold else np.uint8(0)


@_jit
def _keep_ties(values: Floats, threshold: np.float32, keep: Bytes, stay: int) -> None:
    """Keep the last `stay` of the values that equal the threshold."""
    i = values.shape[0] - 1
    while stay > 0 and i >= 0:
        if values[i] == threshold:
            keep[i] = np.uint8(1)
            stay -= 1
        i -= 1


@_jit
def keep_in_rows(values: Floats, dropped: int, keep: Bytes, last: Floats) -> None:
    """Drop exactly `dropped` of each row.

    Args:
        values: (rows, columns), contiguous, finite.
        dropped: From 1 to columns - 1.
        keep: (rows, columns), written.
        last: Threshold, gap and size of the row before these, zeros at first; written. They say
            where to look for the next threshold, and never change what is found.
    """
    rows, columns = values.shape
    guess, gap, before = last[0], last[1], last[2]
    for row in range(rows):
        size = _size(values[row])
        if before > _F(0.0):  # rows differ in scale more than in shape
            scale = _F(size / before)
            guess, gap = _F(guess * scale), _F(gap * scale)
        else:
            guess = _F(size / _F(columns))
            gap = _F(guess / _F(columns))
        if not -_BIG < guess < _BIG or not _F(0.0) <= gap < _BIG:
            guess, gap = _F(0.0), _F(0.0)
        before = size if size < _BIG else _F(0.0)
        threshold, count, gap = _threshold(values[row], dropped, _F(guess), _F(gap))
        guess = _F(threshold)
        _write_row(values[row], _F(threshold), keep[row])
        if count > dropped:
            _keep_ties(values[row], _F(threshold), keep[row], count - dropped)
    last[0], last[1], last[2] = guess, gap, before


@_jit
def _write_three(values: Floats, low: np.float32, high: np.float32, out: Bytes) -> tuple[int, int]:
    """Write 0 for what is below the bounds, 1 within, 2 above; count those below and above."""
    below: Any = np.int32(0)
    above: Any = np.int32(0)
    for i in range(values.shape[0]):
        is_low = np.uint8(1) if values[i] < low else np.uint8(0)
        is_high = np.uint8(1) if values[i] > high else np.uint8(0)
        out[i] = np.uint8(1) + is_high - is_low
        below += np.int32(is_low)
        above += np.int32(is_high)
    return int(below), int(above)


@_jit
def _pack(flags: Bytes, shift: int, bits: Bytes) -> None:
    """Write bit number `shift` of each byte as a bit, first byte in the highest."""
    whole = flags.shape[0] // 8
    words = flags[: 8 * whole].view(np.uint64)
    for j in range(whole):
        ones = (words[j] >> np.uint64(shift)) & np.uint64(0x0101010101010101)
        bits[j] = np.uint8((ones * np.uint64(0x8040201008040201)) >> np.uint64(56))
    if 8 * whole < flags.shape[0]:
        bits[whole] = np.uint8(0)
    for i in range(8 * whole, flags.shape[0]):
        bits[whole] |= np.uint8(((flags[i] >> shift) & 1) << (7 - i % 8))


@_jit
def _places_of_ones(three: Bytes, start: int, places: NDArray[np.int64], found: int) -> int:
    """Write down where the ones are, after `found` others; return how many there are then."""
    words = three.view(np.uint64)
    for j in range(words.shape[0]):
        if words[j] & np.uint64(0x0101010101010101) != np.uint64(0):
            for i in range(8 * j, 8 * j + 8):
                if three[i] == np.uint8(1):
                    if found < places.shape[0]:
                        places[found] = start + i
                    found += 1
    return found


@_jit
def _sort_out(
    values: Floats, low: np.float32, high: np.float32, bits: Bytes, places: NDArray[np.int64]
) -> tuple[int, int]:
    """Write the bits of what is above the bounds, and the places of what is within.

    Returns:
        How many are below, and how many within; only as many places as fit are written.
    """
    three = np.zeros(_CHUNK, np.uint8)  # what a last part leaves over stays 0
    below = found = 0
    for start in range(0, values.shape[0], _CHUNK):
        part = values[start : start + _CHUNK]
        size = -(-part.shape[0] // 8) * 8
        three[size - 8 : size] = np.uint8(0)
        under, over = _write_three(part, low, high, three[: part.shape[0]])
        below += under
        _pack(three[:size], 1, bits[start // 8 :])
        if under + over < part.shape[0]:
            found = _places_of_ones(three[:size], start, places, found)
    return below, found


@_jit
def _set_bits(bits: Bytes, places: NDArray[np.int64]) -> None:
    for place in places:
        bits[place // 8] |= np.uint8(128 >> (place % 8))


def bits_of_matrix(values: Floats, dropped: int) -> Bytes:
    """Return the mask that drops exactly `dropped` of all values.

    A sample bounds the threshold closely; only what lies within the bounds is looked at again.

    Args:
        values: (count,), contiguous, finite.
        dropped: From 1 to count - 1.

    Returns:
        (count / 8 rounded up,), first value in the highest bit.
    """
    low, high = _bounds(values, dropped)
    bits = np.empty(-(-values.shape[0] // 8), np.uint8)
    places = np.empty(values.shape[0] // 16 + 1024, np.int64)
    below, found = _sort_out(values, low, high, bits, places)
    if not (found <= places.shape[0] and below < dropped <= below + found):
        return np.packbits(_by_partition(values, dropped))  # the sample misled
    places = places[:found]
    _set_bits(bits, places[_by_partition(values[places], dropped - below)])
    return bits


def _by_partition(values: Floats, dropped: int) -> NDArray[np.bool_]:
    """Return which values stay, by numpy's selection."""
    threshold = np.partition(values, dropped - 1)[dropped - 1]
    keep: NDArray[np.bool_] = values > threshold
    stay = len(values) - dropped - int(keep.sum())
    if stay:
        keep[np.flatnonzero(values == threshold)[-stay:]] = True
    return keep


def _bounds(values: Floats, dropped: int) -> tuple[np.float32, np.float32]:
    """Return two numbers between which the threshold almost certainly lies."""
    step = values.shape[0] // _SAMPLE | 1  # odd, so that it meets every column of 2**n
    sample = np.sort(values[::step])
    share = dropped / values.shape[0]
    # Four standard deviations of a sampled rank, and a little for small samples: beyond them,
    # once in fifteen thousand matrices, there is the slow way.
    margin = 4.0 * np.sqrt(len(sample) * share * (1.0 - share)) + 8.0
    first, last = int(share * len(sample) - margin), int(share * len(sample) + margin)
    low = sample[first] if first >= 0 else -_BIG
    high = sample[last] if last < len(sample) else _BIG
    return low, high


@_jit
def keep_in_fours(values: Floats, kept: int, keep: Bytes) -> None:
    """Keep `kept` of each four neighbours, by the six comparisons among them.

    Args:
        values: (count,), count divisible by 4, contiguous.
        kept: From 1 to 3.
        keep: (count,), written.
    """
    words = keep.view(np.uint32)
    need = np.int32(4 - kept)  # how many of the others one must beat to stay
    for j in range(words.shape[0]):
        a, b, c, d = values[4 * j], values[4 * j + 1], values[4 * j + 2], values[4 * j + 3]
        ab, ac, ad = np.int32(a > b), np.int32(a > c), np.int32(a > d)
        bc, bd, cd = np.int32(b > c), np.int32(b > d), np.int32(c > d)
        words[j] = (
            np.uint32(ab + ac + ad >= need)
            | (np.uint32(bc + bd - ab + 1 >= need) << np.uint32(8))
            | (np.uint32(cd - ac - bc + 2 >= need) << np.uint32(16))
            | (np.uint32(3 - ad - bd - cd >= need) << np.uint32(24))
        )


@_jit
def keep_in_blocks(values: Floats, block: int, kept: int, keep: Bytes) -> None:
    """Keep `kept` of each `block` neighbours.

    Args:
        values: (count,), count divisible by `block`, contiguous.
        block: Neighbours that are compared.
        kept: From 1 to block - 1.
        keep: (count,), written.
    """
    need = np.int32(block - kept)
    lanes = 64  # blocks side by side, so that comparisons are vectorised over them
    columns = np.empty((block, lanes), np.float32)
    beaten = np.empty((block, lanes), np.int32)
    count = values.shape[0] // block
    for first in range(0, count, lanes):
        here = min(lanes, count - first)
        for lane in range(here):
            for i in range(block):
                columns[i, lane] = values[(first + lane) * block + i]
        beaten[:] = np.int32(0)
        for i in range(block):
            left, wins = columns[i], beaten[i]
            for j in range(i + 1, block):
                right, losses = columns[j], beaten[j]
                for lane in range(lanes):
                    # Of equals the right one stays.
                    won = np.int32(1) if left[lane] > right[lane] else np.int32(0)
                    wins[lane] += won
                    losses[lane] += np.int32(1) - won
        for lane in range(here):
            for i in range(block):
                stays = beaten[i, lane] >= need
                keep[(first + lane) * block + i] = np.uint8(1) if stays else np.uint8(0)


@_jit
def bits_of_rows(values: Floats, dropped: int, last: Floats, keep: Bytes, bits: Bytes) -> bool:
    """Do what `keep_in_rows` does, into bits, unless a value is not finite.

    Args:
        values: (rows, columns), contiguous.
        dropped: From 1 to columns - 1.
        last: As in `keep_in_rows`.
        keep: (rows * columns,) at least, written over.
        bits: (rows * columns / 8 rounded up,) at least; written, first value in the highest bit.

    Returns:
        Whether all values are finite.
    """
    rows, columns = values.shape
    here = keep[: rows * columns].reshape(rows, columns)
    for row in range(rows):
        if not all_finite(values[row]):
            return False
        keep_in_rows(values[row : row + 1], dropped, here[row : row + 1], last)
    _pack(keep[: rows * columns], 0, bits)
    return True


@_jit
def bits_of_blocks(values: Floats, block: int, kept: int, keep: Bytes, bits: Bytes) -> bool:
    """Do what `keep_in_fours` or `keep_in_blocks` does, into bits, unless one is not finite.

    Args:
        values: (rows, columns), contiguous; `block` divides columns.
        block: Neighbours that are compared.
        kept: From 1 to block - 1.
        keep: As in `bits_of_rows`.
        bits: As in `bits_of_rows`.

    Returns:
        Whether all values are finite.
    """
    flat = values.reshape(-1)
    size = flat.shape[0]
    chunk = _CHUNK // block * block
    for start in range(0, size, chunk):
        part = flat[start : start + chunk]
        here = keep[start : start + part.shape[0]]
        if not all_finite(part):
            return False
        if block == 4:
            keep_in_fours(part, kept, here)
        else:
            keep_in_blocks(part, block, kept, here)
    _pack(keep[:size], 0, bits)
    return True


@_jit
def zero_dropped(live: Words, bits: Bytes, dense: Words, done: Bytes) -> None:
    """Set weights whose bit is 0 to zero bits, and see that `dense` holds what was there.

    `dense` is compared first and written only where it differs: from one mask to the next, that
    is nowhere. So it can never go stale, and costs no second pass.

    Args:
        live: (count,) integers as large as the weights; written.
        bits: (count / 8 rounded up,), first weight in the highest bit, as numpy packs.
        dense: (count,); what `live` holds before, afterwards.
        done: (1,); becomes 1. Nothing is written when the call is interrupted before.
    """
    count = live.shape[0]
    zero, one = live.dtype.type(0), live.dtype.type(1)
    for start in range(0, count, _CHUNK):
        here, there = live[start : start + _CHUNK], dense[start : start + _CHUNK]
        differs = zero
        for i in range(here.shape[0]):
            differs |= here[i] ^ there[i]
        if differs != zero:
            for i in range(here.shape[0]):
                there[i] = here[i]
        mask = bits[start // 8 : (start + _CHUNK) // 8]
        whole = here.shape[0] // 8
        for j in range(whole):
            byte = live.dtype.type(mask[j])
            for k in range(8):
                here[8 * j + k] &= -((byte >> live.dtype.type(7 - k)) & one)
        for i in range(8 * whole, here.shape[0]):
            if (mask[i // 8] >> np.uint8(7 - i % 8)) & np.uint8(1) == np.uint8(0):
                here[i] = zero
    done[0] = np.uint8(1)


def compile_all() -> float:
    """Compile every kernel now, and return the seconds that it took."""
    start = time.perf_counter()
    values = np.arange(8, dtype=np.float32).reshape(1, 8)
    keep = np.empty((1, 8), np.uint8)
    keep_in_rows(values, 4, keep, np.zeros(3, np.float32))
    bits_of_matrix(values[0], 4)
    keep_in_fours(values[0], 2, keep[0])
    keep_in_blocks(values[0], 8, 4, keep[0])
    last, bits = np.zeros(3, np.float32), np.empty(1, np.uint8)
    bits_of_rows(values, 4, last, keep[0], bits)
    bits_of_blocks(values, 4, 2, keep[0], bits)
    for kind in (np.int16, np.int32):
        zero_dropped(np.zeros(8, kind), keep[0, :1], np.zeros(8, kind), keep[0, :1])
    return time.perf_counter() - start
