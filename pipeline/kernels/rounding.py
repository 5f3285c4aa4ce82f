"""Rows on grids of 16 bits: a block's numbers are q · 2^k with |q| ≤ 32767 and one k, the smallest that reaches the largest of them.

Rounding is stochastic: q = floor(x / 2^k + u), u uniform in [0, 1), so that steps smaller than the grid are not lost but made now and then,
and the expectation is x. u is a counter-based hash of a key and the column: it depends on nothing else. Every such number is a float32.

k is an int8 and never below -128: blocks below 2^-113 are rounded to multiples of 2^-128. A block with a number that is not finite
becomes NaN as a whole.
"""

import math

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import helper, kernel
from autoemb_pipeline.kernels.hashing import GOLDEN, unit
from autoemb_pipeline.kernels.layout import HELD, Bytes, Integers, Rows

SMALLEST_EXPONENT = -128
NOT_FINITE = 127  # no block's exponent: the largest is 114
_LARGEST_EXPONENT = 113  # of grids whose largest number, 32767 · 2^k, is a float32


@helper
def exponent_of(bits: NDArray[np.int32], start: int, end: int) -> int:
    """k of the numbers in columns start to end, or NOT_FINITE; 0 if they all are zero. bits: [W] of the row's float32."""
    largest = np.int32(0)
    for c in range(start, end):
        largest = max(largest, bits[c] & np.int32(0x7FFFFFFF))
    if largest == 0:
        return 0
    exponent, fraction = largest >> 23, largest & 0x7FFFFF
    if exponent == 255:
        return NOT_FINITE
    # 2^(exponent - 127) (1 + fraction / 2^23) ≤ 32767 · 2^(exponent - 141)
    return max(SMALLEST_EXPONENT, int(exponent) - (141 if fraction <= 0x7FFFFF - 511 else 140))


@helper
def bound_of(exponent: int) -> float:
    """The largest q whose number is finite."""
    return 32767.0 if exponent <= _LARGEST_EXPONENT else 16383.0


@kernel
def round_rows(rows: Rows, held: Bytes, slots: Integers, firsts: Integers, ends: Integers, keys: NDArray[np.uint64]) -> None:
    """Rounds the numbers of held blocks in place, stochastically, each block to its own grid; numbers on a grid stay as they are.

    Args:
        rows: [slots, W] float32.
        held: [slots, N]; only blocks that are HELD are rounded.
        slots: [n].
        firsts, ends: [N] columns of each block's numbers.
        keys: [n] what decides how each row is rounded: a hash of the id and of how often it was.
    """
    bits = rows.view(np.int32)
    for i in range(len(slots)):
        row, key = slots[i], keys[i]
        for j in range(len(firsts)):
            if held[row, j] != HELD:
                continue
            k = exponent_of(bits[row], firsts[j], ends[j])
            if k == NOT_FINITE:
                rows[row, firsts[j] : ends[j]] = np.nan
                continue
            steps, step, bound = math.ldexp(1.0, -k), math.ldexp(1.0, k), bound_of(k)
            for c in range(firsts[j], ends[j]):
                y = np.float64(rows[row, c]) * steps
                whole = np.floor(y)
                # floor(y + u), but y + u may round up to an integer that is not reached
                upward = unit(key + np.uint64(c + 1) * GOLDEN) >= 1.0 - (y - whole)
                q = whole + (1.0 if upward else 0.0)
                rows[row, c] = np.float32(min(max(q, -bound), bound) * step)
