"""Fetching from Kafka: one consumer per partition for few partitions, one shared consumer for many."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from autoemb_pipeline.kafka.errors import END_OF_PARTITION
from autoemb_pipeline.kafka.settings import cached_high, consumer_settings, open_consumer
from autoemb_pipeline.source.config import SourceConfig
from autoemb_pipeline.source.reader import Chunk, Fetched
from autoemb_pipeline.source.topics import TopicSet

_TURN = 0.02  # seconds that one of several awaited consumers may keep the others waiting


def reading_settings(kafka: Mapping[str, str], config: SourceConfig, topics: TopicSet) -> dict[str, Any]:
    """librdkafka settings of the source's consumers. Raises ConfigurationError where the user's contradict a guarantee."""
    # The end of a partition is told by the first empty answer, which the broker holds back this long.
    wait = 100 if config.until_end else None
    return {**consumer_settings(kafka, f"autoemb-{config.run_id}", fetch_wait_ms=wait), "error_cb": topics.on_global_error}


class PartitionConsumers:
    """One consumer per partition. librdkafka prefetches for each within its own bound; only wanted ones are polled."""

    def __init__(self, settings: Mapping[str, Any], config: SourceConfig, topics: TopicSet, offsets: Mapping[int, int]) -> None:
        self._settings = dict(settings)
        self._chunk = config.chunk
        self._topics = topics
        self._consumers: dict[int, Any] = {}
        self._final_highs: dict[int, int] = {}
        self._turn = 0
        for partition, offset in offsets.items():
            self.add(partition, offset)

    def fetch(self, needed: Collection[int], timeout: float) -> Sequence[Fetched]:
        """See Fetcher."""
        self._topics.tick()
        pieces: list[Fetched] = []
        for partition in needed:
            # With a timeout above 0 `consume` would wait for all of it unless it gets the whole chunk.
            pieces += in_pieces(self._consumers[partition].consume(self._chunk, 0), self._topics)
        if pieces or timeout <= 0 or not needed:
            return pieces
        self._turn += 1
        awaited = self._consumers[tuple(needed)[self._turn % len(needed)]]
        message = awaited.poll(timeout if len(needed) == 1 else min(timeout, _TURN))
        return [] if message is None else in_pieces([message, *awaited.consume(self._chunk, 0)], self._topics)

    def regulate(self, buffered: Mapping[int, int]) -> None:
        """Nothing to pause: a partition is asked for a chunk when nothing of it is held."""

    def add(self, partition: int, offset: int) -> None:
        """See Fetcher."""
        consumer = open_consumer(self._settings)
        consumer.assign([self._topics.place(partition, offset)])
        self._consumers[partition] = consumer

    def finish(self, partition: int) -> None:
        """See Fetcher."""
        high = self.high(partition)
        if high is not None:
            self._final_highs[partition] = high
        self._consumers.pop(partition).close()

    def high(self, partition: int) -> int | None:
        """See Fetcher."""
        consumer = self._consumers.get(partition)
        return self._final_highs.get(partition) if consumer is None else cached_high(consumer, self._topics.place(partition))

    @property
    def paused(self) -> int:
        """See Fetcher."""
        return 0

    def close(self) -> None:
        """See Fetcher."""
        while self._consumers:
            self._consumers.popitem()[1].close()


class SharedConsumer:
    """One consumer for all partitions, polled whenever any of them is wanted.

    What it brings cannot be chosen, so records of partitions that are ahead pile up; at the high mark such a partition is paused.
    """

    def __init__(self, settings: Mapping[str, Any], config: SourceConfig, topics: TopicSet, offsets: Mapping[int, int]) -> None:
        self._config = config
        self._topics = topics
        self._paused: set[int] = set()
        self._finished: set[int] = set()
        self._consumer = open_consumer(settings)
        self._consumer.assign([topics.place(partition, offset) for partition, offset in offsets.items()])

    def fetch(self, needed: Collection[int], timeout: float) -> Sequence[Fetched]:
        """See Fetcher."""
        self._topics.tick()
        messages = self._consumer.consume(self._config.chunk, 0)
        if not messages and timeout > 0 and needed:
            message = self._consumer.poll(timeout)
            messages = [] if message is None else [message, *self._consumer.consume(self._config.chunk, 0)]
        return in_pieces(messages, self._topics)

    def regulate(self, buffered: Mapping[int, int]) -> None:
        """See Fetcher."""
        full = {p for p, held in buffered.items() if held >= self._config.high_mark} - self._paused - self._finished
        if full:
            self._consumer.pause([self._topics.place(partition) for partition in full])
            self._paused |= full
        ready = {p for p in self._paused if buffered[p] <= self._config.low_mark}
        if ready:
            self._consumer.resume([self._topics.place(partition) for partition in ready])
            self._paused -= ready

    def add(self, partition: int, offset: int) -> None:
        """See Fetcher."""
        self._consumer.incremental_assign([self._topics.place(partition, offset)])

    def finish(self, partition: int) -> None:
        """See Fetcher."""
        self._paused.discard(partition)
        self._finished.add(partition)
        self._consumer.pause([self._topics.place(partition)])

    def high(self, partition: int) -> int | None:
        """See Fetcher."""
        return cached_high(self._consumer, self._topics.place(partition))

    @property
    def paused(self) -> int:
        """See Fetcher."""
        return len(self._paused)

    def close(self) -> None:
        """See Fetcher."""
        self._consumer.close()


def in_pieces(messages: Sequence[Any], topics: TopicSet) -> list[Fetched]:
    """Messages grouped by partition, in order; a partition's end closes its piece. Other errors go to the topics' guards."""
    partitions = topics.numbers_in(messages)
    if len(partitions) == 1 and not any(map(Message.error, messages)):
        return [Fetched(partitions.pop(), _chunk(messages))]
    pieces: list[Fetched] = []
    growing: dict[int, list[Any]] = {}
    for message in messages:
        error = message.error()
        if error is None:
            growing.setdefault(topics.number(message), []).append(message)
        elif error.code() == END_OF_PARTITION:
            partition = topics.number(message)
            before = growing.pop(partition, None)
            pieces.append(Fetched(partition, None if before is None else _chunk(before), message.offset()))
        else:
            topics.on_error(error, message)
    pieces.extend(Fetched(partition, _chunk(of_partition)) for partition, of_partition in growing.items())
    return pieces


def _chunk(messages: Sequence[Any]) -> Chunk:
    offsets = np.fromiter(map(Message.offset, messages), np.int64, len(messages))
    return Chunk(
        offsets,
        [*map(Message.value, messages)],
        lambda row: messages[row].key(),
        lambda: np.fromiter(map(_time, messages), np.int64, len(messages)),
    )


def _time(message: Any) -> int:
    kind, time = message.timestamp()
    return -1 if kind == TIMESTAMP_NOT_AVAILABLE else int(time)
