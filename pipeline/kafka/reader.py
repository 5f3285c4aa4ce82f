"""The bounded reader of a topic: by `assign()`, without a consumer group, leaving no trace."""

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, Message, TopicPartition

from autoemb_pipeline.errors import AutoembError, BrokerError
from autoemb_pipeline.kafka.errors import END_OF_PARTITION, PASSING, attempt
from autoemb_pipeline.kafka.settings import consumer_settings, ignore, open_consumer

_BATCH = 1000
_POLL_SECONDS = 0.2
_RETRY_SECONDS = 0.1


class TopicReader:
    """Reads one partition of a topic at a time.

    Errors of the broker that may pass are waited out: they show as silence.

    Args:
        kafka: librdkafka settings with ``bootstrap.servers``.
        topic: its name.
        group: a name for librdkafka, which wants one; nothing is ever committed under it.
        explain: what is raised for an error of librdkafka.
        committed: whether records of open and aborted transactions stay unseen, and the range ends before the first open one.
        skip_deleted: goes on with the earliest record where a position is gone, which is an error otherwise.
        fetch_wait_ms: milliseconds that the broker holds back an empty answer, and with it the end of the partition.

    Attributes:
        end: the offset at which the partition's end was told, if no record came since; else None.

    Raises:
        ConfigurationError: a setting is unknown, or contradicts a guarantee.
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        topic: str,
        *,
        group: str,
        explain: Callable[[KafkaError], AutoembError],
        committed: bool = True,
        skip_deleted: bool = False,
        fetch_wait_ms: int = 20,
    ) -> None:
        self.end: int | None = None
        self._topic = topic
        self._explain = explain
        settings = consumer_settings(kafka, group, fetch_wait_ms=fetch_wait_ms)
        departures = {
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "auto.offset.reset": "earliest" if skip_deleted else "error",
        }
        self._consumer = open_consumer({**settings, **departures, "error_cb": ignore})

    def partitions(self, timeout: float) -> int | str:
        """The topic's number of partitions, or why there is no such topic.

        Raises:
            AutoembError: from `explain`; no answer within ``timeout`` seconds.
        """
        metadata = self._answer(attempt(self._consumer.list_topics, self._topic, timeout=timeout)).topics.get(self._topic)
        if metadata is None or metadata.error is not None or not metadata.partitions:
            return str(metadata.error) if metadata and metadata.error else "the broker does not know it"
        return len(metadata.partitions)

    def offsets(self, partition: int = 0, *, timeout: float, patience: float = 0.0) -> tuple[int, int]:
        """(first offset, offset at which it goes on) of a partition.

        Args:
            partition: of the topic.
            timeout: seconds that one request may take.
            patience: seconds in which a request that fails is made again: for a new topic's leaders, or a restarting broker.

        Raises:
            AutoembError: from `explain`.
        """
        deadline = time.monotonic() + patience
        while True:
            where = TopicPartition(self._topic, partition)
            answer = attempt(self._consumer.get_watermark_offsets, where, timeout=timeout, cached=False)
            if not isinstance(answer, KafkaError) or time.monotonic() >= deadline:
                low, high = self._answer(answer)
                return int(low), int(high)
            time.sleep(_RETRY_SECONDS)

    def start(self, partition: int, offset: int) -> None:
        """Whatever is polled from now on is this partition's, from this offset on."""
        self._consumer.assign([TopicPartition(self._topic, partition, offset)])
        self.end = None

    def poll(self, seconds: float) -> list[Message]:
        """The next records; waits up to ``seconds`` for the first. Raises what `explain` gives."""
        # consume() alone would wait out its timeout where fewer than all messages are there
        head = self._answer(attempt(self._consumer.poll, seconds))
        return self._records([] if head is None else [head, *self._answer(attempt(self._consumer.consume, _BATCH, 0))])

    def read(self, partition: int, offset: int, *, end: int = 0, patience: float) -> Iterator[Message]:
        """The records from an offset to the partition's end.

        Args:
            partition: of the topic.
            offset: of the first record.
            end: an end told before this offset is not believed. (A committed reader's end lies before an open transaction.)
            patience: seconds in which something must come.

        Raises:
            BrokerError: nothing came, nor the end.
            AutoembError: from `explain`.
        """
        self.start(partition, offset)
        deadline = time.monotonic() + patience
        while True:
            records = self.poll(_POLL_SECONDS)
            yield from records
            if self.end is not None and self.end >= end:
                return
            if records:
                deadline = time.monotonic() + patience
            elif time.monotonic() >= deadline:
                raise BrokerError(
                    f"The end of {self._topic} was not reached within {patience:.0f} s.",
                    why="The broker is away, or another producer left a transaction open in it.",
                    remedy="Check the broker; an open transaction ends by itself after its producer's transaction.timeout.ms.",
                )

    def close(self) -> None:
        """Frees the connection. May be called twice."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _records(self, messages: list[Message]) -> list[Message]:
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
                self.end = None
            elif error.code() == END_OF_PARTITION:
                self.end = message.offset()
            elif error.code() not in PASSING:
                raise self._explain(error)
        return records

    def _answer(self, answer: Any) -> Any:
        if isinstance(answer, KafkaError):
            raise self._explain(answer)
        return answer
