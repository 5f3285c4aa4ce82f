"""Looks at what a topic holds, record by record; leaves no trace in it."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from confluent_kafka import KafkaError, Message

from autoemb_pipeline.errors import BrokerError, DecodeError, TopicError
from autoemb_pipeline.kafka.reader import TopicReader
from autoemb_pipeline.records import Interaction

# names the dataset's fingerprint on every record
FINGERPRINT_HEADER: Final = "autoemb-dataset"
OTHER_TOPIC: Final = "replay into another topic with --topic NAME, or delete this one first"
Decode = Callable[[bytes | None], Interaction]

_METADATA_SECONDS: Final = 5.0
# for a new topic's leaders, or a restarting broker
_LEADER_SECONDS: Final = 15.0
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
    """What `autoemb_pipeline.producers.resume` has to see of a topic: `InteractionReader`, or a test's own."""

    def high_watermarks(self, partitions: int) -> list[int]:
        """End offset of every partition."""
        ...

    def ends(self, partition: int) -> Ends | None:
        """The partition's ends; None where it holds no record."""
        ...

    def records(self, partition: int, offset: int) -> Iterator[Stored]:
        """The records from an offset to the partition's end."""
        ...


class InteractionReader:
    """Reads single records and whole partitions of one topic, without a consumer group and without a trace.

    Args:
        kafka: librdkafka settings.
        topic: its name.
        decode: bytes to interaction, raising DecodeError.
    """

    def __init__(self, kafka: Mapping[str, str], topic: str, decode: Decode) -> None:
        self._reader = TopicReader(kafka, topic, group="autoemb-replay", explain=self._no_answer)
        self._topic = topic
        self._decode = decode

    def close(self) -> None:
        """Frees the connection."""
        self._reader.close()

    def partitions(self) -> int:
        """The topic's number of partitions.

        Raises:
            BrokerError: no broker answers within five seconds.
            TopicError: there is no such topic.
        """
        count = self._reader.partitions(_METADATA_SECONDS)
        if isinstance(count, str):
            raise TopicError(f"no topic {self._topic}", why=count, remedy="create it first: `autoemb-pipeline replay` does")
        return count

    def high_watermarks(self, partitions: int) -> list[int]:
        """End offset of every partition."""
        return [self._offsets(p)[1] for p in range(partitions)]

    def ends(self, partition: int) -> Ends | None:
        """First and last records; scans back over transaction markers and compacted offsets."""
        low, high = self._offsets(partition)
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
        return map(self._stored, self._reader.read(partition, offset, patience=_READ_SECONDS))

    def _offsets(self, partition: int) -> tuple[int, int]:
        return self._reader.offsets(partition, timeout=_METADATA_SECONDS, patience=_LEADER_SECONDS)

    def _stored(self, message: Message) -> Stored:
        where = f"{self._topic}[{message.partition()}] at offset {message.offset()}"
        try:
            interaction = self._decode(message.value())
        except DecodeError as error:
            raise TopicError(f"the record in {where} is no interaction", why=f"{error.reason}: {error.what}", remedy=OTHER_TOPIC) from error
        headers = dict(message.headers() or ())
        fingerprint = bytes(headers.get(FINGERPRINT_HEADER) or b"").decode("ascii", "replace")
        return Stored(message.partition(), message.offset(), interaction, fingerprint)

    def _no_answer(self, error: KafkaError) -> BrokerError:
        return BrokerError(
            f"no answer from the broker about {self._topic}",
            why=error.str(),
            remedy="check --bootstrap-servers and that the broker runs",
        )
