"""The replay's producer: its settings, and what it reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, Message

from autoemb_pipeline.kafka.errors import NO_BROKER
from autoemb_pipeline.kafka.settings import GAPLESS, producer_settings, without_producer_guarantees


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
        self.lost |= self.established and error.code() == NO_BROKER
        if error.fatal() and self.error is None:
            self.error = error

    def on_delivery(self, error: KafkaError | None, message: Message) -> None:
        """librdkafka's delivery report."""
        # only failures are reported (delivery.report.only.error); those of discarded records are our own doing
        if error is not None and not self.discarding and self.error is None:
            self.error, self.message = error, message


def replay_settings(kafka: Mapping[str, str], trouble: Trouble, *, messages: int, kbytes: int) -> dict[str, Any]:
    """librdkafka settings: those that guarantee order and completeness are ours. messages, kbytes: bounds of what waits."""
    preferred = {"compression.type": "lz4", "linger.ms": "10", **without_producer_guarantees(kafka)}
    return {
        **producer_settings(preferred, GAPLESS),
        "queue.buffering.max.messages": messages,
        "queue.buffering.max.kbytes": kbytes,
        "delivery.report.only.error": True,
        "on_delivery": trouble.on_delivery,
        "error_cb": trouble.on_error,
    }
