"""Writes test topics directly, record by record: the real producer has its own tests."""

from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import Producer

from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.codec import encode_interaction

# An idempotent producer waits half a second for its id; with one request under way at a time the order is kept as well.
IN_ORDER: Mapping[str, str | int] = {"acks": "all", "max.in.flight.requests.per.connection": 1, "linger.ms": 5}


def write(
    kafka: Mapping[str, str],
    topic: str,
    values: Iterable[Interaction | bytes | None],
    partition_of: Callable[[int], int] = lambda _: 0,
    *,
    per_batch: int = 10_000,
) -> None:
    """Writes the values in order, the n-th to partition_of(n), `per_batch` to a record batch: a fetch brings at least one whole batch.

    Returns when all are acknowledged.
    """
    failures: list[object] = []
    producer = Producer({**kafka, **IN_ORDER, "batch.num.messages": per_batch})
    for n, value in enumerate(values):
        payload = encode_interaction(value) if isinstance(value, Interaction) else value
        timestamp = value.timestamp if isinstance(value, Interaction) else 1
        producer.produce(
            topic,
            payload,
            key=b"k",
            partition=partition_of(n),
            timestamp=timestamp,
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
        producer.poll(0)
    assert producer.flush(30) == 0
    assert not failures


def spread(partitions: int) -> Callable[[int], int]:
    """Runs of records in one partition, as sessions of one user make them, and single ones."""
    return lambda n: (n // 3 * 7 + n % 2) % partitions
