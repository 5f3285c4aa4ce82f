"""Sends a sorted dataset to a topic: every interaction exactly once, in order, without a gap, also over crashes.

How: an idempotent producer that waits for ever rather than drop a record (``message.timeout.ms=0``), stops at the first delivery error, and
on resume goes on per partition behind that partition's own last record (`producers.resume`). Idempotence alone would not prevent gaps:
a record that times out is missing while later ones are accepted. Nor doubles: a broker that restarts forgets producers whose last record's
*time* is a day old, as event times are, and accepts a retried batch again. So a lost connection ends the producer, and a new one goes on
behind what the topic holds.

Record: key = user id, partition = Java's murmur2 of the key, value = the encoded interaction, one header with the dataset's fingerprint,
timestamp = event time. Event time 0 becomes record time 1 ms, because librdkafka takes 0 as "now"; the value keeps the 0, and order
is decided by the value alone.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from autoemb_pipeline.errors import DatasetError, TopicError
from autoemb_pipeline.producers.config import ReplayConfig
from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.progress import ReplayProgress, ReplayResult
from autoemb_pipeline.producers.resume import resume_points
from autoemb_pipeline.producers.sending import Sender
from autoemb_pipeline.producers.topic_reader import Decode, InteractionReader
from autoemb_pipeline.schemas.codec import decode_interaction
from autoemb_pipeline.schemas.columnar import HEADER


def replay(
    dataset: SortedDataset,
    config: ReplayConfig,
    *,
    kafka: Mapping[str, str],
    progress: Callable[[ReplayProgress], None] = lambda _progress: None,
    stop: Callable[[], bool] = lambda: False,
    header: bytes = HEADER,
    decode: Decode = decode_interaction,
) -> ReplayResult:
    """Sends what the topic lacks of the selected interactions, and proves afterwards that it holds each exactly once.

    Args:
        dataset: what to send.
        config: what of it, where to, how fast.
        kafka: librdkafka settings; those that guarantee order and completeness are ours.
        progress: called about ten times a second.
        stop: asked about as often; True flushes and returns.
        header: what every value begins with: that of Avro single-object encoding, or a schema registry's.
        decode: a value of the topic to its interaction.

    Raises:
        TopicError: no such topic, another number of partitions, or other contents than a beginning of this dataset.
        DeliveryError: the broker refused a record; everything before it in its partition was accepted, nothing behind it.
        BrokerError: no broker answers.
    """
    selection = dataset.select(limit=config.limit, from_ms=config.from_ms, until_ms=config.until_ms)
    if not selection and config.limit != 0:
        raise DatasetError(
            f"{dataset.name} has no interaction in the time asked for", why=_span(dataset), remedy="change --from and --until"
        )
    reader = InteractionReader(kafka, config.topic, decode)
    try:
        partitions = _partitions(reader, config)
        points = resume_points(reader, dataset, selection, partitions)
        sender = Sender(dataset, config, selection, partitions, points, kafka, header, reader)
        if not points.following:
            return sender.result("already-complete")
        if not sender.run(progress, stop):
            return sender.result("stopped")
        after = resume_points(reader, dataset, selection, partitions)
        if after.following:
            raise TopicError(
                f"topic {config.topic} does not hold all that was acknowledged",
                why=f"missing from sequence {min(after.following.values())} on: deleted meanwhile, or lost by the broker",
                remedy="check the topic's retention and the broker's log, then replay into another topic",
            )
        return sender.result("complete")
    finally:
        reader.close()


def _partitions(reader: InteractionReader, config: ReplayConfig) -> int:
    partitions = reader.partitions()
    if config.partitions is not None and partitions != config.partitions:
        raise TopicError(
            f"topic {config.topic} has {partitions} partitions, not {config.partitions}",
            why="the users of a topic cannot be moved to other partitions",
            remedy=f"give --partitions {partitions}, or another topic with --topic",
        )
    return partitions


def _span(dataset: SortedDataset) -> str:
    ends = (next(dataset.interactions(range(s, s + 1))).timestamp / 1000 for s in (0, dataset.length - 1))
    first, last = (datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") for seconds in ends)
    return f"it begins at {first} and ends at {last}"
