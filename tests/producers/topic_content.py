"""Reads a topic whole, without the code under test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.partitioner import partition_of
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.codec import decode_interaction
from tests.run.kafka_reading import read_all as topic_messages


@dataclass(frozen=True)
class Record:
    partition: int
    offset: int
    key: bytes
    timestamp: int
    headers: dict[str, bytes]
    interaction: Interaction


def read_all(
    kafka: Mapping[str, str], topic: str, partitions: int, decode: Callable[[bytes], Interaction] = decode_interaction
) -> list[Record]:
    return [
        Record(m.partition(), m.offset(), m.key(), m.timestamp()[1], dict(m.headers() or []), decode(m.value()))
        for partition in range(partitions)
        for m in topic_messages(kafka, topic, partition)
    ]


def assert_each_once(records: list[Record], dataset: SortedDataset, partitions: int, selection: range | None = None) -> None:
    """Every selected interaction is there once, whole, in its partition and in order."""
    expected = list(dataset.interactions(selection))
    assert sorted((r.interaction for r in records), key=lambda i: i.sequence) == expected
    for partition in range(partitions):
        sequences = [r.interaction.sequence for r in records if r.partition == partition]
        assert sequences == sorted(sequences)
    assert all(r.partition == partition_of(r.interaction.user_id.encode(), partitions) for r in records)
