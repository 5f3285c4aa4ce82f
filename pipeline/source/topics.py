"""The topics that a run reads, of one shape, as one: their partitions are numbered over all of them (`offsets.TOPIC_STRIDE`)."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec

from autoemb_pipeline.offsets import TOPIC_STRIDE
from autoemb_pipeline.records import StartAt
from autoemb_pipeline.source.config import SourceConfig
from autoemb_pipeline.source.guard import TopicGuard


class TopicSet:
    """One `TopicGuard` per topic; of the same interface, over all partitions.

    Args:
        kafka: librdkafka settings of the clients.
        config: the topics, and the ids they must have.
        clock: seconds, monotonic.
    """

    def __init__(self, kafka: Mapping[str, str], config: SourceConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        ids = [None] * len(config.topics) if config.topic_id is None else config.topic_id.split(",")
        self._topics = config.topics
        self._guards = [
            TopicGuard(kafka, topic, expected_id=topic_id, check_interval=config.check_interval, clock=clock)
            for topic, topic_id in zip(config.topics, ids, strict=True)
        ]

    @property
    def topic_id(self) -> str:
        """The topics' ids, separated by commas."""
        return ",".join(str(guard.topic_id) for guard in self._guards)

    def place(self, number: int, *offset: int) -> TopicPartition:
        """A partition as librdkafka knows it."""
        topic, partition = divmod(number, TOPIC_STRIDE)
        return TopicPartition(self._topics[topic], partition, *offset)

    def numbers_in(self, messages: Sequence[Any]) -> set[int]:
        """The partitions of these messages; of what librdkafka gives in place of one, and is of no topic, -1."""
        if len(self._topics) == 1:
            return {*map(Message.partition, messages)}
        return {-1 if message.topic() is None else self.number(message) for message in messages}

    def number(self, message: Any) -> int:
        """A message's partition."""
        if len(self._topics) == 1:
            return int(message.partition())
        return self._topics.index(message.topic()) * TOPIC_STRIDE + int(message.partition())

    def describe_at_start(self, timeout: float) -> list[int]:
        """All partitions. Raises as `TopicGuard.describe_at_start`."""
        counts = [guard.describe_at_start(timeout).partitions for guard in self._guards]
        return [index * TOPIC_STRIDE + partition for index, count in enumerate(counts) for partition in range(count)]

    def describe(self, timeout: float) -> None:
        """Whether every topic is what it was. Raises as `TopicGuard.describe`."""
        for guard in self._guards:
            guard.describe(timeout)

    def earliest(self, partitions: Iterable[int], timeout: float) -> dict[int, int]:
        """As `TopicGuard.offsets`, of each partition's earliest record."""
        return self._offsets(partitions, OffsetSpec.earliest(), timeout)

    def starting(self, partitions: Iterable[int], start: StartAt, timeout: float) -> dict[int, int]:
        """Partition -> offset of the first record at or after `start`; its end where there is none. Errors as `earliest`."""
        requested = tuple(partitions)
        if start is None:
            return self.earliest(requested, timeout)
        ends = self._offsets(requested, OffsetSpec.latest(), timeout)
        if start == "latest":
            return ends
        firsts = self._offsets(requested, OffsetSpec.for_timestamp(start), timeout)
        return {partition: ends[partition] if offset < 0 else offset for partition, offset in firsts.items()}

    def records(self, partitions: Iterable[int], timeout: float) -> int:
        """As `TopicGuard.records`."""
        return sum(guard.records(local, timeout) for _, guard, local in self._by_topic(partitions))

    def added(self, known: Mapping[int, int]) -> list[int]:
        """Partitions that the last looks found and that are not known."""
        seen = [range(guard.partitions_seen() or 0) for guard in self._guards]
        numbers = (index * TOPIC_STRIDE + partition for index, of_topic in enumerate(seen) for partition in of_topic)
        return [number for number in numbers if number not in known]

    def tick(self) -> None:
        """As `TopicGuard.tick`."""
        for guard in self._guards:
            guard.tick()

    def look_soon(self) -> None:
        """As `TopicGuard.look_soon`."""
        for guard in self._guards:
            guard.look_soon()

    def on_error(self, error: KafkaError, message: Any) -> None:
        """As `TopicGuard.on_error`, of what librdkafka gives in place of a message."""
        topic = message.topic()
        guard = self._guards[self._topics.index(topic) if topic in self._topics else 0]
        guard.on_error(error, message.partition())

    def on_global_error(self, error: KafkaError) -> None:
        """As `TopicGuard.on_global_error`: it concerns the broker, not one topic."""
        self._guards[0].on_global_error(error)

    def _offsets(self, partitions: Iterable[int], spec: OffsetSpec, timeout: float) -> dict[int, int]:
        offsets: dict[int, int] = {}
        for index, guard, local in self._by_topic(partitions):
            offsets |= {index * TOPIC_STRIDE + partition: offset for partition, offset in guard.offsets(local, spec, timeout).items()}
        return offsets

    def _by_topic(self, partitions: Iterable[int]) -> list[tuple[int, TopicGuard, list[int]]]:
        local: dict[int, list[int]] = {}
        for number in partitions:
            local.setdefault(number // TOPIC_STRIDE, []).append(number % TOPIC_STRIDE)
        return [(index, self._guards[index], of_topic) for index, of_topic in sorted(local.items())]
