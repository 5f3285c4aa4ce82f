"""What happens to a run and its topics in these tests: killed without a checkpoint, records deleted, partitions added, files damaged."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import NewPartitions

from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.records import Interaction
from tests.run.conftest import Stream
from tests.source.topics import write


class Crash(Exception):  # noqa: N818  # not an error of the program
    """Ends a run in the middle, without a last checkpoint."""


def crash_after(rounds: int) -> Callable[[], bool]:
    left = iter(range(rounds))

    def stop() -> bool:
        if next(left, None) is None:
            raise Crash
        return False

    return stop


def delete_before(stream: Stream, offset: int, *, topic: str | None = None, partition: int = 0) -> None:
    """What retention does, at once, to the stream's topic or another. -1: everything."""
    where = TopicPartition(topic or stream.topic, partition, offset)
    admin = quiet_admin(stream.kafka)  # kept: a garbage-collected one cancels its futures
    admin.delete_records([where])[where].result(20)


def add_partition(stream: Stream, records: Sequence[Interaction]) -> None:
    """A second partition, with these records in it."""
    admin = quiet_admin(stream.kafka)
    admin.create_partitions([NewPartitions(stream.topic, 2)])[stream.topic].result(20)
    until_done(lambda: write(stream.kafka, stream.topic, records, lambda _: 1), KafkaException)


def until_done(operation: Callable[[], object], passing: type[Exception]) -> None:
    """Again until it works: the broker knows of changed topics a moment later."""
    deadline = time.monotonic() + 20
    while True:
        try:
            operation()
        except passing:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def damage(checkpoint: Path) -> None:
    """One bit of its tensors."""
    path = checkpoint / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
