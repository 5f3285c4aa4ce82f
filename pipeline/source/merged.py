"""A source: fetch raw records of partitions, decode, merge by event time. What Kafka and the in-memory log have in common."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, Self

import structlog

from autoemb_pipeline.columns import Decoded, Released
from autoemb_pipeline.deliveries import MAX_DATASETS
from autoemb_pipeline.errors import OffsetError
from autoemb_pipeline.records import RunPosition
from autoemb_pipeline.source.config import SourceConfig
from autoemb_pipeline.source.ends import PartitionEnds
from autoemb_pipeline.source.merge import ColumnMerge
from autoemb_pipeline.source.reader import ColumnReader, Fetched

_log = structlog.get_logger()
_LONGEST_WAIT = 0.05  # seconds; how late an idle timeout may be noticed


class Fetcher(Protocol):
    """Brings raw records of partitions, in offset order, each at most once."""

    def fetch(self, needed: Collection[int], timeout: float) -> Sequence[Fetched]:
        """Records of at least the wanted partitions, as soon as there are any; empty after `timeout` seconds without."""
        ...

    def regulate(self, buffered: Mapping[int, int]) -> None:
        """Told before each fetch how many records are held per partition. May pause some; one with none held must not stay paused."""
        ...

    def add(self, partition: int, offset: int) -> None:
        """Fetches one more partition, from `offset` on."""
        ...

    def finish(self, partition: int) -> None:
        """The partition will not be read any more."""
        ...

    def high(self, partition: int) -> int | None:
        """The partition's end as last heard of; None when unknown. Cheap: no request."""
        ...

    @property
    def paused(self) -> int:
        """Partitions paused now."""
        ...

    def close(self) -> None:
        """Gives up all connections."""
        ...


class MergedSource:
    """Rows of all partitions in merged order.

    Args:
        config: the topic and how to wait.
        fetcher: brings the raw records; must start at `start_offsets`.
        decode: the values of a chunk to columns: `ChunkDecoder.decode`.
        start_offsets: partition -> offset of the first record to read.
        position: where the run stands (deliveries, refused records).
        clock: seconds, monotonic.
        wall_clock: seconds since the epoch, for `config.max_ahead`.
    """

    def __init__(
        self,
        config: SourceConfig,
        *,
        fetcher: Fetcher,
        decode: Callable[..., Decoded],
        start_offsets: Mapping[int, int],
        position: RunPosition,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.start_offsets = dict(start_offsets)
        self._config = config
        self._fetcher = fetcher
        self._decode = decode
        self._clock = clock
        self._wall_clock = wall_clock
        self._position = position
        self._merge = ColumnMerge(start_offsets, position=position, idle_timeout=config.idle_timeout, dense=not config.until_end)
        self._readers = {partition: self._reader(partition, offset) for partition, offset in start_offsets.items()}
        self._ends = PartitionEnds(config.names, patience=config.transaction_patience)
        self._recorded: Mapping[int, Mapping[int, int]] = {}
        self._recorded_ends: Mapping[int, int] = {}
        self._short_since: dict[int, tuple[float, int]] = {}
        self._forgetting: set[int] = set()

    @property
    def exhausted(self) -> bool:
        """With `until_end`: every partition has ended and everything in it was handed out."""
        return self._merge.exhausted

    @property
    def at_end(self) -> bool:
        """All that the topic is known to hold was handed out; more may come."""
        return self._merge.at_end

    @property
    def buffered(self) -> int:
        """Rows decoded and not yet handed out."""
        return sum(self._merge.buffered.values())

    @property
    def paused(self) -> int:
        """Partitions whose fetching is paused, because enough of them is held."""
        return self._fetcher.paused

    @property
    def held_back_by(self) -> Mapping[int, float]:
        """Partitions whose next record others wait for, and how many seconds already; empty when none waits."""
        return self._merge.held_back_by(self._clock())

    def lag(self) -> int:
        """Records between what was handed out and the partitions' high watermarks as last heard of. Costs no request.

        Records behind an open transaction count. Transaction markers and aborted records count until a partition's end was seen.
        """
        lag = 0
        for partition, reached in self._merge.next_offsets.items():
            high = self._fetcher.high(partition)
            if self._merge.is_drained(partition):
                lag += 0 if self._merge.is_frozen(partition) else self._ends.behind(partition, high)
            elif high is not None:
                lag += max(0, high - reached)
        return lag

    def unread(self) -> tuple[str, ...]:
        """What the topic holds and this source cannot hand out now, and why: sentences for people."""
        return tuple(
            f"{count:,} records of partition {partition} were not read: they stand behind an open transaction"
            for partition, count in self._ends.hidden(self._clock()).items()
        )

    def replay_to(self, recorded: Mapping[int, Mapping[int, int]]) -> None:
        """Tells the boundaries (step -> partition -> next offset) that will be given as ceilings. Call it before the first poll."""
        self._recorded = recorded
        for partition, reader in self._readers.items():
            reader.cut_at(_boundaries(recorded, partition))
        ends: dict[int, int] = {}
        for offsets in recorded.values():
            for partition, offset in offsets.items():
                ends[partition] = max(offset, ends.get(partition, 0))
        self._recorded_ends = ends

    def poll_many(self, limit: int, timeout: float, ceilings: Mapping[int, int] | None = None) -> Released:
        """The next rows, in merged order.

        Args:
            limit: at most so many.
            timeout: seconds until none is an answer.
            ceilings: recorded boundary (partition -> next offset) not to be passed; the clock then decides nothing.

        Raises:
            OffsetError: a position the run needs is not in the topic, or the topic is another one.
            TopicError, BrokerError: the topic is gone, or the broker refuses. Outages are waited for.
        """
        deadline = self._clock() + timeout
        wait = 0.0
        while True:
            needed = self._merge.wanted(ceilings)
            if needed:
                self._fetch(needed, wait)
            released = self._merge.release(limit, self._clock(), ceilings)
            left = deadline - self._clock()
            if len(released.block) or left <= 0 or self.exhausted:
                return released
            wait = min(left, _LONGEST_WAIT)

    def close(self) -> None:
        """Gives up all connections. Buffered rows are forgotten."""
        self._fetcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reader(self, partition: int, offset: int) -> ColumnReader:
        return ColumnReader(
            topic=self._config.topic_of(partition),
            partition=partition,
            next_offset=offset,
            decode=self._decode,
            deliveries=self._position.deliveries.get(partition, ()),
            refused=self._position.refused.get(partition, frozenset()),
            latest=self._latest_time,
        )

    def _latest_time(self) -> float:
        """The latest event time (ms) that is not refused now. What has an end is read as it is: nothing else waits for it."""
        ahead = self._config.max_ahead
        return math.inf if ahead is None or self._config.until_end else 1000 * (self._wall_clock() + ahead)

    def _add_partitions(self, offsets: Mapping[int, int]) -> None:
        """More partitions, from these offsets on. The merge waits for their heads from now on, as for all others."""
        for partition, offset in offsets.items():
            self._readers[partition] = self._reader(partition, offset)
            self._readers[partition].cut_at(_boundaries(self._recorded, partition))
            self._merge.add_partition(partition, offset)
            self._fetcher.add(partition, offset)
        self.start_offsets.update(offsets)

    def _fetch(self, needed: Sequence[int], wait: float) -> None:
        self._fetcher.regulate(self._merge.buffered)
        pieces = self._fetcher.fetch(needed, wait)
        for piece in pieces:
            if not self._merge.is_frozen(piece.partition):
                self._take(piece)
        now = self._clock()
        for partition in set(needed).difference(piece.partition for piece in pieces):
            self._ends.look(partition, self._fetcher.high(partition), now)
            self._merge.starve(partition, now)
        if self._config.until_end:
            self._ends.check(now)
        for partition, (since, end) in self._short_since.items():
            if partition in needed and now - since >= self._config.truncation_grace:
                raise OffsetError(
                    f"{self._config.named(partition)} ends at offset {end}, before {self._recorded_ends[partition]}",
                    why="this run has read beyond that end already: the topic was truncated",
                    remedy="start a new run: autoemb-pipeline train --new-run",
                )

    def _take(self, piece: Fetched) -> None:
        partition = piece.partition
        if piece.chunk is not None:
            self._short_since.pop(partition, None)
            self._ends.moved(partition)
            self._merge.push(partition, *self._readers[partition].read(piece.chunk))
            self._say_what_is_forgotten(partition)
        if piece.end is None:
            return
        is_last = self._ends.told(partition, piece.end, self._fetcher.high(partition), self._clock())
        if piece.end < self._recorded_ends.get(partition, 0):
            self._short_since.setdefault(partition, (self._clock(), piece.end))
        elif not self._config.until_end:
            self._hand_on_pending(partition)  # the usable record that would carry them may never come
            self._merge.mark_end(partition)
        elif is_last:
            self._hand_on_pending(partition, trailing=True)
            self._merge.freeze(partition)
            self._fetcher.finish(partition)
            self._ends.moved(partition)  # what comes behind it is none of this run's

    def _say_what_is_forgotten(self, partition: int) -> None:
        forgotten = self._readers[partition].forgotten
        if forgotten and partition not in self._forgetting:
            self._forgetting.add(partition)
            _log.warning(
                "more datasets than re-deliveries are recognised of; the one trained longest ago is forgotten",
                partition=partition,
                datasets=MAX_DATASETS,
                hint="what is sent again of it is trained again; a dataset's name is a stream's, not a session's",
            )

    def _hand_on_pending(self, partition: int, *, trailing: bool = False) -> None:
        remainder = self._readers[partition].flush(trailing=trailing)
        if remainder is not None:
            self._merge.push_remainder(partition, *remainder)


def _boundaries(recorded: Mapping[int, Mapping[int, int]], partition: int) -> list[int]:
    """The partition's offsets where recorded mini-batches ended."""
    return [offsets[partition] for offsets in recorded.values() if partition in offsets]
