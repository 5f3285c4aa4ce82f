"""Some records of topics, to look at: the newest of each partition."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from autoemb_pipeline.errors import TopicError
from autoemb_pipeline.kafka.errors import input_error
from autoemb_pipeline.kafka.reader import TopicReader

_PATIENCE = 10.0  # seconds


class Sampled(NamedTuple):
    """Records of one partition, in order: values, and times in Kafka (ms since the epoch)."""

    topic: str
    partition: int
    values: list[bytes | None]
    times: list[int]


def read_sample(kafka: Mapping[str, str], topics: Sequence[str], limit: int) -> list[Sampled]:
    """The newest records of each partition, at most so many in all, as far as they are evenly spread.

    Raises:
        TopicError: there is no such topic, or it holds no record.
        BrokerError: the broker does not answer.
    """
    samples: list[Sampled] = []
    for topic in topics:
        with _reader(kafka, topic) as reader:
            count = reader.partitions(_PATIENCE)
            if isinstance(count, str):
                where = kafka["bootstrap.servers"]
                raise TopicError(f"There is no topic {topic!r} at {where}", why=count, remedy="write some records to it first")
            share = max(1, limit // (count * len(topics)))
            samples += [_newest(reader, topic, partition, share) for partition in range(count)]
    if not any(sample.values for sample in samples):
        what = f"{', '.join(topics)}: no record to look at"
        raise TopicError(what, why="nothing was written yet", remedy="write some records, then try again")
    return samples


def _newest(reader: TopicReader, topic: str, partition: int, count: int) -> Sampled:
    low, high = reader.offsets(partition, timeout=_PATIENCE, patience=_PATIENCE)
    start = max(low, high - count)
    # Of a topic that is written to all the time the end comes late, if ever.
    records = [] if start >= high else [*islice(reader.read(partition, start, patience=_PATIENCE), count)]
    return Sampled(topic, partition, [record.value() for record in records], [record.timestamp()[1] for record in records])


def _reader(kafka: Mapping[str, str], topic: str) -> TopicReader:
    return TopicReader(
        kafka, topic, group="autoemb-sample", explain=lambda error: input_error(kafka["bootstrap.servers"], topic, error), skip_deleted=True
    )
