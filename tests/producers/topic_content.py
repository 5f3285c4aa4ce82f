"""Reads a topic whole, without the code under test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, TopicPartition

from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.partitioner import partition_of
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.codec import decode_interaction


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
    consumer = Consumer({**kafka, "group.id": "test", "enable.partition.eof": True, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    records, ended = [], set()
    while len(ended) < partitions:
        message = consumer.poll(60)
        assert message is not None, f"{len(records)} records, then nothing"
        if message.error() is not None:
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            ended.add(message.partition())
            continue
        records.append(
            Record(
                message.partition(),
                message.offset(),
                message.key(),
                message.timestamp()[1],
                dict(message.headers() or []),
                decode(message.value()),
            )
        )
    consumer.close()
    return records


def assert_each_once(records: list[Record], dataset: SortedDataset, partitions: int, selection: range | None = None) -> None:
    """Every selected interaction is there once, whole, in its partition and in order."""
    expected = list(dataset.interactions(selection))
    assert sorted((r.interaction for r in records), key=lambda i: i.sequence) == expected
    for partition in range(partitions):
        sequences = [r.interaction.sequence for r in records if r.partition == partition]
        assert sequences == sorted(sequences)
    assert all(r.partition == partition_of(r.interaction.user_id.encode(), partitions) for r in records)
