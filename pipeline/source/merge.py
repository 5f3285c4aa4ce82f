"""Event-time merge of partitions: which rows come next, and whether that can be known yet. Pure: no Kafka, no clock of its own."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from autoemb_pipeline.columns import NONE, RECORD, Block, Integers, Place, Released, Unusable, common_datasets, concat
from autoemb_pipeline.errors import OffsetError
from autoemb_pipeline.kernels.order import NO_CEILING, merge_by_heads
from autoemb_pipeline.records import RunPosition

_NOTHING: Mapping[int, Unusable] = MappingProxyType({})


@dataclass(slots=True)
class _Lane:
    """One partition's buffered rows and what is known of its end."""

    partition: int
    next_offset: int
    blocks: deque[Block] = field(default_factory=deque)
    beside: dict[int, Unusable] = field(default_factory=dict)  # by offset, ascending
    rows: int = 0
    frozen: bool = False
    at_end: bool = False
    idle_since: float | None = None

    def append(self, block: Block) -> None:
        if len(block):
            self.blocks.append(block)
            self.rows += len(block)

    def first(self, limit: int) -> list[tuple[Block, int]]:
        """The blocks that hold the first rows, at most so many rows, and how many of each."""
        pieces: list[tuple[Block, int]] = []
        for block in self.blocks:
            pieces.append((block, min(limit, len(block))))
            limit -= len(block)
            if limit <= 0:
                break
        return pieces

    def take(self, count: int) -> list[Block]:
        """Removes the first ``count`` rows, at least one."""
        pieces: list[Block] = []
        for block, rows in self.first(count):
            self.blocks.popleft()
            pieces.append(block if rows == len(block) else block[:rows])
            if rows < len(block):
                self.blocks.appendleft(block[rows:])
        self.rows -= count
        self.next_offset = int(pieces[-1].offset[-1]) + 1
        return pieces

    def take_beside(self) -> Iterable[tuple[Place, Unusable]]:
        """Removes what lies beside the rows taken."""
        while self.beside and (offset := next(iter(self.beside))) < self.next_offset:
            yield (self.partition, offset), self.beside.pop(offset)


class ColumnMerge:
    """K-way merge by the partitions' heads, by merge key (timestamp, dataset, sequence, partition, offset).

    The smallest head is released when every other partition has a head, is frozen or idle, or when (``dense``) it is the next sequence
    of the only dataset seen. While recorded boundaries are given as ``ceilings``, only rows below them are released, partitions that have
    reached theirs are not waited for, and idleness counts for nothing.

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
        self._datasets = {memory.dataset for memory in known}
        self._newest = max((memory.highest for memory in known), default=NONE)
        self._held_since: dict[int, float] = {}

    @property
    def partitions(self) -> Sequence[int]:
        """All partitions, in order."""
        return tuple(self._lanes)

    @property
    def next_offsets(self) -> Mapping[int, int]:
        """Partition -> offset after the last row released."""
        return {partition: lane.next_offset for partition, lane in self._lanes.items()}

    @property
    def buffered(self) -> Mapping[int, int]:
        """Partition -> rows held."""
        return {partition: lane.rows for partition, lane in self._lanes.items()}

    @property
    def exhausted(self) -> bool:
        """Every partition is frozen and nothing is held."""
        return all(lane.frozen and not lane.rows for lane in self._lanes.values())

    @property
    def at_end(self) -> bool:
        """Every partition was last seen at its end and nothing is held."""
        return all(map(self.is_drained, self._lanes))

    def is_drained(self, partition: int) -> bool:
        """The partition was last seen at its end and nothing of it is held."""
        lane = self._lanes[partition]
        return (lane.frozen or lane.at_end) and not lane.rows

    def add_partition(self, partition: int, next_offset: int) -> None:
        """One more partition, from its `next_offset` on."""
        self._lanes[partition] = _Lane(partition, next_offset)
        self._lanes = dict(sorted(self._lanes.items()))

    def push(self, partition: int, block: Block, beside: Mapping[int, Unusable] = _NOTHING) -> None:
        """Appends rows read from the partition, ascending by offset: it is not at its end, as far as is known.

        Args:
            partition: the partition.
            block: the rows.
            beside: offset of a row -> the unusable records directly before it, ascending.
        """
        lane = self._lanes[partition]
        lane.at_end, lane.idle_since = False, None
        lane.append(block)
        lane.beside.update(beside)
        if self._dense:
            self._look_for_sequences(block)

    def push_remainder(self, partition: int, block: Block, beside: Mapping[int, Unusable]) -> None:
        """Appends a row of unusable records that no usable one followed; what is known of the end stays."""
        self._lanes[partition].append(block)
        self._lanes[partition].beside.update(beside)

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
        if lane.at_end and not lane.rows and lane.idle_since is None:
            lane.idle_since = now

    def wanted(self, ceilings: Mapping[int, int] | None = None) -> list[int]:
        """Partitions whose head is missing."""
        return [lane.partition for lane in self._lanes.values() if _lacks_head(lane, ceilings)]

    def release(self, limit: int, now: float, ceilings: Mapping[int, int] | None = None) -> Released:
        """Up to `limit` rows, as far as their order is known.

        Raises:
            OffsetError: a ceiling lies inside what cannot be divided: the topic is not the one it was recorded from.
        """
        lanes = [lane for lane in self._lanes.values() if lane.rows]
        if not lanes:
            self._held_since = {}
            return Released()
        pieces = [lane.first(limit + 1) for lane in lanes]  # with the head that stays
        flat = [piece for of_lane in pieces for piece in of_lane]
        names, codes = common_datasets([block for block, _ in flat])
        rank = _ranks(names, np.concatenate([code[:rows] for code, (_, rows) in zip(codes, flat, strict=True)]))
        time, sequence, offset = (
            np.concatenate([getattr(b, column)[:rows] for b, rows in flat]) for column in ("time", "sequence", "offset")
        )
        bounds = np.zeros(len(lanes) + 1, np.int64)
        np.cumsum([sum(rows for _, rows in of_lane) for of_lane in pieces], out=bounds[1:])
        order, taken, self._newest, waiting, divided = merge_by_heads(
            time,
            rank,
            sequence,
            offset + 1,
            bounds,
            np.array([NO_CEILING if ceilings is None else ceilings.get(lane.partition, 0) for lane in lanes], np.int64),
            np.array([_reached(lane, ceilings) for lane in lanes], np.bool_),
            np.array([lane.frozen for lane in lanes], np.bool_),
            any(self._is_awaited(lane, now, ceilings) for lane in self._lanes.values()),
            self._dense,
            self._newest,
            limit,
        )
        if divided >= 0:
            lane, row = lanes[divided], int(bounds[divided] + taken[divided])
            raise _divided(lane.partition, ceilings, int(offset[row - 1]) + 1 if taken[divided] else lane.next_offset, int(offset[row]) + 1)
        released = _taken(lanes, order, taken, bounds)
        self._note_held(now, ceilings, waits=waiting and any(lane.rows and not _reached(lane, ceilings) for lane in lanes))
        return released

    def held_back_by(self, now: float) -> Mapping[int, float]:
        """Partitions whose head was missing at the last release while others' heads waited for it -> since how many seconds."""
        return {partition: now - since for partition, since in self._held_since.items()}

    def _note_held(self, now: float, ceilings: Mapping[int, int] | None, *, waits: bool) -> None:
        missing = [lane for lane in self._lanes.values() if waits and self._is_awaited(lane, now, ceilings)]
        self._held_since = {lane.partition: self._held_since.get(lane.partition, now) for lane in missing}

    def _is_awaited(self, lane: _Lane, now: float, ceilings: Mapping[int, int] | None) -> bool:
        """Whether the lane's head is missing and must be waited for."""
        idle = ceilings is None and lane.idle_since is not None and now - lane.idle_since >= self._idle_timeout
        return _lacks_head(lane, ceilings) and not idle

    def _look_for_sequences(self, block: Block) -> None:
        """Ends the next-sequence rule at a record that can come from anywhere at any time: no sequence is surely next."""
        records = block.kind == RECORD
        sequenced = block.sequence >= 0
        if (records & ~(sequenced & (block.dataset >= 0))).any():
            self._dense = False
        elif len(block.datasets) == 1:
            self._datasets.update(block.datasets if records.any() else ())
        else:
            self._datasets.update(block.datasets[code] for code in np.unique(block.dataset[records]).tolist())
        self._dense = self._dense and len(self._datasets) <= 1


def _taken(lanes: Sequence[_Lane], order: Integers, taken: Integers, bounds: Integers) -> Released:
    """Takes the released rows out of their lanes: those at ``order`` of the lanes' first rows, ``taken`` of each lane."""
    if len(order) == 0:
        return Released()
    gone = [(lane, count) for lane, count in zip(lanes, taken.tolist(), strict=True) if count]
    block = concat([piece for lane, count in gone for piece in lane.take(count)])
    if len(gone) > 1:
        # What stays of a lane lies between the rows taken: each row moves up by what the lanes before it keep.
        stays = np.diff(bounds) - taken
        kept: Integers = np.cumsum(stays) - stays
        block = block.take(np.subtract(order, kept[np.searchsorted(bounds, order, side="right") - 1]))
    return Released(block, {place: unusable for lane, _ in gone if lane.beside for place, unusable in lane.take_beside()})


def _ranks(names: tuple[str, ...], code: Integers) -> Integers:
    """As `Block.rank`, of another table."""
    if names[:1] == ("",):
        return np.maximum(code, 0)
    return code


def _reached(lane: _Lane, ceilings: Mapping[int, int] | None) -> bool:
    return ceilings is not None and lane.next_offset >= ceilings.get(lane.partition, 0)


def _lacks_head(lane: _Lane, ceilings: Mapping[int, int] | None) -> bool:
    return not lane.rows and not lane.frozen and not _reached(lane, ceilings)


def _divided(partition: int, ceilings: Mapping[int, int] | None, stands: int, end: int) -> OffsetError:
    ceiling = (ceilings or {}).get(partition)
    return OffsetError(
        f"Partition {partition} has no record that ends at the recorded offset {ceiling}",
        why=f"after {stands} a mini-batch can next end at {end}: the topic is not as it was",
        remedy="start a new run: autoemb-pipeline train --new-run",
    )
