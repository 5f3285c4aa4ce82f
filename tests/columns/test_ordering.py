"""A mini-batch's order and late records in columns, against the implementation with one object per record."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.ordering import canonical, late
from autoemb_pipeline.records import Interaction
from tests.batching import ordering_oracle
from tests.source.oracle.items import ConsumedRecord, block_of_records

names = st.sampled_from(["", "a", "b", None])
triples = st.tuples(st.integers(0, 3), names, st.none() | st.integers(0, 3))


@st.composite
def slices(draw: st.DrawFn) -> list[ConsumedRecord]:
    """Records of several partitions, shuffled together, each partition's own order kept; times are rarely in order, ties frequent."""
    lanes = {p: draw(st.integers(0, 9)) for p in draw(st.lists(st.integers(0, 12), unique=True, max_size=5))}
    turns = draw(st.permutations([partition for partition, count in lanes.items() for _ in range(count)]))
    offsets = dict.fromkeys(lanes, 0)
    records = []
    for partition in turns:
        time, dataset, sequence = draw(triples)
        records.append(ConsumedRecord(Interaction(f"u{len(records)}", "i", 1.0, time, dataset, sequence), partition, offsets[partition]))
        offsets[partition] += draw(st.integers(1, 2))
    return records


def triple(record: ConsumedRecord) -> tuple[int, str, int]:
    return record.merge_key[:3]


def by_running_maximum(records: Sequence[ConsumedRecord]) -> list[ConsumedRecord]:
    """The order's other definition: by the running maximum within the partition, which begins anew here, then partition, then place."""
    greatest: dict[int, tuple[int, str, int]] = {}
    keys = []
    for record in records:
        partition = record.partition
        greatest[partition] = max(greatest.get(partition, triple(record)), triple(record))
        keys.append((greatest[partition], partition, record.offset))
    return [records[row] for row in sorted(range(len(records)), key=keys.__getitem__)]


@settings(deadline=None, max_examples=300)
@given(slices())
def test_the_canonical_order_is_the_merge_by_heads(records: list[ConsumedRecord]) -> None:
    expected, _ = ordering_oracle.canonical(records)
    ordered = canonical(block_of_records(records))
    assert ordered.interactions() == [record.interaction for record in expected]
    assert list(zip(ordered.partition.tolist(), ordered.offset.tolist(), strict=True)) == [(r.partition, r.offset) for r in expected]
    assert list(expected) == by_running_maximum(records)


def test_a_maximum_carried_on_would_not_be_the_merge_by_heads() -> None:
    # Partition 0's 9 belongs to the mini-batch before: in this one its 1 comes before partition 1's 5.
    rows = [ConsumedRecord(Interaction("u", "i", 1.0, time), partition, offset) for partition, offset, time in [(1, 0, 5), (0, 1, 1)]]
    assert canonical(block_of_records(rows)).time.tolist() == [1, 5]


def test_many_partitions_of_many_records() -> None:
    random = np.random.default_rng(5)
    partition, time = random.integers(0, 40, 20_000), random.integers(0, 3_000, 20_000)
    time += np.arange(20_000) // 10
    records = [ConsumedRecord(Interaction("u", "i", 1.0, int(t)), int(p), o) for o, (p, t) in enumerate(zip(partition, time, strict=True))]
    expected, _ = ordering_oracle.canonical(records)
    assert canonical(block_of_records(records)).offset.tolist() == [record.offset for record in expected]


@settings(deadline=None, max_examples=300)
@given(slices(), st.none() | triples)
def test_late_records_and_the_frontier(records: list[ConsumedRecord], drawn: tuple[int, str | None, int | None] | None) -> None:
    frontier = drawn and (drawn[0], drawn[1] or "", -1 if drawn[2] is None else drawn[2])
    ordered, keys = ordering_oracle.canonical(records)
    assert late(canonical(block_of_records(records)), frontier) == ordering_oracle.late(keys, frontier)
    assert [triple(record) for record in ordered] == list(keys)
