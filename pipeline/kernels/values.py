"""Parts of a stored row: numbers of 16 bits (`autoemb_pipeline.kernels.rounding`), and bytes that begin with their length."""

import math

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import helper, kernel
from autoemb_pipeline.kernels.layout import Bytes, Integers, Rows
from autoemb_pipeline.kernels.rounding import NOT_FINITE, bound_of, exponent_of

LENGTH_BYTES = 2


@kernel
def pack_int16(rows: Rows, firsts: Integers, ends: Integers, numbers: NDArray[np.int16], exponents: Bytes) -> None:
    """Blocks' numbers as q and k; those on no grid are rounded to the nearest.

    Args:
        rows: [n, W] float32.
        firsts, ends: [H] columns of each block's numbers.
        numbers: [n, D] written, the blocks one behind the other.
        exponents: [n, H] written.
    """
    bits = rows.view(np.int32)
    for i in range(len(rows)):
        spot = 0
        for j in range(len(firsts)):
            k = exponent_of(bits[i], firsts[j], ends[j])
            exponents[i, j] = k
            steps, bound = math.ldexp(1.0, -k), bound_of(k)
            for c in range(firsts[j], ends[j]):
                q = np.floor(np.float64(rows[i, c]) * steps + 0.5) if k != NOT_FINITE else 0.0
                numbers[i, spot] = np.int16(min(max(q, -bound), bound))
                spot += 1


@kernel
def unpack_int16(numbers: NDArray[np.int16], exponents: Bytes, firsts: Integers, ends: Integers, rows: Rows, slots: Integers) -> None:
    """The inverse of `pack_int16`, into the slots of `rows`."""
    for i in range(len(slots)):
        spot = 0
        for j in range(len(firsts)):
            step = math.ldexp(1.0, exponents[i, j]) if exponents[i, j] != NOT_FINITE else np.nan
            for c in range(firsts[j], ends[j]):
                rows[slots[i], c] = np.float32(numbers[i, spot] * step)
                spot += 1


@helper
def length_of(data: Bytes, start: int) -> int:
    """Of the bytes behind it."""
    return (int(data[start]) & 0xFF) | ((int(data[start + 1]) & 0xFF) << 8)


@kernel
def trim_sized(rows: Bytes, slots: Integers) -> int:
    """Zeros behind the bytes that each row's length counts.

    Returns:
        The first of the n positions in `slots` whose length is more than the row holds, or -1.
    """
    for i in range(len(slots)):
        size = LENGTH_BYTES + length_of(rows[slots[i]], 0)
        if size > rows.shape[1]:
            return i
        rows[slots[i], size:] = 0
    return -1


@kernel
def read_sized(data: Bytes, starts: Integers, ends: Integers, rows: Bytes, slots: Integers) -> bool:
    """Copies n rows of a length and its bytes into slots, zeros behind; moves `starts` behind what was read.

    Args:
        data: values one behind the other.
        starts, ends: [n] where in `data` each row begins, and where its value ends.
        rows: [slots, width] written.
        slots: [n].

    Returns:
        False when a length leads beyond its value or the width.
    """
    for i in range(len(slots)):
        start = starts[i]
        if start + LENGTH_BYTES > ends[i]:
            return False
        size = LENGTH_BYTES + length_of(data, start)
        if size > rows.shape[1] or start + size > ends[i]:
            return False
        rows[slots[i], :size] = data[start : start + size]
        rows[slots[i], size:] = 0
        starts[i] = start + size
    return True
