"""The merge's oracle, one object per record: which record comes next, and whether that can be known yet. Pure: no Kafka, no clock of its own."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any

from autoemb_pipeline.errors import OffsetError
from autoemb_pipeline.records import RunPosition
from tests.source.oracle.items import ConsumedRecord, Item, Remainder

_AT_ONCE: tuple[float, ...] = ()  # sorts before every merge key
_LAST = (math.inf,)  # sorts after every merge key
_Head = tuple[Any, int]  # (key, partition)


@dataclass(slots=True)
class _Lane:
    """One partition's buffered items and what is known of its end."""

    partition: int
    next_offset: int
    queue: deque[Item] = field(default_factory=deque)
    frozen: bool = False
    at_end: bool = False
    idle_since: float | None = None


class EventTimeMerge:
    """K-way merge by the partitions' heads, by merge key (timestamp, dataset, sequence, partition, offset).

    The smallest head is released when every other partition has a head, is frozen or idle, or when (``dense``) it is the next sequence
    of the only dataset seen. While recorded boundaries are given as ``ceilings``, only records below them are released, partitions that
    have reached theirs are not waited for, and idleness counts for nothing.

    Args:
        next_offsets: partition -> offset of its first record.
        position: where the run stands, for the sequence released last.
        idle_timeout: seconds a partition at its end is waited for.
        dense: use the next-sequence rule. It saves waiting on a live stream; where all partitions end it only could add a race
            between a second dataset's first record and the first dataset's.
    """

    def __init__(self, next_offsets: Mapping[int, int], *, position: RunPosition, idle_timeout: float, dense: bool) -> None:
        self._lanes = {partition: _Lane(partition, offset) for partition, offset in sorted(next_offsets.items())}
        self._idle_timeout = idle_timeout
        self._dense = dense
        known = [dataset for of_partition in position.deliveries.values() for dataset in of_partition]
        self._datasets: set[str | None] = {of.dataset for of in known}
        self._newest = max((of.highest for of in known), default=None)
        self._held_since: dict[int, float] = {}

    @property
    def partitions(self) -> Sequence[int]:
        """All partitions, in order."""
        return tuple(self._lanes)

    @property
    def next_offsets(self) -> Mapping[int, int]:
        """Partition -> offset after the last item released."""
        return {partition: lane.next_offset for partition, lane in self._lanes.items()}

    @property
    def buffered(self) -> Mapping[int, int]:
        """Partition -> items held."""
        return {partition: len(lane.queue) for partition, lane in self._lanes.items()}

    @property
    def exhausted(self) -> bool:
        """Every partition is frozen and nothing is held."""
        return all(lane.frozen and not lane.queue for lane in self._lanes.values())

    @property
    def at_end(self) -> bool:
        """Every partition was last seen at its end and nothing is held."""
        return all(map(self.is_drained, self._lanes))

    def is_drained(self, partition: int) -> bool:
        """The partition was last seen at its end and nothing of it is held."""
        lane = self._lanes[partition]
        return (lane.frozen or lane.at_end) and not lane.queue

    def add_partition(self, partition: int, next_offset: int) -> None:
        """One more partition, from its `next_offset` on."""
        self._lanes[partition] = _Lane(partition, next_offset)

    def push(self, partition: int, items: Sequence[Item]) -> None:
        """Appends items read from the partition: it is not at its end, as far as is known."""
        lane = self._lanes[partition]
        lane.at_end, lane.idle_since = False, None
        lane.queue.extend(items)
        if self._dense:
            consumed = [item.interaction for item in items if isinstance(item, ConsumedRecord)]
            self._datasets.update({i.dataset for i in consumed if i.sequence is not None})
            if any(i.sequence is None or i.dataset is None for i in consumed):
                self._dense = False  # an unsequenced record can come from anywhere at any time: no sequence is surely next

    def push_remainder(self, partition: int, remainder: Remainder) -> None:
        """Appends unusable records that no usable one followed; what is known of the end stays."""
        self._lanes[partition].queue.append(remainder)

    def mark_end(self, partition: int) -> None:
        """The partition's end was reached; more may come."""
        self._lanes[partition].at_end = True

    def freeze(self, partition: int) -> None:
        """The partition ends here for good."""
        self._lanes[partition].frozen = True

    def is_frozen(self, partition: int) -> bool:
        """Whether `freeze` was called for it."""
        return self._lanes[partition].frozen

    def starve(self, partition: int, now: float) -> None:
        """The partition was asked and had nothing: if it is at its end, it is idle from now on."""
        lane = self._lanes[partition]
        if lane.at_end and not lane.queue and lane.idle_since is None:
            lane.idle_since = now

    def wanted(self, ceilings: Mapping[int, int] | None = None) -> list[int]:
        """Partitions whose head is missing."""
        return [lane.partition for lane in self._lanes.values() if _lacks_head(lane, ceilings)]

    def release(self, limit: int, now: float, ceilings: Mapping[int, int] | None = None) -> list[Item]:
        """Up to `limit` items, as far as their order is known.

        Raises:
            OffsetError: a ceiling lies inside what cannot be divided: the topic is not the one it was recorded from.
        """
        heads, waiting = self._survey(now, ceilings)
        released: list[Item] = []
        while heads and len(released) < limit:
            lane = self._lanes[heads[0][1]]
            if waiting and not self._may_overtake(lane.queue[0]):
                break
            heappop(heads)
            bound = heads[0] if heads else None
            self._drain(lane, released, 1 if waiting else limit - len(released), bound, ceilings)
            if _has_head(lane, ceilings):
                heappush(heads, (_key(lane.queue[0]), lane.partition))
            elif _lacks_head(lane, ceilings):
                waiting = True
        self._note_held(now, ceilings, waits=bool(heads) and waiting)
        return released

    def held_back_by(self, now: float) -> Mapping[int, float]:
        """Partitions whose head was missing at the last release while others' heads waited for it -> since how many seconds."""
        return {partition: now - since for partition, since in self._held_since.items()}

    def _note_held(self, now: float, ceilings: Mapping[int, int] | None, *, waits: bool) -> None:
        missing = [lane for lane in self._lanes.values() if waits and self._is_awaited(lane, now, ceilings)]
        self._held_since = {lane.partition: self._held_since.get(lane.partition, now) for lane in missing}

    def _is_awaited(self, lane: _Lane, now: float, ceilings: Mapping[int, int] | None) -> bool:
        idle = ceilings is None and lane.idle_since is not None and now - lane.idle_since >= self._idle_timeout
        return _lacks_head(lane, ceilings) and not idle

    def _survey(self, now: float, ceilings: Mapping[int, int] | None) -> tuple[list[_Head], bool]:
        """The heads that may be released, as a heap, and whether a missing one must be waited for."""
        heads: list[_Head] = []
        waiting = False
        for lane in self._lanes.values():
            if _has_head(lane, ceilings):
                heads.append((_key(lane.queue[0]), lane.partition))
            else:
                waiting = waiting or self._is_awaited(lane, now, ceilings)
        heapify(heads)
        return heads, waiting

    def _may_overtake(self, item: Item) -> bool:
        """Whether the item comes next whatever the missing heads are."""
        if isinstance(item, Remainder):
            return not item.trailing
        newest, sequence = self._newest, item.interaction.sequence
        return self._dense and newest is not None and sequence == newest + 1 and len(self._datasets) == 1

    def _drain(self, lane: _Lane, released: list[Item], limit: int, bound: _Head | None, ceilings: Mapping[int, int] | None) -> None:
        """Moves the lane's head and all that follow it and sort before `bound`."""
        queue = lane.queue
        start = len(released)
        if bound is None and ceilings is None:
            released.extend([queue.popleft() for _ in range(min(limit, len(queue)))])
        else:
            ceiling = math.inf if ceilings is None else ceilings.get(lane.partition, 0)
            released.append(queue.popleft())
            for _ in range(min(limit - 1, len(queue))):
                item = queue[0]
                if (bound is not None and (_key(item), lane.partition) > bound) or _end(item) > ceiling:
                    break
                released.append(queue.popleft())
        lane.next_offset = _end(released[-1])
        if self._dense:
            self._note_newest(released[start:])

    def _note_newest(self, items: Sequence[Item]) -> None:
        """The sequence released last, not the highest: one far beyond all others would end the dense rule for good."""
        sequences = (item.interaction.sequence for item in reversed(items) if isinstance(item, ConsumedRecord))
        self._newest = next((s for s in sequences if s is not None), self._newest)


def _key(item: Item) -> Any:
    if isinstance(item, ConsumedRecord):
        return item.merge_key
    return _LAST if item.trailing else _AT_ONCE


def _end(item: Item) -> int:
    return item.offset + 1 if isinstance(item, ConsumedRecord) else item.next_offset


def _reached(lane: _Lane, ceilings: Mapping[int, int] | None) -> bool:
    return ceilings is not None and lane.next_offset >= ceilings.get(lane.partition, 0)


def _lacks_head(lane: _Lane, ceilings: Mapping[int, int] | None) -> bool:
    return not lane.queue and not lane.frozen and not _reached(lane, ceilings)


def _has_head(lane: _Lane, ceilings: Mapping[int, int] | None) -> bool:
    if not lane.queue or _reached(lane, ceilings):
        return False
    if ceilings is not None and _end(lane.queue[0]) > ceilings[lane.partition]:
        raise OffsetError(
            f"Partition {lane.partition} has no record that ends at the recorded offset {ceilings[lane.partition]}",
            why=f"after {lane.next_offset} a mini-batch can next end at {_end(lane.queue[0])}: the topic is not as it was",
            remedy="start a new run: autoemb-pipeline train --new-run",
        )
    return True
