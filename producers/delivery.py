"""The replay's producer: its settings, what it reports, and how records are handed to it."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import repeat
from operator import length_hint
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from autoemb_pipeline.columns import Block, Integers
from autoemb_pipeline.kafka.errors import NO_BROKER
from autoemb_pipeline.kafka.settings import GAPLESS, producer_settings, without_producer_guarantees
from autoemb_pipeline.producers.topic_reader import FINGERPRINT_HEADER
from autoemb_pipeline.schemas.columnar import encode_block

# librdkafka takes the timestamp 0 as "now"
_FIRST_MS = 1


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


class Taken(NamedTuple):
    """What a producer took of the records it was handed.

    Attributes:
        stop: place of the first one that it did not take.
        refusal: why; None where it took them all, or where its buffer is full.
    """

    stop: int
    refusal: KafkaError | None = None


class Outgoing:
    """A block's records, encoded, to be handed to the producer piece by piece: the one place where records are produced.

    Args:
        block: interactions of a dataset.
        partitions: [n] of each.
        header: what every value begins with.
        topic, fingerprint: where they go, and the dataset they are of.
    """

    def __init__(self, block: Block, partitions: Integers, *, header: bytes, topic: str, fingerprint: str) -> None:
        self._encoded = encode_block(block, header)
        self._keys, self._partitions, self._time = block.user_ids, partitions, np.maximum(block.time, _FIRST_MS)
        self._topic, self._headers = topic, [(FINGERPRINT_HEADER, fingerprint.encode())]

    def hand_over(self, producer: Producer, rows: slice) -> Taken:
        """Hands these records to the producer, in order, until it refuses one. No bytecode runs per record."""
        values = iter(self._encoded[rows].values())
        columns = (values, self._keys[rows].to_list(), self._partitions[rows].tolist())
        calls = map(
            producer.produce, repeat(self._topic), *columns, repeat(None), repeat(None), self._time[rows].tolist(), repeat(self._headers)
        )
        try:
            deque(calls, maxlen=0)
        except BufferError:
            # the refused record's value has been drawn from the iterator, those behind it have not
            return Taken(rows.stop - length_hint(values) - 1)
        except KafkaException as error:
            return Taken(rows.stop - length_hint(values) - 1, error.args[0])
        return Taken(rows.stop)


def unacknowledged(producer: Producer) -> int:
    """How many records wait to be acknowledged.

    librdkafka's own count (`rd_kafka_outq_len`) also has the callbacks in it that are due; so they are called first.
    """
    producer.poll(0)
    return len(producer)


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
