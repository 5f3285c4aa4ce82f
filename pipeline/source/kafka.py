"""Interactions from a Kafka topic, from the run's own offsets on (docs/architecture.md, invariants 3, 4 and 7)."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Thread
from typing import Any

import structlog
from confluent_kafka import KafkaError

from autoemb_pipeline.errors import BrokerError, OffsetError, TopicError
from autoemb_pipeline.kafka.errors import attempt
from autoemb_pipeline.kafka.settings import open_consumer
from autoemb_pipeline.offsets import TOPIC_STRIDE
from autoemb_pipeline.records import Interaction, RunPosition
from autoemb_pipeline.schemas.columnar import ColumnDecoder
from autoemb_pipeline.source.config import SourceConfig
from autoemb_pipeline.source.consumers import PartitionConsumers, SharedConsumer, reading_settings
from autoemb_pipeline.source.merged import MergedSource
from autoemb_pipeline.source.reader import ChunkDecoder
from autoemb_pipeline.source.topics import TopicSet

_log = structlog.get_logger()
_COMMIT_SECONDS = 2.0
_REQUEST_SECONDS = 3.0  # what training may wait for a broker that does not answer


class KafkaSource(MergedSource):
    """A topic's records, decoded and merged by event time, from `position` on.

    Offsets are the run's own: the group's commits are never read. Outages of the broker are waited out.

    Args:
        config: the topic and how to read it.
        kafka: librdkafka settings of the client; any may be given but those that the guarantees rest on.
        decoder: of a chunk; or a record's value to its interaction, which raises DecodeError for bytes that are none. The latter is not
            asked for plain values of the current schema, which a kernel decodes (`ColumnDecoder`).
        position: where the run stands; without one it begins at `config.start_at`.
        clock: seconds, monotonic.

    Raises:
        TopicError: the topic is missing, or has fewer partitions than the position.
        OffsetError: the topic is another one than `config.topic_id`, or a position lies before its earliest record. (One beyond the end
            is found at the first fetch and raised by `poll_many`.)
        BrokerError: no broker answers within `config.start_timeout`, or it refuses.
        ConfigurationError: a Kafka setting is unknown, or would break the guarantees.
    """

    def __init__(
        self,
        config: SourceConfig,
        kafka: Mapping[str, str],
        decoder: ChunkDecoder | Callable[[bytes], Interaction],
        position: RunPosition,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topics = TopicSet(kafka, config, clock=clock)
        settings = reading_settings(kafka, config, self._topics)
        self._commits = _Commits(settings, self._topics, config.names)  # first: settings that cannot be used need no broker to be found
        partitions = self._topics.describe_at_start(config.start_timeout)
        starts = start_offsets(self._topics, config, partitions, position, timeout=config.start_timeout, begun=bool(position.next_offsets))
        self._left_out: Sequence[int] = ()
        self._left_out_records = 0
        fetcher_type = PartitionConsumers if len(partitions) <= config.max_consumers else SharedConsumer
        super().__init__(
            config,
            fetcher=fetcher_type(settings, config, self._topics, starts),
            decode=(decoder if isinstance(decoder, ChunkDecoder) else ColumnDecoder(decoder)).decode,
            start_offsets=starts,
            position=position,
            clock=clock,
        )

    @property
    def topic_id(self) -> str:
        """The topic's id, for the checkpoint."""
        return str(self._topics.topic_id)

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Tells the broker how far the run is, for lag dashboards. Never waits and never fails: a commit refused is only logged."""
        self._commits.commit(next_offsets)

    def add_partitions(self) -> Mapping[int, int]:
        """Takes up partitions that were added to the topic since, by what the guard saw at its last look; costs nothing between looks.

        With `until_end` they are only counted: what it trains is what the topic held at the start.

        Returns:
            Start offsets of the added partitions, for `Batcher.start_from`; empty almost always.
        """
        added = self._topics.added(self.start_offsets)
        if not added:
            return {}
        try:
            if self._config.until_end:
                self._note_left_out(added)
                return {}
            starts = start_offsets(self._topics, self._config, added, RunPosition(), timeout=_REQUEST_SECONDS, begun=True)
        except (BrokerError, TopicError) as error:  # the guard looks again, and knows a topic that is gone from one not known yet
            _log.warning("could not look at added partitions", topic=self._config.names, partitions=added, why=error.why)
            return {}
        self._add_partitions(starts)
        _log.info("partitions added to the topic are read from now on", topic=self._config.names, offsets=starts)
        return starts

    def verify(self) -> None:
        """Looks whether the topic is still the same, and waits for the answer: for a checkpoint, before its position is captured.

        Without an answer from the broker it does nothing.

        Raises:
            OffsetError: the topic was made anew, or records of an added partition were deleted unread. (That it was deleted, `poll_many`
                raises.)
        """
        try:
            self._topics.describe(_REQUEST_SECONDS)
        except BrokerError as error:
            _log.warning("could not look at the topic", topic=self._config.names, why=error.why)
        except OffsetError:
            raise
        except TopicError as error:  # a broker that has just started may not know it yet: the guard looks twice
            _log.warning("the broker does not know the topic", topic=self._config.names, why=error.why)
            self._topics.look_soon()

    def lag(self) -> int:
        """As `MergedSource.lag`, with the records of added partitions that are not read."""
        return super().lag() + self._left_out_records

    def unread(self) -> tuple[str, ...]:
        """As `MergedSource.unread`, with the partitions added after a start with `until_end`."""
        if self._config.until_end:
            self.add_partitions()
        sentences = super().unread()
        if not self._left_out_records:
            return sentences
        return (
            *sentences,
            (
                f"{self._left_out_records:,} records of partitions {list(self._left_out)} were not read: the partitions were added after "
                "the start, and --until-end reads those there were then. Start again to read them"
            ),
        )

    def _note_left_out(self, added: Sequence[int]) -> None:
        self._left_out_records = self._topics.records(added, _REQUEST_SECONDS)
        if self._left_out != added:
            self._left_out = added
            _log.warning(
                "partitions added after the start are not read with --until-end",
                topic=self._config.names,
                partitions=added,
                records=self._left_out_records,
                hint="start again when this has ended",
            )

    def close(self) -> None:
        """Gives up all connections, after giving commits under way a moment."""
        super().close()
        self._commits.close()


class _Commits:
    """Commits under the run's group, by a consumer of their own that reads nothing. One at a time: while it lasts only the newest waits.

    (The admin client can commit too, but librdkafka aborts the process when the coordinator goes away meanwhile: its issue 4605.)
    """

    def __init__(self, settings: Mapping[str, Any], topics: TopicSet, name: str) -> None:
        self._topics = topics
        self._topic = name
        self._under_way = False
        self._waiting: Mapping[int, int] | None = None
        self._consumer = open_consumer({**settings, "on_commit": self._done})

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        self._waiting = next_offsets or self._waiting
        self._consumer.poll(0)  # the answer to the one before
        self._send()

    def close(self) -> None:
        deadline = time.monotonic() + _COMMIT_SECONDS
        while (self._under_way or self._waiting) and time.monotonic() < deadline:
            self._consumer.poll(0.05)
            self._send()
        if self._under_way:
            # With no broker to answer the commit, closing takes most of a minute, and so would the destructor: nobody waits for it.
            _log.warning("offsets not committed; only lag dashboards miss them", topic=self._topic, why="no answer")
            Thread(target=self._consumer.close, name="close commits", daemon=True).start()
        else:
            self._consumer.close()

    def _send(self) -> None:
        if self._under_way or not self._waiting:
            return
        offsets = [self._topics.place(partition, offset) for partition, offset in self._waiting.items()]
        self._waiting, self._under_way = None, True
        refused = attempt(self._consumer.commit, offsets=offsets, asynchronous=True)
        if isinstance(refused, KafkaError):
            self._done(refused, offsets)

    def _done(self, error: KafkaError | None, _: list[Any]) -> None:
        self._under_way = False
        if error is not None:
            _log.warning("offsets not committed; only lag dashboards miss them", topic=self._topic, why=error.str())


def start_offsets(
    topics: TopicSet, config: SourceConfig, partitions: Iterable[int], position: RunPosition, *, timeout: float, begun: bool
) -> dict[int, int]:
    """Partition -> first offset to read; a partition without a position was added since the run has `begun`, so it must be whole.

    Raises OffsetError for a position before the earliest record.
    """
    earliest = topics.earliest(partitions, timeout)
    missing = sorted(position.next_offsets.keys() - earliest.keys())
    if missing:
        gone = [number % TOPIC_STRIDE for number in missing if config.topic_of(number) == config.topic_of(missing[0])]
        raise TopicError(
            f"Topic {config.topic_of(missing[0])!r} has no partitions {gone}, which this run has read",
            why="partitions cannot be removed from a topic, so it is another one",
            remedy="restore the topic, or start a new run: autoemb-pipeline train --new-run",
        )
    if not begun:
        return _beginnings(topics, config, earliest, timeout)
    starts = {partition: position.next_offsets.get(partition, 0) for partition in earliest}
    for partition, start in starts.items():
        low = earliest[partition]
        if start < low:
            raise OffsetError(
                f"{config.named(partition)} begins at offset {low}, and this run stands at {start}",
                why=f"{low - start} records it has not read were deleted (retention, or DeleteRecords)",
                remedy="restore the topic, or start a new run: autoemb-pipeline train --new-run",
            )
    return starts


def _beginnings(topics: TopicSet, config: SourceConfig, earliest: Mapping[int, int], timeout: float) -> dict[int, int]:
    """Where a new run begins."""
    if config.start_at is not None:
        return topics.starting(earliest, config.start_at, timeout)
    for partition, low in earliest.items():
        if low > 0:
            _log.warning("the partition's beginning is gone; reading from its earliest record", partition=partition, offset=low)
    return dict(earliest)
