"""Reads a topic back by the plainest means, for the sink's tests."""

from collections.abc import Mapping
from typing import NamedTuple

from tests.run.kafka_reading import read_all as topic_messages


class Read(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


def read_all(kafka: Mapping[str, str], topic: str, *, committed: bool = True, seconds: float = 15.0) -> list[Read]:
    """Every visible record of partition 0, up to its first end."""
    messages = topic_messages(kafka, topic, committed=committed, seconds=seconds)
    return [Read(m.offset(), m.key(), m.value(), dict(m.headers() or ())) for m in messages]


def step_record(step: int, run_id: str = "run", **changes: object) -> dict:
    """A complete metrics record of one step; its next offset is ten times the step."""
    return {
        "run_id": run_id, "method": "fse", "task": "binary", "preset": "stream", "context_mode": "event", "step": step,
        "examples": 10 * step, "batch_examples": 10, "mse": 1 / step, "next_offsets": {0: 10 * step},
    } | changes  # fmt: skip
