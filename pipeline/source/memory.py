"""The same source over lists in memory: for tests, and for runs that need no broker."""

import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from autoemb_pipeline.columns import EMPTY, NO_VALUE, Block, Decoded, Refused
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.records import Interaction, RunPosition
from autoemb_pipeline.source.config import SourceConfig
from autoemb_pipeline.source.merged import MergedSource
from autoemb_pipeline.source.reader import Chunk, Fetched

MemoryValue = Interaction | bytes
Values = Block | list[MemoryValue | None]  # of consecutive records
_CHUNK = 500


class ReadableLog(Protocol):
    """Partitions of records by offset, as a `MemorySource` reads them."""

    @property
    def partitions(self) -> int:
        """How many there are."""
        ...

    def end(self, partition: int) -> int:
        """Offset after the last record."""
        ...

    def read(self, partition: int, offset: int, limit: int) -> Values:
        """Up to `limit` records from `offset` on."""
        ...


class MemoryLog:
    """Append-only partitions in memory. A value that is bytes stands for an undecodable record, None for a tombstone."""

    def __init__(self, partitions: int = 1) -> None:
        if partitions < 1:
            raise ConfigurationError(f"{partitions} partitions", why="a log has at least one")
        self._partitions: list[list[MemoryValue | None]] = [[] for _ in range(partitions)]

    @classmethod
    def of(cls, interactions: Sequence[Interaction], partitions: int = 1) -> "MemoryLog":
        """The interactions in their order, each in the partition of its user."""
        log = cls(partitions)
        for interaction in interactions:
            log.append(zlib.crc32(interaction.user_id.encode()) % partitions, interaction)
        return log

    @property
    def partitions(self) -> int:
        """How many there are."""
        return len(self._partitions)

    def append(self, partition: int, value: MemoryValue | None) -> int:
        """Returns the new record's offset."""
        self._partitions[partition].append(value)
        return len(self._partitions[partition]) - 1

    def add_partition(self) -> int:
        """Returns the new partition's number."""
        self._partitions.append([])
        return len(self._partitions) - 1

    def end(self, partition: int) -> int:
        """Offset after the last record."""
        return len(self._partitions[partition])

    def read(self, partition: int, offset: int, limit: int) -> Values:
        """See `ReadableLog`."""
        return self._partitions[partition][offset : offset + limit]


class IterableLog:
    """One partition over an iterable that is never held in memory: a dataset read in order, more than once if need be.

    Its end is known only when the iterable is exhausted; until then it lies beyond every offset.

    Args:
        begin: opens the iterable at its first interaction; it gives blocks, or interactions one by one.
    """

    partitions = 1

    def __init__(self, begin: Callable[[], Iterable[Block | Interaction]]) -> None:
        self._begin = begin
        self._iterator: Iterator[Block] | None = None
        self._block = EMPTY
        self._position = 0
        self._end = sys.maxsize

    def end(self, partition: int) -> int:  # noqa: ARG002  # there is one
        """See `ReadableLog`."""
        return self._end

    def read(self, partition: int, offset: int, limit: int) -> Block:  # noqa: ARG002  # there is one
        """See `ReadableLog`. Reading on is free; another offset begins anew."""
        if self._iterator is None or offset != self._position:
            self._iterator, self._block, self._position = _blocks(self._begin()), EMPTY, 0
            while self._position < offset and (passed := len(self._next(offset - self._position))):
                self._position += passed
        block = self._next(limit)
        self._position = offset + len(block)
        return block

    def _next(self, limit: int) -> Block:
        """Up to so many interactions; none at the end, and where none are asked for."""
        while len(self._block) == 0 and self._iterator is not None and limit:
            block = next(self._iterator, None)
            if block is None:
                self._end = self._position
                return EMPTY
            self._block = block
        block, self._block = self._block[:limit], self._block[limit:]
        return block


def _blocks(stream: Iterable[Block | Interaction]) -> Iterator[Block]:
    """The stream in blocks."""
    rows = iter(stream)
    single: list[Interaction] = []
    for row in rows:
        if isinstance(row, Block):
            yield row
            continue
        single.append(row)
        if len(single) == _CHUNK:
            yield Block.of(single)
            single = []
    if single:
        yield Block.of(single)


class MemoryFetcher:
    """Fetches from a log, `chunk()` records of each wanted partition at a time; 0 for a fetch that is still under way."""

    def __init__(self, log: ReadableLog, start_offsets: Mapping[int, int], chunk: Callable[[], int] = lambda: _CHUNK) -> None:
        self._log = log
        self._offsets = dict(start_offsets)
        self._chunk = chunk
        self._ends_told: dict[int, int] = {}

    def fetch(self, needed: Collection[int], timeout: float) -> Sequence[Fetched]:
        """See Fetcher."""
        pieces = [piece for partition in needed if (piece := self._next(partition)) is not None]
        if not pieces and timeout > 0:
            time.sleep(timeout)
        return pieces

    def regulate(self, buffered: Mapping[int, int]) -> None:
        """Nothing to pause: only what is wanted is fetched."""

    def add(self, partition: int, offset: int) -> None:
        """See Fetcher."""
        self._offsets[partition] = offset

    def finish(self, partition: int) -> None:
        """Nothing to close."""

    def high(self, partition: int) -> int | None:
        """See Fetcher."""
        return self._log.end(partition)

    @property
    def paused(self) -> int:
        """See Fetcher."""
        return 0

    def close(self) -> None:
        """Nothing to close."""

    def _next(self, partition: int) -> Fetched | None:
        offset = self._offsets[partition]
        values = self._log.read(partition, offset, self._chunk())
        reached = offset + len(values)
        chunk = Chunk(np.arange(offset, reached), values) if len(values) else None
        self._offsets[partition] = reached
        end = self._log.end(partition)
        if reached == end and self._ends_told.get(partition) != end:  # as librdkafka, which tells an end once
            self._ends_told[partition] = end
            return Fetched(partition, chunk, end)
        return None if chunk is None else Fetched(partition, chunk)


class MemorySource(MergedSource):
    """Reads a log like a topic.

    Args:
        log: what to read, or interactions to spread over `partitions`.
        position: where the run stands.
        partitions: of a log made here.
        config: as for Kafka; by default the log's end is the stream's.
        chunk: see MemoryFetcher.
        clock: seconds, monotonic.
        wall_clock: seconds since the epoch.
    """

    def __init__(
        self,
        log: ReadableLog | Sequence[Interaction],
        position: RunPosition | None = None,
        *,
        partitions: int = 1,
        config: SourceConfig | None = None,
        chunk: Callable[[], int] = lambda: _CHUNK,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._log: ReadableLog = MemoryLog.of(log, partitions) if isinstance(log, Sequence) else log
        position = position or RunPosition()
        start_offsets = {p: position.next_offsets.get(p, 0) for p in range(self._log.partitions)}
        super().__init__(
            config or SourceConfig(topic="memory", run_id="memory", until_end=True),
            fetcher=MemoryFetcher(self._log, start_offsets, chunk),
            decode=decode_values,
            start_offsets=start_offsets,
            position=position,
            clock=clock,
            wall_clock=wall_clock,
        )

    def add_partitions(self) -> Mapping[int, int]:
        """Takes up partitions added to the log since, unless it is read until its end; returns their start offsets."""
        if self._config.until_end:
            return {}
        added = {p: 0 for p in range(self._log.partitions) if p not in self.start_offsets}
        self._add_partitions(added)
        return added

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Nobody watches a log in memory."""


def decode_values(values: Values, times: object = None) -> Decoded:  # noqa: ARG001  # records here have no time but their own
    """What is an interaction, in columns; bytes and tombstones are refused."""
    if isinstance(values, Block):
        return Decoded(values)
    places = [place for place, value in enumerate(values) if isinstance(value, Interaction)]
    block = Block.of([values[place] for place in places])  # type: ignore[misc]  # only interactions
    if len(block) == len(values):
        return Decoded(block)
    refused = [
        Refused(place, "no-value", NO_VALUE) if value is None else Refused(place, "bad-magic", f"{value[:16]!r} is no interaction")
        for place, value in enumerate(values)
        if not isinstance(value, Interaction)
    ]
    return Decoded(block, np.array(places, np.int64), refused)
