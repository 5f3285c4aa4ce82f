"""What ids remember, packed and read back: nothing is changed, and what does not fit is left out."""

from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoemb_pipeline.kernels import Interactions, Memory, no_memory
from autoemb_pipeline.kernels.values import LENGTH_BYTES
from autoemb_pipeline.learners.stream.memory import append, as_columns, entries, forget, used_bytes
from autoemb_pipeline.rows import Lent
from tests.strategies import ids

OWNERS = 3
partners = st.lists(
    ids | st.integers(120, 135).map("é".__mul__) | st.integers(250, 260).map("x".__mul__), min_size=1, max_size=6, unique=True
)


def remembered_by(local: np.ndarray, outputs: int, field: int, rng: np.random.Generator, slots: np.ndarray) -> Memory:
    """All interactions remembered by their ids of a field, as the kernel chains them."""
    count = local.shape[1]
    nothing = np.zeros(0, dtype=np.int64)
    given = (slots, nothing) if field == 0 else (nothing, slots)
    events = Interactions(local, given, nothing, np.zeros(0), nothing, np.zeros((2, 0, 0)), local, np.zeros((2, 0), dtype=np.int8))
    memory = no_memory(events, outputs)
    for i in range(count):
        own = local[field, i]
        if memory.heads[field][own] < 0:
            memory.heads[field][own] = i
        else:
            memory.following[field, memory.tails[field][own]] = i
        memory.tails[field][own] = i
    memory.own_offsets[:] = rng.normal(size=(count, outputs)) * 5
    memory.own_shared[:] = rng.integers(0, 2, size=count)
    return memory


@given(
    names=partners,
    batches=st.lists(st.lists(st.tuples(st.integers(0, OWNERS - 1), st.integers(0, 5)), max_size=8), min_size=1, max_size=4),
    width=st.integers(LENGTH_BYTES, 700),
    outputs=st.sampled_from([1, 5]),
    field=st.integers(0, 1),
    seed=st.integers(0, 99),
)
@example(names=["ü" * 127, "x" * 255, "x" * 256], batches=[[(0, 0), (0, 1), (0, 2)] * 2], width=700, outputs=1, field=0, seed=0)
@settings(deadline=None, max_examples=150)
def test_what_fits_comes_back_and_the_rest_is_left_out(
    names: list[str], batches: list[list[tuple[int, int]]], width: int, outputs: int, field: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    slots = np.array([4, 0, 2])
    part = rng.integers(-128, 128, size=(5, width)).astype(np.int8)  # what is behind an entry's end is anything
    others = part[[1, 3]].copy()
    forget(part, slots)
    lent: Any = [Lent((), np.zeros(0, dtype=np.int64), [], own=True)] * 2
    lent[field] = Lent((part,), slots, ["a", "b", "c"], own=True)
    expected: list[list[tuple[str, list[float], int, bool]]] = [[] for _ in range(OWNERS)]
    sizes = [0] * OWNERS
    for batch in batches:
        local = np.zeros((2, len(batch)), dtype=np.int64)
        local[field], local[1 - field] = [own for own, _ in batch], [other % len(names) for _, other in batch]
        memory, labels = remembered_by(local, outputs, field, rng, slots), rng.integers(0, 5, size=len(batch))
        append((lent[0], lent[1]), 0, field, memory, local, labels, (names, names))
        for i, (own, other) in enumerate(batch):
            name = names[other % len(names)]
            size = 2 + len(name.encode()) + 2 * outputs
            if len(name.encode()) < 256 and LENGTH_BYTES + sizes[own] + size <= width:
                sizes[own] += size
                offsets = memory.own_offsets[i].astype(np.float16).tolist()
                expected[own].append((name, offsets, int(labels[i]), bool(memory.own_shared[i])))
    for own, slot in enumerate(slots.tolist()):
        assert [(e.partner, e.offsets.tolist(), e.label, e.shared) for e in entries(part, slot, outputs)] == expected[own]
    assert used_bytes(part, slots).tolist() == sizes
    np.testing.assert_array_equal(part[[1, 3]], others)
    forget(part, slots[:1])
    assert entries(part, 4, outputs) == []
    assert used_bytes(part, slots).tolist() == [0, *sizes[1:]]


def test_columns_of_promoted_ids_are_in_the_order_of_ids() -> None:
    part = np.zeros((3, 160), dtype=np.int8)
    slots, rng = np.arange(3), np.random.default_rng(0)
    local = np.array([[0, 2, 2, 0, 1], [0, 1, 0, 2, 1]])
    memory = remembered_by(local, 1, 0, rng, slots)
    lent = Lent((part,), slots, ["a", "b", "c"], own=True)
    append((lent, lent), 0, 0, memory, local, np.array([1, 0, 1, 0, 1]), (["a", "b", "c"], ["x", "y", "z"]))
    promoted = np.array([0, 2])
    remembered = [entries(part, slot, 1) for slot in promoted.tolist()]
    starts, partners, offsets, labels, shared = as_columns(remembered, promoted, 4, {"z": 7, "y": 5, "x": 3}, 1)
    assert starts.tolist() == [0, 2, 2, 4, 4]
    assert partners.tolist() == [3, 7, 5, 3]
    assert labels.tolist() == [1, 0, 0, 1]
    which = [0, 3, 1, 2]
    np.testing.assert_array_equal(offsets[:, 0], memory.own_offsets[which, 0].astype(np.float16))
    np.testing.assert_array_equal(shared, memory.own_shared[which])


def test_nothing_promoted_is_no_columns() -> None:
    starts, partners, offsets, labels, shared = as_columns([], np.zeros(0, dtype=np.int64), 2, {}, 5)
    assert (starts.tolist(), len(partners), offsets.shape, len(labels), len(shared)) == ([0, 0, 0], 0, (0, 5), 0, 0)
