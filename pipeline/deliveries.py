"""Which records of a partition are re-deliveries. Pure: a function of what was trained of the partition, record by record.

A record is named by its dataset and its sequence in it, but neither proves that it was trained before: a producer may begin again at 0,
and one wrong sequence may lie beyond all others. Its time tells. What was trained of a dataset is kept as spans, each between two anchors
(sequence, time): the first and the last sequence, the earliest and the latest time of neighbouring trained records. A record is a
re-delivery exactly when a span encloses both its sequence and its time. A span begins as one record, so nothing is guessed; only where
there are more than `MAX_ANCHORS` do neighbouring spans become one. They grow and never shrink: whatever was trained lies in one, so a
dataset sent again is recognised to its last record, in whatever order its times are.

What it cannot tell: of two different records, one trained and one not, whose sequences and times lie inside one span of several records,
the second passes for a re-delivery. At the stream's end, where spans are short, this takes an equal time, or one next to it, and nearly
the same sequence: two producers that number one dataset name's records alike, at the same time, into one partition. And it forgets: of a
dataset that began anew more than `MAX_CHAINS` times the beginning with the fewest spans, of more than `MAX_DATASETS` datasets the one
trained longest ago. What is forgotten is trained again when it is sent again; forgetting never skips a record.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.columns import Block
from autoemb_pipeline.kernels.order import ascending_runs
from autoemb_pipeline.kernels.spans import extend_spans, thin_spans
from autoemb_pipeline.remembered import Chain, Remembered

MAX_ANCHORS = 1_024  # of one dataset in one partition; a span has two
MAX_CHAINS = 16
MAX_DATASETS = 64  # of one partition
_PARTITION_ANCHORS = 8 * MAX_ANCHORS  # where there are more than eight datasets they share so many

_THINNABLE = 3  # spans of which two can become one, the last being left alone

Integers = NDArray[np.int64]


class PartitionDeliveries:
    """What was trained of one partition.

    Args:
        remembered: what `snapshot` gave: it goes on as if it had never stopped.
    """

    def __init__(self, remembered: Iterable[Remembered] = ()) -> None:
        self._datasets = {memory.dataset: _Dataset(memory.chains) for memory in remembered}  # the one trained longest ago comes first
        self._newest = next(reversed(self._datasets), None)
        self._limit = self._spans_each()
        self.forgotten = 0

    def highest(self, dataset: str) -> int:
        """The highest sequence of the dataset, as far as is remembered; -1 for none."""
        known = self._datasets.get(dataset)
        return -1 if known is None else known.highest

    def admit(self, dataset: str, sequence: int, timestamp: int) -> bool:
        """Whether the record is new, and then remembers it. A re-delivery changes nothing.

        Amortised O(1) for a sequence above all others; O(log n) spans of each chain, else.
        """
        known = self._datasets.get(dataset)
        if known is None:
            known = self._begin(dataset)
        if not known.admit(sequence, timestamp):
            return False
        if known.size > self._limit:
            known.thin(self._limit)
        if dataset != self._newest:
            self._datasets[dataset] = self._datasets.pop(dataset)
            self._newest = dataset
        return True

    def admit_all(self, dataset: str, sequences: Integers, timestamps: Integers) -> None:
        """The same as `admit` of each of these records, faster where they ascend above all others."""
        if len(sequences) == 0:
            return
        if sequences[0] <= self.highest(dataset) or not (sequences[1:] > sequences[:-1]).all():
            for sequence, timestamp in zip(sequences.tolist(), timestamps.tolist(), strict=True):
                self.admit(dataset, sequence, timestamp)
            return
        self.admit(dataset, int(sequences[0]), int(timestamps[0]))  # the dataset may be new, or not the newest
        self._datasets[dataset].extend(sequences[1:], timestamps[1:], self._limit)

    def admit_rows(self, block: Block) -> NDArray[np.bool_] | None:
        """[n] whether each record is new, remembering the new ones in their order; None where all are.

        Records whose sequences ascend above their dataset's highest are handed over run by run, all others one by one.
        """
        highest = np.array([self.highest(name) for name in block.datasets], np.int64)
        starts, stops, above = ascending_runs(block.dataset, block.sequence, highest)
        new: NDArray[np.bool_] | None = None
        for start, stop, ascends in zip(starts.tolist(), stops.tolist(), above.tolist(), strict=True):
            name = block.datasets[block.dataset[start]]
            if ascends:
                self.admit_all(name, block.sequence[start:stop], block.time[start:stop])
            elif not self.admit(name, int(block.sequence[start]), int(block.time[start])):
                new = np.ones(len(block), np.bool_) if new is None else new
                new[start] = False
        return new

    def snapshot(self) -> tuple[Remembered, ...]:
        """All that it knows, as a value."""
        return tuple(Remembered(name, known.snapshot()) for name, known in self._datasets.items())

    def _begin(self, dataset: str) -> "_Dataset":
        if len(self._datasets) >= MAX_DATASETS:
            del self._datasets[next(iter(self._datasets))]
            self.forgotten += 1
        known = self._datasets[dataset] = _Dataset(())
        self._limit = self._spans_each()
        return known

    def _spans_each(self) -> int:
        return min(MAX_ANCHORS, _PARTITION_ANCHORS // max(1, len(self._datasets))) // 2


class _Spans:
    """A chain that grows: columns with room to spare, of which the first ``size`` entries are set."""

    __slots__ = ("first", "high", "last", "low", "size")

    def __init__(self, chain: Chain) -> None:
        self.size = len(chain.first)
        self.first, self.last, self.low, self.high = (np.array(column, np.int64) for column in chain)

    def __len__(self) -> int:
        return self.size

    @property
    def highest(self) -> int:
        """The last span's last sequence."""
        return int(self.last[self.size - 1])

    def holds(self, sequence: int, timestamp: int) -> bool:
        """Whether a span encloses the record."""
        place = bisect_right(self.first, sequence, 0, self.size) - 1
        return place >= 0 and bool(sequence <= self.last[place] and self.low[place] <= timestamp <= self.high[place])

    def append(self, sequence: int, timestamp: int) -> None:
        """A record behind all spans."""
        self._insert(self.size, sequence, timestamp)

    def extend(self, sequences: Integers, timestamps: Integers, limit: int) -> None:
        """Records behind all spans, ascending; at most ``limit`` spans stay."""
        self.reserve(limit + 1)
        self.size = extend_spans(self.first, self.last, self.low, self.high, self.size, sequences, timestamps, limit)

    def takes(self, sequence: int, timestamp: int) -> bool:
        """Adds a record that is in none of the spans, if it goes on from the last or fits, in time too, between two; whether it did."""
        if sequence > self.highest:
            self.append(sequence, timestamp)
            return True
        place = bisect_right(self.first, sequence, 0, self.size)
        if place > 0 and (sequence <= self.last[place - 1] or timestamp < self.high[place - 1]):
            return False
        if timestamp > self.low[place]:
            return False
        self._insert(place, sequence, timestamp)
        return True

    def thin(self) -> None:
        """Fewer spans: `autoemb_pipeline.kernels.spans.thin_spans`."""
        self.size = thin_spans(self.first, self.last, self.low, self.high, self.size)

    def snapshot(self) -> Chain:
        """The spans as a value."""
        return Chain(*(tuple(column[: self.size].tolist()) for column in (self.first, self.last, self.low, self.high)))

    def reserve(self, size: int) -> None:
        """Room for so many spans."""
        if size > len(self.first):
            room = np.zeros((4, max(size, 2 * len(self.first))), np.int64)
            for row, column in zip(room, (self.first, self.last, self.low, self.high), strict=True):
                row[: self.size] = column[: self.size]
            self.first, self.last, self.low, self.high = room

    def _insert(self, place: int, sequence: int, timestamp: int) -> None:
        self.reserve(self.size + 1)
        for column, value in ((self.first, sequence), (self.last, sequence), (self.low, timestamp), (self.high, timestamp)):
            column[place + 1 : self.size + 1] = column[place : self.size]
            column[place] = value
        self.size += 1


class _Dataset:
    """What was trained of one dataset: a chain, and one more for each time that the sequences began anew or one lay far beyond the rest."""

    __slots__ = ("_chains", "highest", "size")

    def __init__(self, chains: Sequence[Chain]) -> None:
        self._chains = [_Spans(chain) for chain in chains]
        self.size = sum(map(len, self._chains))
        self.highest = self._highest_of_all()

    def admit(self, sequence: int, timestamp: int) -> bool:
        """As `PartitionDeliveries.admit`."""
        chains = self._chains
        if sequence > self.highest and chains:
            chains[0].append(sequence, timestamp)
            self.highest = sequence
        elif any(chain.holds(sequence, timestamp) for chain in chains):
            return False
        elif not any(chain.takes(sequence, timestamp) for chain in chains):
            self._begin(sequence, timestamp)
        self.size += 1
        return True

    def extend(self, sequences: Integers, timestamps: Integers, limit: int) -> None:
        """Records that ascend above all that is remembered; at most ``limit`` spans stay."""
        if len(self._chains) == 1 and limit >= _THINNABLE:
            self._chains[0].extend(sequences, timestamps, limit)
            self.size = len(self._chains[0])
            self.highest = max(self.highest, int(sequences[-1]) if len(sequences) else -1)
            return
        for sequence, timestamp in zip(sequences.tolist(), timestamps.tolist(), strict=True):
            self.admit(sequence, timestamp)
            self.thin(limit)

    def thin(self, limit: int) -> None:
        """Down to so many spans."""
        while self.size > limit:
            longest = max(self._chains, key=len)
            if len(longest) < _THINNABLE:
                self._forget_one()
            else:
                before = len(longest)
                longest.thin()
                self.size -= before - len(longest)

    def snapshot(self) -> tuple[Chain, ...]:
        """Its chains as values."""
        return tuple(chain.snapshot() for chain in self._chains)

    def _begin(self, sequence: int, timestamp: int) -> None:
        if len(self._chains) >= MAX_CHAINS:
            self._forget_one()
        self._chains.append(_Spans(Chain((sequence,), (sequence,), (timestamp,), (timestamp,))))
        self.highest = self._highest_of_all()

    def _forget_one(self) -> None:
        """The chain with the fewest spans, the oldest of those."""
        least = min(self._chains, key=len)
        self._chains.remove(least)
        self.size -= len(least)
        self.highest = self._highest_of_all()

    def _highest_of_all(self) -> int:
        return max((chain.highest for chain in self._chains), default=-1)
