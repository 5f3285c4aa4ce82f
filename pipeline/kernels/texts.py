"""Kernels over byte strings laid out one behind the other: taking by index, distinct values, UTF-8, Kafka's partitioner.

Layout everywhere: value i is ``data[bounds[i]:bounds[i + 1]]``; ``data`` is uint8, ``bounds`` int64 with one entry more than values, and
need not begin at 0.
"""

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import helper, kernel

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

_FNV_BASIS = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_HALF = np.uint64(32)


@kernel
def is_utf8(data: Bytes, start: int, stop: int) -> bool:
    """Whether ``data[start:stop]`` is UTF-8 as Python's strict decoder takes it: no surrogates, no overlong forms, up to U+10FFFF.

    Source: Unicode 15, table 3-7 "Well-Formed UTF-8 Byte Sequences".
    """
    place = start
    while place < stop:
        lead = data[place]
        place += 1
        if lead < 0x80:
            continue
        low, high = 0x80, 0xBF  # of the second byte
        if 0xC2 <= lead <= 0xDF:
            following = 1
        elif 0xE0 <= lead <= 0xEF:
            following = 2
            if lead == 0xE0:
                low = 0xA0
            elif lead == 0xED:
                high = 0x9F
        elif 0xF0 <= lead <= 0xF4:
            following = 3
            if lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
        else:
            return False
        if place + following > stop or not low <= data[place] <= high:
            return False
        for k in range(1, following):
            if not 0x80 <= data[place + k] <= 0xBF:
                return False
        place += following
    return True


@helper
def same(data: Bytes, start: int, length: int, other: Bytes, other_start: int) -> bool:
    """Whether ``length`` bytes are equal at two places."""
    for k in range(length):
        if data[start + k] != other[other_start + k]:
            return False
    return True


@kernel
def take_texts(data: Bytes, bounds: Integers, index: Integers) -> tuple[Bytes, Integers]:
    """The values at ``index`` (int64 [n]), laid out anew: (data, bounds [n + 1])."""
    count = len(index)
    out_bounds = np.empty(count + 1, np.int64)
    total = 0
    for row in range(count):
        out_bounds[row] = total
        total += bounds[index[row] + 1] - bounds[index[row]]
    out_bounds[count] = total
    out = np.empty(total, np.uint8)
    for row in range(count):
        start = bounds[index[row]]
        target = out_bounds[row]
        for k in range(out_bounds[row + 1] - target):
            out[target + k] = data[start + k]
    return out, out_bounds


@kernel
def distinct_texts(data: Bytes, bounds: Integers) -> tuple[Integers, Integers]:
    """The distinct values, numbered by first occurrence: (place of the first occurrence [m], number of each value's [n]).

    Open addressing over 64-bit FNV-1a, linear probing, half full at most.
    """
    count = len(bounds) - 1
    size = 8
    while size < 2 * count:
        size *= 2
    table = np.full(size, -1, np.int64)
    hashes = np.empty(count, np.uint64)  # of the distinct ones
    firsts = np.empty(count, np.int64)
    inverse = np.empty(count, np.int64)
    present = 0
    for row in range(count):
        start, length = bounds[row], bounds[row + 1] - bounds[row]
        value = _FNV_BASIS
        for k in range(length):
            value = (value ^ np.uint64(data[start + k])) * _FNV_PRIME
        slot = np.int64(value ^ (value >> _HALF)) & (size - 1)
        while True:
            known = table[slot]
            if known < 0:
                table[slot] = present
                hashes[present] = value
                firsts[present] = row
                inverse[row] = present
                present += 1
                break
            if hashes[known] == value:
                first = bounds[firsts[known]]
                if bounds[firsts[known] + 1] - first == length and same(data, start, length, data, first):
                    inverse[row] = known
                    break
            slot = (slot + 1) & (size - 1)
    return firsts[:present].copy(), inverse


@kernel
def hashes_of(data: Bytes, bounds: Integers) -> Integers:
    """[n] a number of 64 bits for each value, never 0: FNV-1a, then SplitMix64's finaliser, which spreads it over all bits."""
    out = np.empty(len(bounds) - 1, np.int64)
    for row in range(len(out)):
        value = _FNV_BASIS
        for k in range(bounds[row], bounds[row + 1]):
            value = (value ^ np.uint64(data[k])) * _FNV_PRIME
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        number = np.int64(value ^ (value >> np.uint64(31)))
        out[row] = number if number != 0 else 1
    return out


_SEED = np.uint32(0x9747B28C)
_M = np.uint32(0x5BD1E995)


@kernel
def partitions_of(data: Bytes, bounds: Integers, partitions: int) -> Integers:
    """[n] the partition of each value as a record's key: `producers.partitioner.partition_of`, murmur2 of Kafka's Java client."""
    out = np.empty(len(bounds) - 1, np.int64)
    for row in range(len(out)):
        place, stop = bounds[row], bounds[row + 1]
        h = np.uint32(_SEED ^ np.uint32(stop - place))
        while place + 4 <= stop:
            k = np.uint32(
                np.uint32(data[place])
                | np.uint32(data[place + 1]) << np.uint32(8)
                | np.uint32(data[place + 2]) << np.uint32(16)
                | np.uint32(data[place + 3]) << np.uint32(24)
            )
            k = np.uint32(k * _M)
            k = np.uint32(np.uint32(k ^ (k >> np.uint32(24))) * _M)
            h = np.uint32(np.uint32(h * _M) ^ k)
            place += 4
        if place < stop:
            rest = np.uint32(0)
            shift = np.uint32(0)
            while place < stop:
                rest = np.uint32(rest | np.uint32(data[place]) << shift)
                shift = np.uint32(shift + np.uint32(8))
                place += 1
            h = np.uint32(np.uint32(h ^ rest) * _M)
        h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * _M)
        h = np.uint32(h ^ (h >> np.uint32(15)))
        out[row] = np.int64(h & np.uint32(0x7FFFFFFF)) % partitions
    return out
