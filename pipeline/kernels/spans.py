"""Kernels of the spans by which re-deliveries are recognised (`autoemb_pipeline.deliveries`): growing them, and making fewer of them.

A chain of spans is four columns, first and last sequence, earliest and latest time, of which the first ``size`` entries are set.
"""

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import allocating, helper, kernel

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@helper
def _smallest(values: Floats, rank: int) -> float:
    """The value that sorting would put at this place (Hoare's selection); reorders ``values``."""
    left, right = 0, len(values) - 1
    while left < right:
        pivot = values[(left + right) // 2]
        i, j = left, right
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            right = j
        elif rank >= i:
            left = i
        else:
            break
    known: float = values[rank]
    return known


@allocating
def _thin(first: Integers, last: Integers, low: Integers, high: Integers, size: int) -> int:
    pairs = (size - 1) // 2
    required = max(1, 3 * pairs // 4)
    enclosed = np.empty(pairs, np.float64)
    for pair in range(pairs):
        left, right = 2 * pair, 2 * pair + 1
        time = max(high[left], high[right]) - min(low[left], low[right])
        enclosed[pair] = (np.float64(last[right] - first[left]) + 1.0) * (np.float64(time) + 1.0)
    greatest = _smallest(enclosed.copy(), required - 1)
    ties = required
    for pair in range(pairs):
        if enclosed[pair] < greatest:
            ties -= 1
    place = 0
    for pair in range(pairs):
        left, right = 2 * pair, 2 * pair + 1
        joined = enclosed[pair] < greatest
        if enclosed[pair] == greatest and ties > 0:
            joined = True
            ties -= 1
        if joined:
            bottom, top = min(low[left], low[right]), max(high[left], high[right])
            first[place], last[place], low[place], high[place] = first[left], last[right], bottom, top
            place += 1
        else:
            for span in (left, right):
                first[place], last[place], low[place], high[place] = first[span], last[span], low[span], high[span]
                place += 1
    for span in range(2 * pairs, size):
        first[place], last[place], low[place], high[place] = first[span], last[span], low[span], high[span]
        place += 1
    return place


@kernel
def thin_spans(first: Integers, last: Integers, low: Integers, high: Integers, size: int) -> int:
    """Makes one of each two neighbours, but for the quarter of the pairs that would enclose most, and for the last span.

    So a stray sequence far from all others is not joined to them, and where the stream goes on nothing is guessed. Of pairs that enclose
    the same the earlier ones are joined.

    Args:
        first, last, low, high: the chain's columns, written in place.
        size: at least 3 spans.

    Returns:
        How many spans there are now.
    """
    return _thin(first, last, low, high, size)


@kernel
def extend_spans(
    first: Integers, last: Integers, low: Integers, high: Integers, size: int, sequences: Integers, times: Integers, limit: int
) -> int:
    """Appends records that ascend behind all spans, each a span of its own, and thins whenever there are more than ``limit`` spans.

    Args:
        first, last, low, high: columns with room for ``limit + 1`` spans, written in place.
        size: spans there are, at most ``limit``.
        sequences, times: [n] the records.
        limit: at least 3.

    Returns:
        How many spans there are now.
    """
    for row in range(len(sequences)):
        first[size] = last[size] = sequences[row]
        low[size] = high[size] = times[row]
        size += 1
        if size > limit:
            size = _thin(first, last, low, high, size)
    return size
