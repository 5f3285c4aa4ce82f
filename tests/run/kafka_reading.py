"""Reads whole topics in tests, by the plainest means."""

import json
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition


def read_all(
    kafka: Mapping[str, str], topic: str, partition: int = 0, *, offset: int = 0, committed: bool = True, seconds: float = 20.0
) -> list[Message]:
    """Every visible message of a partition from an offset on, up to its first end. seconds: in which something must come."""
    consumer = Consumer(
        {
            **kafka,
            "group.id": "test-reader",
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            # The end is told by an empty answer, which the broker otherwise holds back for half a second.
            "fetch.wait.max.ms": "10",
        }
    )
    try:
        consumer.assign([TopicPartition(topic, partition, offset)])
        messages = []
        while True:
            message = consumer.poll(seconds)
            assert message is not None, f"{topic} gave neither a record nor its end in {seconds} s"
            if message.error() is None:
                messages.append(message)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                return messages
            else:
                raise AssertionError(message.error())
    finally:
        consumer.close()


def metrics_of(kafka: Mapping[str, str], topic: str, run_id: str | None = None) -> list[dict[str, Any]]:
    """The metrics topic's records, of one run or all."""
    records = [json.loads(m.value()) for m in read_all(kafka, topic)]
    return [r for r in records if run_id is None or r["run_id"] == run_id]
