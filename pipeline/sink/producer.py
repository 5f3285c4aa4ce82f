"""Writing to Kafka so that nothing is given up silently: one interface, once per acknowledgement or once per transaction.

All of the sink's topics are written and read at partition 0: a step's metrics have one order.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from autoemb_pipeline.errors import AutoembError, ConfigurationError, DeliveryError

PARTITION = 0
Headers = Sequence[tuple[str, bytes]]

_POLL_SECONDS = 0.2
_REPORT_SECONDS = 1.0
_COMPLAIN_SECONDS = 10.0
_log = structlog.get_logger(__name__)
# librdkafka's own lines go where the application sends them, not to stderr: every failure they announce is raised as well.
_librdkafka_log = logging.getLogger("autoemb.librdkafka")
_librdkafka_log.addHandler(logging.NullHandler())

# An acknowledged record is on every in-sync replica, in order, once. With a message timeout the client would drop records in the middle
# of the stream while it accepts later ones; without one it waits for the broker as long as it takes.
_REQUIRED = {"enable.idempotence": "true", "acks": "all", "message.timeout.ms": "0"}
_ALIASES = {"delivery.timeout.ms": "message.timeout.ms", "request.required.acks": "acks"}
_SYNONYMS = {"-1": "all"}
_DEFAULTS = {"queue.buffering.max.messages": "20000", "queue.buffering.max.kbytes": "65536", "log_level": "0"}


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


def producer_settings(kafka_config: Mapping[str, str], **required: str) -> dict[str, Any]:
    """librdkafka's settings of a producer: the user's, with ours where they are a guarantee.

    Raises:
        ConfigurationError: the user's contradict a guarantee.
    """
    guarantees = _REQUIRED | {name.replace("_", "."): value for name, value in required.items()}
    for name, value in kafka_config.items():
        wanted = guarantees.get(_ALIASES.get(name, name))
        given = str(value).lower()
        contradicts = name == "transactional.id" or (wanted is not None and _SYNONYMS.get(given, given) != wanted)
        if contradicts:
            raise ConfigurationError(
                f"The Kafka setting {name}={value} cannot be used.",
                why=f"With it records could be lost or doubled silently; it must be {wanted or 'left to us'}.",
                remedy=f"Remove {name} from the file given to --kafka-config.",
            )
    kept = {name: value for name, value in kafka_config.items() if name not in _ALIASES}
    return {**_DEFAULTS, **kept, **guarantees}


def delivery_error(topic: str, error: KafkaError) -> DeliveryError:
    """The broker's (or the client's) refusal of a record of ``topic``, explained."""
    missing = "The topic is gone: start again, train creates its own topics."
    remedies = {
        KafkaError.MSG_SIZE_TOO_LARGE: f"Raise max.message.bytes of {topic} (and message.max.bytes in --kafka-config).",
        KafkaError.UNKNOWN_TOPIC_OR_PART: missing,
        KafkaError._UNKNOWN_TOPIC: missing,  # noqa: SLF001 - librdkafka's own codes
        KafkaError.TOPIC_AUTHORIZATION_FAILED: f"Give this user the right to write to {topic}.",
    }
    remedy = remedies.get(error.code(), "See the broker's log; then start again: the run resumes from its last checkpoint.")
    return DeliveryError(f"The broker did not accept a record of topic {topic}.", why=f"{error.name()}: {error.str()}", remedy=remedy)


def _fatal(error: KafkaError) -> DeliveryError:
    return DeliveryError(
        "The Kafka producer failed for good.",
        why=f"{error.name()}: {error.str()}",
        remedy="See the broker's log; then start again: the run resumes from its last checkpoint.",
    )


class Complaint:
    """Says once every 10 s that a wait goes on, and why as far as the client knows."""

    def __init__(self) -> None:
        self._cause = ""
        self._next = time.monotonic() + _COMPLAIN_SECONDS

    def on_error(self, error: KafkaError) -> None:
        """librdkafka's error callback: informational unless fatal; a fatal one also fails a delivery."""
        self._cause = error.str()

    def because(self, cause: str) -> None:
        """What the wait is for."""
        self._cause = cause

    def begin(self) -> None:
        """A wait begins."""
        self._next = time.monotonic() + _COMPLAIN_SECONDS

    def waiting(self, records: int) -> None:
        """The wait goes on."""
        if time.monotonic() >= self._next:
            _log.warning("waiting for the broker", unacknowledged=records, cause=self._cause)
            self.begin()


class ClientProducer(ABC):
    """How both producers begin and end: on one librdkafka client, flushed, or let go of after a failure.

    Args:
        settings: librdkafka's, from `producer_settings`.

    Raises:
        ConfigurationError: librdkafka refuses a setting.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._complaint = Complaint()
        self._producer = open_producer_client({**settings, "error_cb": self._complaint.on_error})
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
        # Gapless: when one batch fails for good, librdkafka also stops those behind it instead of sending them.
        super().__init__(producer_settings(kafka_config, enable_gapless_guarantee="true"))

    def send(self, record: Outgoing) -> None:
        """See `RecordProducer.send`."""
        self._complaint.begin()
        while True:
            self._raise_failure()
            try:
                hand_over(self._producer, record, self._delivered)
            except BufferError:
                self._serve(self._producer.poll, _POLL_SECONDS)
                self._complaint.waiting(self.buffered)
            except KafkaException as error:
                self._failure = self._failure or delivery_error(record.topic, error.args[0])
            else:
                self._serve(self._producer.poll, 0)
                return

    def tick(self) -> None:
        """See `RecordProducer.tick`."""
        self._serve(self._producer.poll, 0)
        self._raise_failure()

    def flush(self) -> None:
        """See `RecordProducer.flush`."""
        self._complaint.begin()
        self._raise_failure()
        while self._serve(self._producer.flush, _POLL_SECONDS):  # short waits: Ctrl-C is noticed between them
            self._raise_failure()
            self._complaint.waiting(self.buffered)
        self._raise_failure()

    @property
    def buffered(self) -> int:
        """See `RecordProducer.buffered`."""
        return len(self._producer)

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None and self._failure is None:
            self._failure = delivery_error(message.topic(), error)

    def _serve(self, call: Callable[[float], int], seconds: float) -> int:
        """Runs callbacks. The client raises a fatal error here, just before the reports of the records it struck: those name the cause."""
        try:
            return call(seconds)
        except KafkaException as error:
            deadline = time.monotonic() + _REPORT_SECONDS
            while self._failure is None and time.monotonic() < deadline:
                with suppress(KafkaException):
                    self._producer.poll(_POLL_SECONDS)
            self._failure = self._failure or _fatal(error.args[0])
            return 0

    def _raise_failure(self) -> None:
        if self._failure is not None:
            let_go(self._producer)
            raise self._failure


def open_producer_client(settings: Mapping[str, Any]) -> Any:
    """confluent_kafka's Producer; a setting librdkafka refuses is a ConfigurationError."""
    try:
        return Producer(dict(settings), logger=_librdkafka_log)
    except (KafkaException, TypeError, ValueError) as error:
        cause = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        raise ConfigurationError(
            "The Kafka settings cannot be used.", why=cause, remedy="Correct the file given to --kafka-config."
        ) from error


def let_go(producer: Any) -> None:
    """Drops all records not acknowledged and serves their reports, without waiting for a broker."""
    producer.purge()
    with suppress(KafkaException):  # a fatal error is known by then, or of no more interest
        producer.poll(0)


def hand_over(producer: Any, record: Outgoing, on_delivery: Any) -> None:
    """Puts the record into librdkafka's queue. Raises BufferError where that is full, KafkaException where it is refused."""
    producer.produce(
        record.topic, record.value, record.key, partition=PARTITION, headers=list(record.headers) or None, on_delivery=on_delivery
    )
