"""The merge's rules, one by one: what may be released while some heads are missing."""

import pytest

from autoemb_pipeline.records import Interaction, RunPosition
from tests.source.oracle.items import ConsumedRecord, Remainder
from tests.source.oracle.merge import EventTimeMerge
from tests.strategies import remembered_up_to


def record(
    timestamp: int, sequence: int | None = None, *, partition: int = 0, offset: int = 0, dataset: str | None = "set"
) -> ConsumedRecord:
    return ConsumedRecord(Interaction("u", "i", 1.0, timestamp, dataset, sequence), partition, offset)


def merge(partitions: int = 2, *, position: RunPosition | None = None, dense: bool = True, idle_timeout: float = 10.0) -> EventTimeMerge:
    return EventTimeMerge(dict.fromkeys(range(partitions), 0), position=position or RunPosition(), idle_timeout=idle_timeout, dense=dense)


def at(sequences: dict[int, int]) -> RunPosition:
    return RunPosition(deliveries={p: (remembered_up_to("set", sequence, 0),) for p, sequence in sequences.items()})


def times(items: list) -> list[int]:
    return [item.interaction.timestamp for item in items]


def test_nothing_is_released_before_every_partition_has_a_head():
    merged = merge(3)
    merged.push(0, [record(1, 5), record(4, 8, offset=1)])
    merged.push(1, [record(2, 6, partition=1)])
    assert merged.wanted() == [2]
    assert merged.release(10, now=0.0) == []
    merged.push(2, [record(3, 7, partition=2)])
    assert times(merged.release(10, now=0.0)) == [1, 2, 3, 4]  # 3 and 4 follow densely on 2


def test_without_dense_a_missing_head_holds_back_even_the_next_sequence():
    merged = merge(dense=False)
    merged.push(0, [record(1, 0), record(2, 1, offset=1), record(9, 3, offset=2)])
    merged.push(1, [record(3, 2, partition=1)])
    assert times(merged.release(10, now=0.0)) == [1, 2, 3]
    assert merged.wanted() == [1]
    assert merged.release(10, now=0.0) == []
    merged.freeze(1)
    assert times(merged.release(10, now=0.0)) == [9]


def test_a_gap_in_the_sequence_waits_but_not_for_ever():
    merged = merge(position=at({0: 4}))
    merged.push(0, [record(2, 5), record(9, 7, offset=1)])
    assert times(merged.release(10, now=0.0)) == [2]
    assert merged.release(10, now=0.0) == []
    merged.push(1, [record(5, 6, partition=1)])
    assert times(merged.release(10, now=0.0)) == [5, 9]


def test_the_sequence_goes_on_from_the_position():
    resumed = merge(position=at({0: 3, 1: 4}))
    resumed.push(0, [record(9, 5), record(10, 7, offset=1)])
    assert times(resumed.release(10, now=0.0)) == [9]
    fresh = merge()
    fresh.push(0, [record(9, 0)])
    assert fresh.release(10, now=0.0) == []  # a dataset replayed from its middle does not begin at 0, nor any other at a known one


@pytest.mark.parametrize(
    "other", [record(50, 8, partition=1, dataset="other"), record(50, None, partition=1), record(50, 8, partition=1, dataset=None)]
)
def test_two_datasets_or_unsequenced_records_end_the_dense_rule(other):
    position = at({0: 4})
    merged = merge(3, position=position)
    merged.push(0, [record(9, 5)])
    merged.push(1, [other])
    assert merged.release(10, now=0.0) == []


def test_an_idle_partition_is_waited_for_only_so_long():
    merged = merge(idle_timeout=10.0)
    merged.push(0, [record(1), record(2, offset=1)])
    merged.mark_end(1)
    merged.starve(1, 100.0)
    assert merged.release(10, now=109.9) == []
    merged.starve(1, 110.0)
    assert times(merged.release(1, now=110.0)) == [1]
    merged.push(1, [record(0, partition=1)])  # it woke up: late, but it counts again
    assert times(merged.release(10, now=110.0)) == [0]
    assert merged.release(10, now=200.0) == []


def test_a_partition_that_is_silent_but_not_at_its_end_is_never_idle():
    merged = merge()
    merged.push(0, [record(1)])
    merged.starve(1, 0.0)
    merged.starve(1, 1e9)
    assert merged.release(10, now=1e9) == []


def test_ceilings_hold_and_are_waited_for_whatever_the_clock_says():
    merged = merge(idle_timeout=0.0)
    merged.mark_end(1)
    merged.starve(1, 0.0)
    merged.push(0, [record(1), record(5, offset=1), record(6, offset=2)])
    ceilings = {0: 2, 1: 1}
    assert merged.wanted(ceilings) == [1]
    assert merged.release(10, 100.0, ceilings) == []
    merged.push(1, [record(3, partition=1), record(4, partition=1, offset=1)])
    assert times(merged.release(10, 100.0, ceilings)) == [1, 3, 5]
    assert merged.wanted(ceilings) == []
    assert merged.next_offsets == {0: 2, 1: 1}


def test_a_partition_without_a_recorded_boundary_gives_nothing():
    merged = merge()
    merged.push(0, [record(5)])
    merged.push(1, [record(3, partition=1)])
    assert times(merged.release(10, 0.0, {0: 1})) == [5]


def test_ties_go_by_dataset_sequence_partition_and_offset():
    merged = merge(3, dense=False)
    merged.push(0, [record(1, 2), record(1, 3, offset=1)])
    merged.push(1, [record(1, 1, partition=1), record(1, 9, partition=1, offset=1, dataset="a")])
    merged.push(2, [record(1, None, partition=2, dataset=None)])
    for partition in range(3):
        merged.freeze(partition)
    order = [(i.interaction.dataset, i.interaction.sequence) for i in merged.release(10, now=0.0)]
    assert order == [(None, None), ("set", 1), ("a", 9), ("set", 2), ("set", 3)]
    assert merged.exhausted


def test_remainders_go_at_once_and_trailing_ones_last():
    merged = merge(dense=False)
    trailing = Remainder(0, 9, duplicates=1, trailing=True)
    loose = Remainder(1, 4, duplicates=1)
    merged.push(0, [])
    merged.push_remainder(0, trailing)
    merged.push(1, [loose, record(1, 0, partition=1, offset=4)])
    merged.freeze(0)
    assert merged.release(10, now=0.0) == [loose, record(1, 0, partition=1, offset=4)]
    assert merged.release(10, now=0.0) == []
    merged.freeze(1)
    assert merged.release(10, now=0.0) == [trailing]


def test_who_holds_the_others_back_is_named_and_for_how_long():
    merged = merge(3, dense=False, idle_timeout=10.0)
    assert merged.release(10, now=0.0) == []
    assert merged.held_back_by(0.0) == {}  # nobody waits where nothing is held
    merged.push(0, [record(1, 0), record(5, 1, offset=1)])
    merged.push(1, [record(2, 2, partition=1)])
    assert merged.release(10, now=1.0) == []
    assert merged.held_back_by(4.0) == {2: 3.0}
    merged.push(2, [record(9, 3, partition=2)])
    assert times(merged.release(10, now=5.0)) == [1, 2]
    assert merged.held_back_by(7.0) == {1: 2.0}
    merged.mark_end(1)
    merged.starve(1, 8.0)
    assert merged.release(10, now=17.0) == []
    assert merged.held_back_by(17.0) == {1: 12.0}
    assert times(merged.release(10, now=18.0)) == [5]  # 1 is idle by now; 0 is not
    assert merged.held_back_by(18.0) == {0: 0.0}
    merged.freeze(0)
    assert times(merged.release(10, now=19.0)) == [9]
    assert merged.held_back_by(19.0) == {}


def test_a_sequence_far_beyond_all_others_does_not_end_the_dense_rule():
    merged = merge(2)
    merged.push(0, [record(1, 4), record(1, 2**63 - 1, offset=1), record(2, 5, offset=2), record(4, 7, offset=3)])
    merged.push(1, [record(3, 6, partition=1)])
    assert times(merged.release(10, now=0.0)) == [1, 1, 2, 3, 4]  # 7 follows on 6, and need not wait for partition 1
