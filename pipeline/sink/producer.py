"""Writing to Kafka so that nothing is given up silently: one interface, once per acknowledgement or once per transaction.

All of the sink's topics are written and read at partition 0: a step's metrics have one order.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from confluent_kafka import KafkaError

from autoemb_pipeline.errors import AutoembError
from autoemb_pipeline.kafka.errors import attempt, delivery_error, producer_error
from autoemb_pipeline.kafka.settings import GAPLESS, open_producer, producer_settings
from autoemb_pipeline.kafka.stalls import BrokerWait

PARTITION = 0
Headers = Sequence[tuple[str, bytes]]

_POLL_SECONDS = 0.2
_REPORT_SECONDS = 1.0


class Outgoing(NamedTuple):
    """One record on its way to partition 0 of a topic."""

    topic: str
    key: bytes
    value: bytes | None
    headers: Headers = ()


class RecordProducer(Protocol):
    """What the sinks write to. `IdempotentProducer` and `TransactionalProducer` implement it."""

    def send(self, record: Outgoing) -> None:
        """Takes the record; waits while the buffer is full.

        Raises:
            DeliveryError: this or an earlier record was refused for good; nothing is sent any more.
            StateError: another trainer took this run over (transactions only).
        """
        ...

    def tick(self) -> None:
        """Serves acknowledgements and closes a transaction that is due. To be called once a second, also while idle. Raises as `send`."""
        ...

    def flush(self) -> None:
        """Returns when every record is acknowledged (its transaction committed), however long the broker is away. Raises as `send`."""
        ...

    def close(self) -> None:
        """`flush`, then no more. After a failure it only lets go."""
        ...

    def discard(self) -> None:
        """Lets go at once of what is not acknowledged: for the way out on an error, where the broker may be gone."""
        ...

    @property
    def buffered(self) -> int:
        """Records sent and not yet acknowledged."""
        ...

    def __enter__(self) -> Self:
        """Returns itself; the block's end closes it, or discards when an exception ends the block."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """See `__enter__`."""
        ...


class ClientProducer(ABC):
    """How both producers begin and end: on one librdkafka client, flushed, or let go of after a failure.

    Args:
        settings: librdkafka's, from `producer_settings`.

    Raises:
        ConfigurationError: librdkafka refuses a setting.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._wait = BrokerWait()
        self._producer = open_producer({**settings, "error_cb": self._wait.on_error})
        self._failure: AutoembError | None = None

    @abstractmethod
    def flush(self) -> None:
        """See `RecordProducer.flush`."""

    def close(self) -> None:
        """See `RecordProducer.close`."""
        if self._failure is None:
            self.flush()
        else:
            self.discard()

    def discard(self) -> None:
        """See `RecordProducer.discard`."""
        let_go(self._producer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close() if kind is None else self.discard()


class IdempotentProducer(ClientProducer):
    """Acknowledged records are in the topic once and in order; after a crash the tail may be missing, never a middle.

    Args:
        kafka_config: librdkafka's settings, with ``bootstrap.servers``.

    Raises:
        ConfigurationError: a setting contradicts a guarantee or is unknown.
    """

    def __init__(self, kafka_config: Mapping[str, str]) -> None:
        super().__init__(producer_settings(kafka_config, GAPLESS))

    def send(self, record: Outgoing) -> None:
        """See `RecordProducer.send`."""
        self._wait.begin()
        while True:
            self._raise_failure()
            try:
                refused = hand_over(self._producer, record, self._delivered)
            except BufferError:
                self._serve(self._producer.poll, _POLL_SECONDS)
                self._wait.waiting(self.buffered)
                continue
            if refused is None:
                self._serve(self._producer.poll, 0)
                return
            self._failure = self._failure or delivery_error(record.topic, refused)

    def tick(self) -> None:
        """See `RecordProducer.tick`."""
        self._serve(self._producer.poll, 0)
        self._raise_failure()

    def flush(self) -> None:
        """See `RecordProducer.flush`."""
        self._wait.begin()
        self._raise_failure()
        while self.buffered:
            self._serve(self._producer.flush, _POLL_SECONDS)  # short waits: Ctrl-C is noticed between them
            self._raise_failure()
            self._wait.waiting(self.buffered)

    @property
    def buffered(self) -> int:
        """See `RecordProducer.buffered`."""
        return len(self._producer)

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None and self._failure is None:
            self._failure = delivery_error(message.topic(), error)

    def _serve(self, call: Callable[[float], int], seconds: float) -> None:
        """Runs callbacks. The client raises a fatal error here, just before the reports of the records it struck: those name the cause."""
        fatal = attempt(call, seconds)
        if not isinstance(fatal, KafkaError):
            return
        deadline = time.monotonic() + _REPORT_SECONDS
        while self._failure is None and time.monotonic() < deadline:
            attempt(self._producer.poll, _POLL_SECONDS)
        self._failure = self._failure or producer_error(fatal)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            let_go(self._producer)
            raise self._failure


def let_go(producer: Any) -> None:
    """Drops all records not acknowledged and serves their reports, without waiting for a broker."""
    producer.purge()
    attempt(producer.poll, 0)  # a fatal error is known by then, or of no more interest


def hand_over(producer: Any, record: Outgoing, on_delivery: Any) -> KafkaError | None:
    """Puts the record into librdkafka's queue; the error where it is refused. Raises BufferError where the queue is full."""
    error: KafkaError | None = attempt(
        producer.produce,
        record.topic,
        record.value,
        record.key,
        partition=PARTITION,
        headers=list(record.headers) or None,
        on_delivery=on_delivery,
    )
    return error
