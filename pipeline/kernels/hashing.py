"""Initial rows from a counter-based hash of table and id: BLAKE2b keys an id, SplitMix64 counts through its row.

BLAKE2b as in RFC 7693 (section 3.2), unkeyed, with a digest of 8 bytes: that of `hashlib`, held to it by a test. Python's own costs
1.5 µs per id and block, which is most of what a new id costs.
"""

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import helper, kernel

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

_BLOCK = 128  # bytes
_ROUNDS = 12
_WORDS = 16
_IV = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    dtype=np.uint64,
)
_PARAMETERS = np.uint64(0x01010008)  # digest length 8, no key, fanout 1, depth 1
_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ],
    dtype=np.int64,
)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@helper
def _turned(x: np.uint64, bits: int) -> np.uint64:
    """To the right, by 1 to 63 bits."""
    return (x >> np.uint64(bits)) | (x << np.uint64(64 - bits))


@helper
def _mix(v: NDArray[np.uint64], a: int, b: int, c: int, d: int, x: np.uint64, y: np.uint64) -> None:
    """The function G of RFC 7693, section 3.1."""
    v[a] = v[a] + v[b] + x
    v[d] = _turned(v[d] ^ v[a], 32)
    v[c] = v[c] + v[d]
    v[b] = _turned(v[b] ^ v[c], 24)
    v[a] = v[a] + v[b] + y
    v[d] = _turned(v[d] ^ v[a], 16)
    v[c] = v[c] + v[d]
    v[b] = _turned(v[b] ^ v[c], 63)


@helper
def _compress(h: NDArray[np.uint64], block: NDArray[np.uint64], passed: int, last: bool, v: NDArray[np.uint64]) -> None:
    """The function F of RFC 7693, section 3.2: takes 128 bytes into the state; `passed` counts all bytes so far."""
    for k in range(8):
        v[k], v[k + 8] = h[k], _IV[k]
    v[12] ^= np.uint64(passed)
    if last:
        v[14] = ~v[14]
    for turn in range(_ROUNDS):
        s = _SIGMA[turn % 10]
        _mix(v, 0, 4, 8, 12, block[s[0]], block[s[1]])
        _mix(v, 1, 5, 9, 13, block[s[2]], block[s[3]])
        _mix(v, 2, 6, 10, 14, block[s[4]], block[s[5]])
        _mix(v, 3, 7, 11, 15, block[s[6]], block[s[7]])
        _mix(v, 0, 5, 10, 15, block[s[8]], block[s[9]])
        _mix(v, 1, 6, 11, 12, block[s[10]], block[s[11]])
        _mix(v, 2, 7, 8, 13, block[s[12]], block[s[13]])
        _mix(v, 3, 4, 9, 14, block[s[14]], block[s[15]])
    for k in range(8):
        h[k] ^= v[k] ^ v[k + 8]


@helper
def unit(counter: np.uint64) -> float:
    """SplitMix64's output for a state, as a number in [0, 1) with 53 bits."""
    z = (counter ^ (counter >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return float(z >> np.uint64(11)) * (2.0**-53)


@kernel
def hashed_rows(prefix: Bytes, data: Bytes, bounds: Integers, half_width: float, rows: NDArray[np.float32]) -> None:
    """Fills row i of `rows`, [n, width], from BLAKE2b of ``prefix`` and value i; numbers uniform in ±half_width.

    Args:
        prefix: [p] bytes.
        data, bounds: n values one behind the other, as in `kernels.texts`.
        half_width: bound of the numbers.
        rows: written.
    """
    h, v = np.empty(8, dtype=np.uint64), np.empty(_WORDS, dtype=np.uint64)
    block = np.zeros(_WORDS, dtype=np.uint64)
    head = len(prefix)
    for row in range(len(rows)):
        start, total = bounds[row] - head, head + bounds[row + 1] - bounds[row]
        for k in range(8):
            h[k] = _IV[k]
        h[0] ^= _PARAMETERS
        spot = 0
        while True:
            block[:] = 0
            stop = min(total, spot + _BLOCK)
            for k in range(spot, stop):
                byte = np.uint64(prefix[k] if k < head else data[start + k])
                block[(k - spot) >> 3] |= byte << np.uint64(((k - spot) & 7) * 8)
            _compress(h, block, stop, stop == total, v)
            spot = stop
            if stop == total:
                break
        key = h[0]
        for column in range(rows.shape[1]):
            key += GOLDEN
            rows[row, column] = np.float32((2.0 * unit(key) - 1.0) * half_width)
