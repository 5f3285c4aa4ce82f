"""A source: fetch raw records of partitions, decode, merge by event time. What Kafka and the in-memory log have in common."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Generic, Protocol, Self, TypeVar

import structlog

from pipeline.deliveries import MAX_DATASETS
from pipeline.errors import OffsetError
from pipeline.records import Interaction, RunPosition
from pipeline.source.config import SourceConfig
from pipeline.source.merge import EventTimeMerge
from pipeline.source.reader import Fetched, Item, PartitionReader

V = TypeVar("V")

_log = structlog.get_logger()
_LONGEST_WAIT = 0.05  # seconds; how late an idle timeout may be noticed


class Fetcher(Protocol[V]):
    """Brings raw records of partitions, in offset order, each at most once."""

    def fetch(self, wanted: Collection[int], timeout: float) -> Sequence[Fetched[V]]:
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


class MergedSource(Generic[V]):
    """Items of all partitions in merged order.

    Args:
        config: the topic and how to wait.
        fetcher: brings the raw records; must start at `start_offsets`.
        decoder: value to interaction; raises DecodeError for a value that is none.
        start_offsets: partition -> offset of the first record to read.
        position: where the run stands (deliveries, refused records).
        clock: seconds, monotonic.
        wall_clock: seconds since the epoch, for `config.max_ahead`.
    """

    def __init__(
        self,
        config: SourceConfig,
        *,
        fetcher: Fetcher[V],
        decoder: Callable[[V], Interaction],
        start_offsets: Mapping[int, int],
        position: RunPosition,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.start_offsets = dict(start_offsets)
        self._config = config
        self._fetcher = fetcher
        self._decoder = decoder
        self._clock = clock
        self._wall_clock = wall_clock
        self._position = position
        self._merge = EventTimeMerge(start_offsets, position=position, idle_timeout=config.idle_timeout, dense=not config.until_end)
        self._readers = {partition: self._reader(partition, offset) for partition, offset in start_offsets.items()}
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
        """Items decoded and not yet handed out."""
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
        """Records between what was handed out and the partitions' ends as last heard of. Costs no request.

        Transaction markers and aborted records count as records until a partition's end was seen.
        """
        behind = ((self._fetcher.high(p), at) for p, at in self._merge.next_offsets.items() if not self._merge.is_drained(p))
        return sum(max(0, high - at) for high, at in behind if high is not None)

    def replay_to(self, recorded: Mapping[int, Mapping[int, int]]) -> None:
        """Tells the boundaries (step -> partition -> next offset) that will be given as ceilings. Call it before the first poll."""
        for partition, reader in self._readers.items():
            reader.cut_at(offsets[partition] for offsets in recorded.values() if partition in offsets)
        ends: dict[int, int] = {}
        for offsets in recorded.values():
            for partition, offset in offsets.items():
                ends[partition] = max(offset, ends.get(partition, 0))
        self._recorded_ends = ends

    def poll(self, timeout: float) -> Item | None:
        """The next item; None when none could be released within `timeout` seconds."""
        items = self.poll_many(1, timeout)
        return items[0] if items else None

    def poll_many(self, limit: int, timeout: float, ceilings: Mapping[int, int] | None = None) -> Sequence[Item]:
        """The next items, in merged order.

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
            wanted = self._merge.wanted(ceilings)
            if wanted:
                self._fetch(wanted, wait)
            items = self._merge.release(limit, self._clock(), ceilings)
            left = deadline - self._clock()
            if items or left <= 0 or self.exhausted:
                return items
            wait = min(left, _LONGEST_WAIT)

    def close(self) -> None:
        """Gives up all connections. Buffered items are forgotten."""
        self._fetcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reader(self, partition: int, offset: int) -> PartitionReader[V]:
        return PartitionReader(
            topic=self._config.topic,
            partition=partition,
            next_offset=offset,
            decoder=self._decoder,
            deliveries=self._position.deliveries.get(partition, ()),
            refused=self._position.refused.get(partition, frozenset()),
            latest=self._latest_time,
        )

    def _latest_time(self) -> float:
        """The latest event time (ms) that is not refused now. What has an end is read as it is: nothing else waits for it."""
        ahead = self._config.max_ahead
        return math.inf if ahead is None or self._config.until_end else 1000 * (self._wall_clock() + ahead)

    def _add_partition(self, partition: int, offset: int) -> None:
        self._readers[partition] = self._reader(partition, offset)
        self._merge.add_partition(partition, offset)
        self._fetcher.add(partition, offset)

    def _fetch(self, wanted: Sequence[int], wait: float) -> None:
        self._fetcher.regulate(self._merge.buffered)
        pieces = self._fetcher.fetch(wanted, wait)
        for piece in pieces:
            if not self._merge.is_frozen(piece.partition):
                self._take(piece)
        now = self._clock()
        for partition in set(wanted).difference(piece.partition for piece in pieces):
            if self._merge.starve(partition, now):
                self._hand_on_pending(partition)
        for partition, (since, end) in self._short_since.items():
            if partition in wanted and now - since >= self._config.truncation_grace:
                raise OffsetError(
                    f"Partition {partition} of {self._config.topic!r} ends at offset {end}, before {self._recorded_ends[partition]}",
                    why="this run has read beyond that end already: the topic was truncated",
                    remedy="start a new run: autoemb-pipeline train --new-run",
                )

    def _take(self, piece: Fetched[V]) -> None:
        partition = piece.partition
        if piece.records:
            self._short_since.pop(partition, None)
            self._merge.push(partition, self._readers[partition].read(piece.records))
            self._say_what_is_forgotten(partition)
        if piece.end is None:
            return
        if piece.end < self._recorded_ends.get(partition, 0):
            self._short_since.setdefault(partition, (self._clock(), piece.end))
        elif self._config.until_end:
            self._hand_on_pending(partition, trailing=True)
            self._merge.freeze(partition)
            self._fetcher.finish(partition)
        else:
            self._merge.mark_end(partition)

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
            self._merge.push_remainder(partition, remainder)
