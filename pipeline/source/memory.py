"""The same source over lists in memory: for tests, and for runs that need no broker."""

import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence

from pipeline.errors import ConfigurationError, DecodeError
from pipeline.records import Interaction, RunPosition
from pipeline.source.config import SourceConfig
from pipeline.source.merged import MergedSource
from pipeline.source.reader import Fetched

MemoryValue = Interaction | bytes
_CHUNK = 500


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

    def read(self, partition: int, offset: int, limit: int) -> list[tuple[int, bytes | None, MemoryValue | None]]:
        """Up to `limit` records from `offset` on."""
        values = self._partitions[partition][offset : offset + limit]
        return [(offset + i, None, value) for i, value in enumerate(values)]


class MemoryFetcher:
    """Fetches from a MemoryLog, `chunk()` records of each wanted partition at a time; 0 for a fetch that is still under way."""

    def __init__(self, log: MemoryLog, start_offsets: Mapping[int, int], chunk: Callable[[], int] = lambda: _CHUNK) -> None:
        self._log = log
        self._offsets = dict(start_offsets)
        self._chunk = chunk
        self._ends_told: dict[int, int] = {}

    def fetch(self, wanted: Collection[int], timeout: float) -> Sequence[Fetched[MemoryValue]]:
        """See Fetcher."""
        pieces = [piece for partition in wanted if (piece := self._next(partition)) is not None]
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

    def _next(self, partition: int) -> Fetched[MemoryValue] | None:
        offset = self._offsets[partition]
        records = self._log.read(partition, offset, self._chunk())
        reached = offset + len(records)
        self._offsets[partition] = reached
        end = self._log.end(partition)
        if reached == end and self._ends_told.get(partition) != end:  # as librdkafka, which tells an end once
            self._ends_told[partition] = end
            return Fetched(partition, records, end)
        return Fetched(partition, records) if records else None


class MemorySource(MergedSource[MemoryValue]):
    """Reads a MemoryLog like a topic.

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
        log: MemoryLog | Sequence[Interaction],
        position: RunPosition | None = None,
        *,
        partitions: int = 1,
        config: SourceConfig | None = None,
        chunk: Callable[[], int] = lambda: _CHUNK,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log if isinstance(log, MemoryLog) else MemoryLog.of(log, partitions)
        position = position or RunPosition()
        start_offsets = {p: position.next_offsets.get(p, 0) for p in range(self._log.partitions)}
        super().__init__(
            config or SourceConfig(topic="memory", run_id="memory", until_end=True),
            fetcher=MemoryFetcher(self._log, start_offsets, chunk),
            decoder=as_interaction,
            start_offsets=start_offsets,
            position=position,
            clock=clock,
            wall_clock=wall_clock,
        )

    def add_partitions(self) -> Mapping[int, int]:
        """Takes up partitions added to the log since; returns their start offsets."""
        added = {p: 0 for p in range(self._log.partitions) if p not in self.start_offsets}
        for partition, offset in added.items():
            self._add_partition(partition, offset)
        self.start_offsets.update(added)
        return added

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Nobody watches a log in memory."""


def as_interaction(value: MemoryValue) -> Interaction:
    """The value itself; raises DecodeError for bytes."""
    if isinstance(value, bytes):
        raise DecodeError("bad-magic", f"{value[:16]!r} is no interaction")
    return value
