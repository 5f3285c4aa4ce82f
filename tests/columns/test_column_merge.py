"""The merge in columns against the merge with one object per record: any calls in any order give the same rows, offsets and refusals."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.errors import OffsetError
from autoemb_pipeline.records import DeadLetter, Interaction, RunPosition
from autoemb_pipeline.remembered import Remembered
from autoemb_pipeline.source.merge import ColumnMerge
from tests.source.oracle.items import ConsumedRecord, Item, Remainder, block_of, items_of
from tests.source.oracle.merge import EventTimeMerge
from tests.strategies import remembered_up_to


class Both:
    """The two merges, driven alike."""

    def __init__(self, offsets: Mapping[int, int], known: Mapping[int, tuple[Remembered, ...]], *, dense: bool) -> None:
        position = RunPosition(deliveries=known)
        self.one = EventTimeMerge(offsets, position=position, idle_timeout=5.0, dense=dense)
        self.many = ColumnMerge(offsets, position=position, idle_timeout=5.0, dense=dense)

    def push(self, partition: int, items: list[Item]) -> None:
        self.one.push(partition, items)
        self.many.push(partition, *block_of(items, partition))

    def push_remainder(self, partition: int, remainder: Remainder) -> None:
        self.one.push_remainder(partition, remainder)
        self.many.push_remainder(partition, *block_of([remainder], partition))

    def each(self, name: str, *arguments: Any) -> None:
        assert getattr(self.one, name)(*arguments) == getattr(self.many, name)(*arguments)

    def release(self, limit: int, now: float, ceilings: Mapping[int, int] | None) -> list[Item] | None:
        """The rows released by both; None where both refuse."""
        refusal: OffsetError | None = None
        try:
            expected = self.one.release(limit, now, ceilings)
        except OffsetError as error:
            refusal = error
        if refusal is not None:
            with pytest.raises(OffsetError, match=re.escape(str(refusal))):
                self.many.release(limit, now, ceilings)
            return None
        assert items_of(self.many.release(limit, now, ceilings)) == expected
        for name in ("partitions", "next_offsets", "buffered", "exhausted", "at_end"):
            assert getattr(self.one, name) == getattr(self.many, name), name
        self.each("wanted", ceilings)
        self.each("held_back_by", now + 1)
        return expected


class Logs:
    """Draws what each partition's reader hands over next."""

    def __init__(self, draw: st.DrawFn, *, sequenced: bool) -> None:
        self.draw, self.sequenced, self.sequence, self.time = draw, sequenced, 0, 0
        self.next: dict[int, int] = {}

    def item(self, partition: int, *, loose: bool = False) -> Item:
        draw = self.draw
        skipped = draw(st.sampled_from([0, 0, 0, 1, 2]))
        offset = self.next.get(partition, 0) + skipped
        letters = (DeadLetter("t", partition, offset - 1, "bad", "", None, None),) if skipped > 1 else ()
        if loose or draw(st.integers(0, 9)) == 0:
            self.next[partition] = offset + 1
            return Remainder(partition, offset + 1, skipped, letters)
        self.next[partition] = offset + 1
        self.time += draw(st.sampled_from([0, 0, 1, -2]))
        dataset, sequence = "set", self.sequence
        self.sequence += draw(st.sampled_from([1, 1, 1, 2]))
        if draw(st.integers(0, 9)) == 0:
            sequence = draw(st.integers(0, 1_000))  # far ahead, or again
        if not self.sequenced and draw(st.integers(0, 3)) == 0:
            dataset, sequence = draw(st.sampled_from([(None, None), ("", 3), (None, 4), ("other", 0), ("set", None), ("set", sequence)]))
        return ConsumedRecord(Interaction(f"u{self.sequence}", "i", 1.0, self.time, dataset, sequence), partition, offset, skipped, letters)


class Calls:
    """Drives both merges by drawn calls, as a source does."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], count: int, *, sequenced: bool, dense: bool) -> None:
        set_, other = remembered_up_to("set", 2, 0), remembered_up_to("other", 7, 0)
        known = draw(st.sampled_from([{}, {0: (set_,)}, {0: (set_,), 1: (other,)}]))
        self.both = Both(dict.fromkeys(range(count), 0), known, dense=dense)
        self.logs = Logs(draw, sequenced=sequenced)
        self.logs.sequence = 3 if known else 0
        self.draw, self.partitions, self.now = draw, list(range(count)), 0.0

    def push(self, partition: int) -> None:
        self.both.push(partition, [self.logs.item(partition) for _ in range(self.draw(st.integers(0, 6)))])

    def remainder(self, partition: int) -> None:
        self.both.push_remainder(partition, self.logs.item(partition, loose=True))

    def end(self, partition: int) -> None:
        self.both.each("mark_end", partition)

    def starve(self, partition: int) -> None:
        self.both.each("starve", partition, self.now)

    def freeze(self, partition: int) -> None:
        if self.draw(st.booleans()):
            self.both.push_remainder(partition, Remainder(partition, self.logs.next.get(partition, 0) + 1, 1, trailing=True))
        self.both.each("freeze", partition)

    def clock(self, _: int) -> None:
        self.now += self.draw(st.sampled_from([1.0, 4.0, 10.0]))

    def add(self, _: int) -> None:
        new = max(self.partitions) + self.draw(st.integers(1, 3))
        self.partitions.append(new)
        self.logs.next[new] = self.draw(st.integers(0, 3))
        self.both.each("add_partition", new, self.logs.next[new])

    def release(self, _: int, ceilings: Mapping[int, int] | None = None) -> bool:
        return self.both.release(self.draw(st.sampled_from([1, 2, 3, 7, 100])), self.now, ceilings) is None

    def ceilings(self, partition: int) -> bool:
        known = [p for p in self.partitions if self.draw(st.integers(0, 3))]
        at = self.both.one.next_offsets
        return self.release(partition, {p: self.draw(st.integers(at[p], at[p] + 8)) for p in known})


CALLS = ["push", "push", "push", "release", "release", "end", "starve", "freeze", "remainder", "clock", "add", "ceilings"]


@settings(deadline=None, max_examples=400)
@given(st.data(), st.booleans(), st.booleans(), st.integers(1, 4))
def test_any_calls_give_what_the_merge_of_objects_gives(data: st.DataObject, sequenced: bool, dense: bool, count: int) -> None:
    calls = Calls(data.draw, count, sequenced=sequenced, dense=dense)
    both = calls.both
    for _ in range(data.draw(st.integers(1, 25))):
        partition, name = data.draw(st.sampled_from(calls.partitions)), data.draw(st.sampled_from(CALLS))
        if name in ("push", "remainder", "freeze") and both.one.is_frozen(partition):
            continue
        if getattr(calls, name)(partition):
            return  # both refuse
    for partition in calls.partitions:
        both.each("freeze", partition)
    while both.release(3, calls.now, None):
        pass
    assert both.many.exhausted


@settings(deadline=None)
@given(st.data(), st.integers(1, 5))
def test_blocks_that_ascend_are_cut_exactly_at_limits_and_ceilings(data: st.DataObject, count: int) -> None:
    draw = data.draw
    both, logs = Both(dict.fromkeys(range(count), 0), {}, dense=False), Logs(draw, sequenced=True)
    pushed: dict[int, list[Item]] = {p: [] for p in range(count)}
    for _ in range(draw(st.integers(0, 40))):
        partition = draw(st.integers(0, count - 1))
        pushed[partition].append(logs.item(partition))
    for partition, items in pushed.items():
        both.push(partition, items)
        both.each("freeze", partition)
    while not both.one.exhausted:
        if draw(st.booleans()):
            ends = {
                p: [item.offset + 1 if isinstance(item, ConsumedRecord) else item.next_offset for item in items]
                for p, items in pushed.items()
            }
            at = both.one.next_offsets
            ceilings = {p: draw(st.sampled_from([at[p], *[end for end in ends[p] if end > at[p]]])) for p in pushed}
            while both.release(draw(st.integers(1, 5)), 0.0, ceilings):
                pass
            assert both.many.next_offsets == ceilings
        else:
            limit = draw(st.integers(1, 9))
            released = both.release(limit, 0.0, None)
            assert released is not None
            assert len(released) == min(limit, len(released) + sum(both.one.buffered.values()))


def test_a_partition_added_in_the_middle_is_merged_in_its_place() -> None:
    both = Both({0: 0, 5: 0}, {}, dense=False)
    tie = [ConsumedRecord(Interaction("u", "i", 1.0, 7), p, 0) for p in (0, 3, 5)]
    both.many.add_partition(3, 0)
    for record in tie:
        both.many.push(record.partition, *block_of([record], record.partition))
        both.many.freeze(record.partition)
    assert items_of(both.many.release(9, 0.0)) == tie
