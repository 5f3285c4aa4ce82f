"""New rows' numbers against hashlib's BLAKE2b and SplitMix64 written with numpy."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline.rows import hashed_uniform

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def twin(ids: list[str], *, seed: int, table: str, width: int, std: float) -> np.ndarray:
    prefix = f"{seed}\x00{table}\x00".encode()
    digests = [hashlib.blake2b(prefix + i.encode(), digest_size=8).digest() for i in ids]
    keys = np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)
    z = keys[:, None] + np.arange(1, width + 1, dtype=np.uint64) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    unit = (z >> np.uint64(11)).astype(np.float64) * (2.0**-53)
    return ((2.0 * unit - 1.0) * (std * 3.0**0.5)).astype(np.float32)


@given(
    ids=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), max_size=6),
    seed=st.integers(0, 2**40),
    table=st.text("abc.é", max_size=140),
    width=st.integers(1, 20),
    std=st.floats(1e-3, 10.0),
)
def test_rows_are_those_of_hashlib(ids: list[str], seed: int, table: str, width: int, std: float) -> None:
    rows = hashed_uniform(ids, seed=seed, table=table, width=width, std=std)
    assert rows.tobytes() == twin(ids, seed=seed, table=table, width=width, std=std).tobytes()
