"""Rows rounded to 16 bits per number against exact fractions; what the store makes of them is tested with the store."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autoemb_pipeline.kernels import ABSENT, BORROWED, HELD, round_rows

MASK, GOLDEN = 2**64 - 1, 0x9E3779B97F4A7C15
NOTHING = 2.0**-149  # the smallest float32
FIRSTS, ENDS = np.array([0, 4]), np.array([3, 9])  # columns 3 and 9 belong to no block
WIDTH = 10
numbers = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-2.0, 2.0, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -32767.0, 32767.0, 32767.5, NOTHING, -NOTHING, 2.0**-126, float(np.finfo(np.float32).max)]),
)


def exponent(block: NDArray[np.float32]) -> int:
    """The definition: the smallest k of an int8 with max|x| ≤ 32767 · 2^k."""
    largest = max(abs(Fraction(float(x))) for x in block)
    return next(k for k in range(-128, 128) if largest <= 32767 * Fraction(2) ** k) if largest else 0


def unit(key: int, column: int) -> Fraction:
    z = (key + (column + 1) * GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return Fraction((z ^ (z >> 31)) >> 11, 2**53)


def twin(row: NDArray[np.float32], key: int) -> list[float]:
    rounded = row.tolist()
    for first, end in zip(FIRSTS, ENDS, strict=True):
        step = Fraction(2) ** exponent(row[first:end])
        bound = 32767 if 32767 * step < 2**128 else 16383
        for c in range(first, end):
            q = math.floor(Fraction(rounded[c]) / step + unit(key, c))
            rounded[c] = float(max(-bound, min(bound, q)) * step)
    return rounded


def rounded(rows: NDArray[np.float32], keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    copy, slots = rows.copy(), np.arange(len(rows))
    round_rows(copy, np.full((len(rows), 2), HELD, dtype=np.int8), slots, FIRSTS, ENDS, keys)
    return copy


@given(row=st.lists(numbers, min_size=WIDTH, max_size=WIDTH), key=st.integers(0, MASK))
def test_rounding_is_that_of_exact_fractions_and_done_once(row: list[float], key: int) -> None:
    before = np.array([row], dtype=np.float32)
    after = rounded(before, np.array([key], dtype=np.uint64))
    assert after[0].tolist() == twin(before[0], key)
    for first, end in zip(FIRSTS, ENDS, strict=True):
        step = Fraction(2) ** exponent(before[0, first:end])
        errors = [abs(Fraction(float(a)) - Fraction(float(b))) for a, b in zip(after[0, first:end], before[0, first:end], strict=True)]
        assert max(errors) < step
        assert not np.signbit(after[0, first:end][after[0, first:end] == 0]).any()  # -0 has no place among 16 bits
    assert rounded(after, np.array([key ^ 1], dtype=np.uint64)).tobytes() == after.tobytes()


@given(q=st.lists(st.integers(-32767, 32767), min_size=WIDTH, max_size=WIDTH), k=st.integers(-128, 113), key=st.integers(0, MASK))
def test_numbers_on_a_grid_stay(q: list[int], k: int, key: int) -> None:
    row = np.ldexp(np.array([q], dtype=np.float32), k)
    assert rounded(row, np.array([key], dtype=np.uint64)).tobytes() == row.tobytes()


def test_the_expectation_is_the_number_itself() -> None:
    count = 40_000
    row = np.random.default_rng(0).normal(size=WIDTH).astype(np.float32)
    row[1] = 1e-6  # far less than a step
    row[5] = -1e-6
    after = rounded(np.tile(row, (count, 1)), np.random.default_rng(1).integers(0, 2**64, count, dtype=np.uint64))
    for first, end in zip(FIRSTS, ENDS, strict=True):
        step = 2.0 ** exponent(row[first:end])
        share = row[first:end] / step - np.floor(row[first:end] / step)
        error = (after[:, first:end].mean(0, dtype=np.float64) - row[first:end]) / step
        assert (np.abs(error) < 5 * np.sqrt(share * (1 - share) / count) + 1e-9).all()
        assert len(np.unique(after[:, first])) == 2
    ups = after[:, [0, 2, 4, 6, 7]] > row[[0, 2, 4, 6, 7]]
    assert np.abs(np.corrcoef(ups.T) - np.eye(5)).max() < 5 / np.sqrt(count)  # columns are rounded each for itself


def test_only_held_blocks_of_the_slots_named_are_rounded_wherever_they_lie() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(6, WIDTH)).astype(np.float32)
    held = np.full((6, 2), HELD, dtype=np.int8)
    held[1, 0], held[4, 1] = ABSENT, BORROWED
    before, slots, keys = rows.copy(), np.array([4, 1, 5]), rng.integers(0, 2**64, 3, dtype=np.uint64)
    round_rows(rows, held, slots, FIRSTS, ENDS, keys)
    expected = before.copy()
    for slot, key in zip(slots, keys, strict=True):
        alone = twin(before[slot], int(key))
        for block in np.flatnonzero(held[slot] == HELD):
            own = slice(FIRSTS[block], ENDS[block])
            expected[slot, own] = alone[own]
    assert rows.tobytes() == expected.tobytes()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_takes_its_block_with_it(broken: float) -> None:
    row = np.ones((1, WIDTH), dtype=np.float32)
    row[0, 1] = broken
    after = rounded(row, np.zeros(1, dtype=np.uint64))
    assert np.isnan(after[0, :3]).all()
    assert (after[0, 3:] == 1).all()
