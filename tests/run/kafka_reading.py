"""Reads whole topics in tests."""

import json
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition


def read_all(kafka: Mapping[str, str], topic: str, partition: int = 0) -> list[Any]:
    """Every committed message of a partition."""
    consumer = Consumer(
        {
            **kafka,
            "group.id": "test-reader",
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    try:
        consumer.assign([TopicPartition(topic, partition, 0)])
        messages = []
        while True:
            message = consumer.poll(20)
            assert message is not None, f"{topic} did not end"
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
