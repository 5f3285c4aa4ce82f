"""Looks at what a topic holds, record by record; leaves no trace in it."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from autoemb_pipeline.errors import BrokerError, DecodeError, TopicError
from autoemb_pipeline.records import Interaction

# names the dataset's fingerprint on every record
FINGERPRINT_HEADER: Final = "autoemb-dataset"
OTHER_TOPIC: Final = "replay into another topic with --topic NAME, or delete this one first"
Decode = Callable[[bytes | None], Interaction]

# fatal errors are logged whatever the log level
_SILENT: Final = logging.getLogger("autoemb_pipeline.producers.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

_METADATA_SECONDS: Final = 5.0
# for a new topic's leaders, or a restarting broker
_LEADER_SECONDS: Final = 15.0
_RETRY_SECONDS: Final = 0.1
_READ_SECONDS: Final = 30.0
_TAIL: Final = 16
_SCAN_BACK: Final = 16


class Stored(NamedTuple):
    """A record of a topic: where it is, what it says, and the fingerprint in its header."""

    partition: int
    offset: int
    interaction: Interaction
    fingerprint: str


class Ends(NamedTuple):
    """What is looked at of a partition: its first record and its last few (at least one). ``deleted``: it began before ``first`` once."""

    first: Stored
    tail: Sequence[Stored]
    deleted: bool

    @property
    def last(self) -> Stored:
        """The last record."""
        return self.tail[-1]


class TopicView(Protocol):
    """What `autoemb_pipeline.producers.resume` has to see of a topic: `TopicReader`, or a test's own."""

    def high_watermarks(self, partitions: int) -> list[int]:
        """End offset of every partition."""
        ...

    def ends(self, partition: int) -> Ends | None:
        """The partition's ends; None where it holds no record."""
        ...

    def records(self, partition: int, offset: int) -> Iterator[Stored]:
        """The records from an offset to the partition's end."""
        ...


def quiet(kafka: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """Client settings whose failures reach the caller, not stderr."""
    return {**kafka, "log_level": 0, "logger": _SILENT, "error_cb": lambda _error: None, **settings}


class TopicReader:
    """Reads single records and whole partitions of one topic, without a consumer group and without a trace.

    Args:
        kafka: librdkafka settings.
        topic: its name.
        decode: bytes to interaction, raising DecodeError.
    """

    def __init__(self, kafka: Mapping[str, str], topic: str, decode: Decode) -> None:
        settings = {
            "group.id": "autoemb-replay",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 20,
            "queued.max.messages.kbytes": 16_384,
        }
        self._consumer = Consumer(quiet(kafka, **settings))
        self._topic = topic
        self._decode = decode

    def close(self) -> None:
        """Frees the connection."""
        self._consumer.close()

    def partitions(self) -> int:
        """The topic's number of partitions.

        Raises:
            BrokerError: no broker answers within five seconds.
            TopicError: there is no such topic.
        """
        with _broker_errors("the topic's metadata"):
            metadata = self._consumer.list_topics(self._topic, timeout=_METADATA_SECONDS).topics.get(self._topic)
        if metadata is None or metadata.error is not None or not metadata.partitions:
            raise TopicError(
                f"no topic {self._topic}",
                why=str(metadata.error) if metadata and metadata.error else "the broker does not know it",
                remedy="create it first: `autoemb-pipeline replay` does",
            )
        return len(metadata.partitions)

    def high_watermarks(self, partitions: int) -> list[int]:
        """End offset of every partition."""
        return [self._watermarks(p)[1] for p in range(partitions)]

    def ends(self, partition: int) -> Ends | None:
        """First and last records; scans back over transaction markers and compacted offsets."""
        low, high = self._watermarks(partition)
        first = next(self.records(partition, low), None)
        if first is None:
            return None
        window = _TAIL
        while True:
            tail = deque(self.records(partition, max(first.offset, high - window)), maxlen=_TAIL)
            if tail:
                return Ends(first, tuple(tail), deleted=low > 0)
            window *= _SCAN_BACK

    def records(self, partition: int, offset: int) -> Iterator[Stored]:
        """The records from an offset to the partition's end.

        Raises:
            TopicError: a record is no interaction.
            BrokerError: the broker stops answering.
        """
        self._consumer.assign([TopicPartition(self._topic, partition, offset)])
        deadline = time.monotonic() + _READ_SECONDS
        while True:
            with _broker_errors(f"{self._topic}[{partition}]"):
                # consume() alone would wait out its timeout when fewer than all messages are there
                head = self._consumer.poll(0.5)
                messages = [] if head is None else [head, *self._consumer.consume(1000, timeout=0)]
            for message in messages:
                error = message.error()
                if error is None:
                    yield self._stored(message)
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                    return
                else:
                    raise BrokerError(f"cannot read {self._topic}[{partition}]", why=error.str(), remedy="see the broker's log")
            if messages:
                deadline = time.monotonic() + _READ_SECONDS
            elif time.monotonic() > deadline:
                raise BrokerError(
                    f"cannot read {self._topic}[{partition}]", why=f"nothing came for {_READ_SECONDS:.0f} s", remedy="see the broker's log"
                )

    def _watermarks(self, partition: int) -> tuple[int, int]:
        deadline = time.monotonic() + _LEADER_SECONDS
        while True:
            try:
                low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=_METADATA_SECONDS)
            except KafkaException as error:
                if time.monotonic() < deadline:
                    time.sleep(_RETRY_SECONDS)
                    continue
                raise _no_answer(f"the offsets of {self._topic}[{partition}]", error) from error
            return int(low), int(high)

    def _stored(self, message: Message) -> Stored:
        where = f"{self._topic}[{message.partition()}] at offset {message.offset()}"
        try:
            interaction = self._decode(message.value())
        except DecodeError as error:
            raise TopicError(f"the record in {where} is no interaction", why=f"{error.reason}: {error.what}", remedy=OTHER_TOPIC) from error
        headers = dict(message.headers() or ())
        fingerprint = bytes(headers.get(FINGERPRINT_HEADER) or b"").decode("ascii", "replace")
        return Stored(message.partition(), message.offset(), interaction, fingerprint)


@contextmanager
def _broker_errors(what: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise _no_answer(what, error) from error


def _no_answer(what: str, error: KafkaException) -> BrokerError:
    return BrokerError(
        f"no answer from the broker about {what}",
        why=error.args[0].str() if error.args and isinstance(error.args[0], KafkaError) else str(error),
        remedy="check --bootstrap-servers and that the broker runs",
    )
