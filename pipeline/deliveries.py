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
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_ANCHORS = 1_024  # of one dataset in one partition; a span has two
MAX_CHAINS = 16
MAX_DATASETS = 64  # of one partition
_PARTITION_ANCHORS = 8 * MAX_ANCHORS  # where there are more than eight datasets they share so many

_THINNABLE = 3  # spans of which two can become one, the last being left alone

Column = tuple[int, ...]


class Chain(NamedTuple):
    """Spans in the order of their sequences, which do not overlap. Columns: first and last sequence, earliest and latest time (ms)."""

    first: Column
    last: Column
    low: Column
    high: Column


class Remembered(NamedTuple):
    """What is known of one dataset in one partition."""

    dataset: str
    chains: tuple[Chain, ...]

    @property
    def highest(self) -> int:
        """The highest sequence trained, as far as is remembered."""
        return max(chain.last[-1] for chain in self.chains)

    @classmethod
    def up_to(cls, dataset: str, sequence: int, timestamp: int) -> "Remembered":
        """All of the dataset up to a sequence and a time (ms) was trained."""
        return cls(dataset, (Chain((0,), (sequence,), (0,), (timestamp,)),))


class PartitionDeliveries:
    """What was trained of one partition.

    Args:
        remembered: what `snapshot` gave: it goes on as if it had never stopped.
    """

    def __init__(self, remembered: Iterable[Remembered] = ()) -> None:
        self._datasets = {of.dataset: _Dataset(of.chains) for of in remembered}  # the one trained longest ago comes first
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

    def admit_all(self, dataset: str, sequences: Sequence[int], timestamps: Sequence[int]) -> None:
        """The same as `admit` of each of these records, faster where they ascend above all others."""
        known = self._datasets.get(dataset)
        ascending = known is not None and known.is_below(sequences)
        if known is None or dataset != self._newest or not ascending:
            for sequence, timestamp in zip(sequences, timestamps, strict=True):
                self.admit(dataset, sequence, timestamp)
            return
        start = 0
        while start < len(sequences):
            end = start + self._limit + 1 - known.size
            known.extend(sequences[start:end], timestamps[start:end])
            if known.size > self._limit:
                known.thin(self._limit)
            start = end

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
    """A chain that grows."""

    __slots__ = ("first", "high", "last", "low")

    def __init__(self, chain: Chain) -> None:
        self.first, self.last, self.low, self.high = map(list, chain)

    def __len__(self) -> int:
        return len(self.first)

    def holds(self, sequence: int, timestamp: int) -> bool:
        """Whether a span encloses the record."""
        at = bisect_right(self.first, sequence) - 1
        return at >= 0 and sequence <= self.last[at] and self.low[at] <= timestamp <= self.high[at]

    def append(self, sequence: int, timestamp: int) -> None:
        """A record behind all spans."""
        self.first.append(sequence)
        self.last.append(sequence)
        self.low.append(timestamp)
        self.high.append(timestamp)

    def extend(self, sequences: Sequence[int], timestamps: Sequence[int]) -> None:
        """Records behind all spans, ascending."""
        self.first.extend(sequences)
        self.last.extend(sequences)
        self.low.extend(timestamps)
        self.high.extend(timestamps)

    def takes(self, sequence: int, timestamp: int) -> bool:
        """Adds a record that is in none of the spans, if it goes on from the last or fits, in time too, between two; whether it did."""
        if sequence > self.last[-1]:
            self.append(sequence, timestamp)
            return True
        at = bisect_right(self.first, sequence)
        if at > 0 and (sequence <= self.last[at - 1] or timestamp < self.high[at - 1]):
            return False
        if timestamp > self.low[at]:
            return False
        for column, value in ((self.first, sequence), (self.last, sequence), (self.low, timestamp), (self.high, timestamp)):
            column.insert(at, value)
        return True

    def thin(self) -> None:
        """Makes one of each two neighbours, but for the quarter of the pairs that would enclose most, and for the last span.

        So a stray sequence far from all others is not joined to them, and where the stream goes on nothing is guessed.
        """
        first, last, low, high = (np.array(c, dtype=np.int64) for c in (self.first, self.last, self.low, self.high))
        pairs = (len(self) - 1) // 2
        left, right = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
        bottom, top = np.minimum(low[left], low[right]), np.maximum(high[left], high[right])
        enclosed = ((last[right] - first[left]).astype(np.float64) + 1) * ((top - bottom).astype(np.float64) + 1)
        joined = np.argsort(enclosed, kind="stable")[: max(1, 3 * pairs // 4)]
        at = 2 * joined
        last[at], low[at], high[at] = last[at + 1], bottom[joined], top[joined]
        self.first, self.last, self.low, self.high = (_without(column, at + 1) for column in (first, last, low, high))


def _without(column: NDArray[np.int64], places: NDArray[np.int64]) -> list[int]:
    kept: list[int] = np.delete(column, places).tolist()
    return kept


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

    def is_below(self, sequences: Sequence[int]) -> bool:
        """Whether these ascend, and lie above all that is remembered."""
        return bool(self._chains) and sequences[0] > self.highest and all(a < b for a, b in pairwise(sequences))

    def extend(self, sequences: Sequence[int], timestamps: Sequence[int]) -> None:
        """Records of which `is_below` is true."""
        self._chains[0].extend(sequences, timestamps)
        self.highest = sequences[-1]
        self.size += len(sequences)

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
        return tuple(Chain(tuple(c.first), tuple(c.last), tuple(c.low), tuple(c.high)) for c in self._chains)

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
        return max((chain.last[-1] for chain in self._chains), default=-1)
