"""Reads a topic back by the plainest means, for the sink's tests."""

from collections.abc import Mapping
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, TopicPartition


class Read(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


def read_all(kafka: Mapping[str, str], topic: str, *, committed: bool = True, seconds: float = 15.0) -> list[Read]:
    """Every visible record of partition 0, up to its first end."""
    consumer = Consumer(
        {
            **kafka, "group.id": "test-reader", "enable.partition.eof": "true", "auto.offset.reset": "error",
            "enable.auto.commit": "false", "isolation.level": "read_committed" if committed else "read_uncommitted",
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, 0, 0)])
    records: list[Read] = []
    try:
        while True:
            message = consumer.poll(seconds)
            assert message is not None, f"{topic} gave neither a record nor its end in {seconds} s"
            if message.error() is None:
                records.append(Read(message.offset(), message.key(), message.value(), dict(message.headers() or ())))
            elif message.error().code() == KafkaError._PARTITION_EOF:
                return records
            else:
                raise AssertionError(str(message.error()))
    finally:
        consumer.close()


def step_record(step: int, run_id: str = "run", **changes: object) -> dict:
    """A complete metrics record of one step; its next offset is ten times the step."""
    return {
        "run_id": run_id, "method": "fse", "task": "binary", "preset": "stream", "context_mode": "event", "step": step,
        "examples": 10 * step, "batch_examples": 10, "mse": 1 / step, "next_offsets": {0: 10 * step},
    } | changes  # fmt: skip
