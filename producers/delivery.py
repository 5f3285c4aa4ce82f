"""The replay's producer: its settings, and what it reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, Message

from autoemb_pipeline.producers.topic_reader import quiet

# aliases in librdkafka of settings that a replay needs as they are
_RESERVED: Final = frozenset(
    {
        "acks",
        "request.required.acks",
        "delivery.timeout.ms",
        "message.timeout.ms",
        "enable.idempotence",
        "enable.gapless.guarantee",
        "transactional.id",
    }
)


@dataclass
class Trouble:
    """What librdkafka's callbacks report; read by the sending loop.

    Attributes:
        note: the newest trouble.
        error, message: the first delivery error.
        discarding: what waits is purged: its delivery errors are our own doing.
        established: something was acknowledged; before that a refused connection may be one of a name's addresses (localhost has two).
        lost: no broker was connected any more afterwards.
    """

    note: str = ""
    error: KafkaError | None = None
    message: Message | None = None
    discarding: bool = field(default=False)
    established: bool = field(default=False)
    lost: bool = field(default=False)

    def on_error(self, error: KafkaError) -> None:
        """librdkafka's error_cb."""
        self.note = error.str()
        self.lost |= self.established and error.code() == KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001  # the library's name
        if error.fatal() and self.error is None:
            self.error = error

    def on_delivery(self, error: KafkaError | None, message: Message) -> None:
        """librdkafka's delivery report."""
        # only failures are reported (delivery.report.only.error); those of discarded records are our own doing
        if error is not None and not self.discarding and self.error is None:
            self.error, self.message = error, message


def producer_settings(kafka: Mapping[str, str], trouble: Trouble, *, messages: int, kbytes: int) -> dict[str, Any]:
    """librdkafka settings: those that guarantee order and completeness are ours. messages, kbytes: bounds of what waits."""
    own = {key: value for key, value in kafka.items() if key not in _RESERVED}
    defaults = {"compression.type": "lz4", "linger.ms": 10}
    required = {
        "enable.idempotence": True,
        "acks": "all",
        "message.timeout.ms": 0,
        # a failed batch makes the producer fail as a whole, so that librdkafka itself sends nothing behind a gap
        "enable.gapless.guarantee": True,
        "queue.buffering.max.messages": messages,
        "queue.buffering.max.kbytes": kbytes,
        "delivery.report.only.error": True,
        "on_delivery": trouble.on_delivery,
        "error_cb": trouble.on_error,
    }
    return {**quiet(defaults), **own, **required}
