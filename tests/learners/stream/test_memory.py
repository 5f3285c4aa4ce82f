"""What ids remember, packed and read back: nothing is changed, and what does not fit is left out."""

from itertools import pairwise

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoemb_pipeline.kernels import Interactions, Memory, no_memory
from autoemb_pipeline.kernels.values import LENGTH_BYTES
from autoemb_pipeline.learners.stream.memory import append, as_columns, forget, recall
from autoemb_pipeline.rows import joined_texts
from tests.strategies import ids

OWNERS = 3
partners = st.lists(
    ids | st.integers(120, 135).map("é".__mul__) | st.integers(250, 260).map("x".__mul__), min_size=1, max_size=6, unique=True
)


def unbounded(local: np.ndarray) -> tuple[np.ndarray, int]:
    """Everything may be remembered."""
    return np.ones(local.shape[1], dtype=np.int8), 1 << 60


def used(part: np.ndarray, slots: np.ndarray) -> list[int]:
    """Bytes that the ids in these slots remember."""
    return [int.from_bytes(part[slot, :LENGTH_BYTES].tobytes(), "little") for slot in slots.tolist()]


def recalled(part: np.ndarray, slots: np.ndarray, outputs: int) -> list[list[tuple[str, list[float], int, bool]]]:
    """Of each id: partner, logits, label, and whether the partner has it too."""
    all_of = recall(part, slots, outputs)
    entries = list(zip(all_of.partners, all_of.offsets.tolist(), all_of.labels.tolist(), all_of.shared.astype(bool).tolist(), strict=True))
    return [entries[first:end] for first, end in pairwise(all_of.starts.tolist())]


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
    expected: list[list[tuple[str, list[float], int, bool]]] = [[] for _ in range(OWNERS)]
    sizes = [0] * OWNERS
    for batch in batches:
        local = np.zeros((2, len(batch)), dtype=np.int64)
        local[field], local[1 - field] = [own for own, _ in batch], [other % len(names) for _, other in batch]
        memory, labels = remembered_by(local, outputs, field, rng, slots), rng.integers(0, 5, size=len(batch))
        append(slots, part, field, memory, local, labels, joined_texts(names), *unbounded(local))
        for i, (own, other) in enumerate(batch):
            name = names[other % len(names)]
            size = 2 + len(name.encode()) + 2 * outputs
            if len(name.encode()) < 256 and LENGTH_BYTES + sizes[own] + size <= width:
                sizes[own] += size
                offsets = memory.own_offsets[i].astype(np.float16).tolist()
                expected[own].append((name, offsets, int(labels[i]), bool(memory.own_shared[i])))
    assert recalled(part, slots, outputs) == expected
    assert used(part, slots) == sizes
    np.testing.assert_array_equal(part[[1, 3]], others)
    forget(part, slots[:1])
    assert recalled(part, slots, outputs) == [[], *expected[1:]]
    assert used(part, slots) == [0, *sizes[1:]]


def test_columns_of_promoted_ids_are_in_the_order_of_ids() -> None:
    part = np.zeros((3, 160), dtype=np.int8)
    slots, rng = np.arange(3), np.random.default_rng(0)
    local = np.array([[0, 2, 2, 0, 1], [0, 1, 0, 2, 1]])
    memory = remembered_by(local, 1, 0, rng, slots)
    append(slots, part, 0, memory, local, np.array([1, 0, 1, 0, 1]), joined_texts(["x", "y", "z"]), *unbounded(local))
    promoted = np.array([0, 2])
    remembered = recall(part, promoted, 1)
    starts, partners, offsets, labels, shared = as_columns(remembered, promoted, 4, {"z": 7, "y": 5, "x": 3})
    assert starts.tolist() == [0, 2, 2, 4, 4]
    assert partners.tolist() == [3, 7, 5, 3]
    assert labels.tolist() == [1, 0, 0, 1]
    which = [0, 3, 1, 2]
    np.testing.assert_array_equal(offsets[:, 0], memory.own_offsets[which, 0].astype(np.float16))
    np.testing.assert_array_equal(shared, memory.own_shared[which])


def test_under_a_budget_what_has_no_room_or_is_not_likely_to_be_needed_is_left_out() -> None:
    slots, rng, names = np.arange(3), np.random.default_rng(0), joined_texts(["x", "y", "z"])
    local = np.array([[0, 2, 2, 0, 1], [0, 1, 0, 2, 1]])
    likely = np.array([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0]], dtype=np.int8)
    size = 2 + 1 + 2
    for room, kept in ((100, [2, 1, 1]), (2 * size, [2, 0, 0]), (3 * size - 1, [2, 0, 0]), (0, [0, 0, 0])):
        part = np.zeros((3, 160), dtype=np.int8)
        memory, labels = remembered_by(local, 1, 0, rng, slots), np.zeros(5, dtype=np.int64)
        left = append(slots, part, 0, memory, local, labels, names, likely[0], room)
        assert [len(own) for own in recalled(part, slots, 1)] == kept
        assert left == room - size * sum(kept)


def test_nothing_promoted_is_no_columns() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    starts, partners, offsets, labels, shared = as_columns(recall(np.zeros((1, 9), dtype=np.int8), nothing, 5), nothing, 2, {})
    assert (starts.tolist(), len(partners), offsets.shape, len(labels), len(shared)) == ([0, 0, 0], 0, (0, 5), 0, 0)
