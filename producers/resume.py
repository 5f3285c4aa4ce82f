"""Where each partition of a topic has to go on, and the proof that what it holds is a gapless beginning of the dataset.

A topic written by replay holds, in every partition, exactly the dataset's rows of that partition from some first sequence on, each once
and in order. `resume_points` makes sure of this before anything is added, or refuses. It looks at each partition's first record and its
last few: they must be the right rows of this very dataset (a header names its fingerprint), in order, and their offsets must lie as far
apart as the dataset has rows between them. Only where the offsets do not fit (transaction markers, or a fault) is the whole partition
read. What this cannot see: a record compacted away from the middle, since compaction keeps offsets; `ops.topics` refuses such topics.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from autoemb_pipeline.columns import Block, Integers
from autoemb_pipeline.errors import TopicError
from autoemb_pipeline.kernels.texts import partitions_of
from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.partitioner import Partitioner
from autoemb_pipeline.producers.topic_reader import OTHER_TOPIC, Ends, Stored, TopicView

# an appended batch of a process killed a moment ago, or another replay at work, shows within this time
_QUIET_SECONDS: Final = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumePoints:
    """Where a replay goes on.

    Attributes:
        last: partition -> sequence of its last record; partitions without records are absent.
        following: partition -> the next sequence to send to it; partitions with nothing left are absent.
        present: how many of the selected interactions the topic holds.
    """

    last: Mapping[int, int]
    following: Mapping[int, int]
    present: int


def resume_points(reader: TopicView, dataset: SortedDataset, selection: range, partitions: int) -> ResumePoints:
    """Where each partition goes on with the selected sequences.

    Args:
        reader: of the topic.
        dataset: what is replayed.
        selection: the sequences asked for.
        partitions: the topic's number of partitions.

    Raises:
        TopicError: the topic holds something else than a gapless beginning of this dataset's rows, or another writer is at work.
        BrokerError: the broker does not answer.
    """
    before = reader.high_watermarks(partitions)
    ends = {p: e for p in range(partitions) if (e := reader.ends(p)) is not None}
    if ends:
        time.sleep(_QUIET_SECONDS)
        if reader.high_watermarks(partitions) != before:
            raise TopicError(
                "something else is writing to the topic",
                why="its end moved while it was being looked at",
                remedy="stop the other replay, or use another topic with --topic",
            )
    if not ends:
        return ResumePoints(last={}, following=dict.fromkeys(range(partitions), selection.start) if selection else {}, present=0)
    partitioner = Partitioner(partitions)
    for looked_at in ends.values():
        _refuse_foreign(looked_at.first, dataset, partitioner)
        _refuse_foreign(looked_at.last, dataset, partitioner)
    begin = min([selection.start, *(_sequence(e.first) for e in ends.values())])
    end = max([selection.stop, *(_sequence(e.last) + 1 for e in ends.values())])
    table = _partition_table(dataset, range(begin, end), selection, partitions, {p: _sequence(e.last) for p, e in ends.items()})
    for partition, looked_at in ends.items():
        _refuse_gaps(reader, dataset, looked_at, table[partition], partitioner)
    for partition, row in table.items():
        if row.following is not None and row.following < selection.start:
            raise TopicError(
                f"partition {partition} stands at sequence {row.following}, before the first one asked for ({selection.start})",
                why="an earlier replay with an earlier beginning was not finished, so this one would leave a gap",
                remedy="finish that replay first (the same command with its --from or without one), or use another topic with --topic",
            )
    return ResumePoints(
        last={p: _sequence(e.last) for p, e in ends.items()},
        following={p: row.following for p, row in table.items() if row.following is not None and row.following < selection.stop},
        present=sum(row.present for row in table.values()),
    )


def unsent(dataset: SortedDataset, selection: range, points: ResumePoints, partitions: int) -> Iterator[tuple[Integers, Block]]:
    """The selected interactions that the topic lacks, in order of their sequences, and the partition of each."""
    if not points.following:
        return
    last = np.array([points.last.get(partition, -1) for partition in range(partitions)], np.int64)
    for block in dataset.blocks(range(min(points.following.values()), selection.stop)):
        home = partitions_of(block.user_ids.data, block.user_ids.bounds, partitions)
        lacking = block.sequence > last[home]
        yield home[lacking], block.only(lacking)


class _Row(NamedTuple):
    """A partition's rows in the dataset: the first one, how many up to its last record, the next one, how many selected are present."""

    first: int | None = None
    written: int = 0
    following: int | None = None
    present: int = 0


def _partition_table(
    dataset: SortedDataset, sequences: range, selection: range, partitions: int, last: Mapping[int, int]
) -> dict[int, _Row]:
    """What the dataset has for each partition within ``sequences``: one streaming pass."""
    partitioner = Partitioner(partitions)
    dataset_rows = dataset.scan().slice(sequences.start, len(sequences)).select("sequence", "user_id")
    users = dataset_rows.select("user_id").unique().collect(engine="streaming").get_column("user_id")
    homes = pl.DataFrame(
        {"user_id": users, "partition": pl.Series([partitioner(u) for u in users.to_list()], dtype=pl.Int32)},
        schema_overrides={"user_id": pl.String},
    ).lazy()
    stands = pl.LazyFrame(
        {"partition": list(range(partitions)), "last": [last.get(p, -1) for p in range(partitions)]},
        schema={"partition": pl.Int32, "last": pl.Int64},
    )
    sequence = pl.col("sequence").cast(pl.Int64)
    done = sequence <= pl.col("last")
    rows = (
        dataset_rows.join(homes, on="user_id")
        .join(stands, on="partition")
        .group_by("partition")
        .agg(
            sequence.min().alias("first"),
            done.sum().alias("written"),
            sequence.filter(~done).min().alias("following"),
            (done & sequence.is_between(selection.start, selection.stop, closed="left")).sum().alias("present"),
        )
        .collect(engine="streaming")
    )
    table = {p: _Row() for p in range(partitions)}
    table.update({row["partition"]: _Row(row["first"], row["written"], row["following"], row["present"]) for row in rows.to_dicts()})
    return table


def _sequence(stored: Stored) -> int:
    """Its sequence; `_refuse_foreign` has seen that there is one."""
    sequence = stored.interaction.sequence
    return -1 if sequence is None else sequence


def _refuse_foreign(stored: Stored, dataset: SortedDataset, partitioner: Partitioner) -> None:
    """Raises TopicError unless this record is this dataset's row of its sequence, in the right partition."""
    where = f"partition {stored.partition}, offset {stored.offset}"
    interaction = stored.interaction
    if interaction.dataset is None or interaction.sequence is None or not stored.fingerprint:
        raise TopicError(f"the record in {where} was not written by replay", why="it names no dataset or sequence", remedy=OTHER_TOPIC)
    if interaction.dataset != dataset.name or stored.fingerprint != dataset.fingerprint:
        same_data = stored.fingerprint == dataset.fingerprint
        raise TopicError(
            f"the topic was written from {interaction.dataset}, not from {dataset.name}"
            if not same_data
            else f"the topic was written from the same data under the name {interaction.dataset}, not {dataset.name}",
            why=f"the record in {where} has the fingerprint {stored.fingerprint}; this dataset's is {dataset.fingerprint}",
            remedy=OTHER_TOPIC,
        )
    expected = next(dataset.interactions(range(interaction.sequence, interaction.sequence + 1)), None)
    if interaction != expected:
        raise TopicError(
            f"the record in {where} is not the dataset's interaction {interaction.sequence}",
            why=f"the topic has {interaction[:4]}, the dataset {expected and expected[:4]}",
            remedy=OTHER_TOPIC,
        )
    if partitioner(interaction.user_id) != stored.partition:
        raise TopicError(
            f"user {interaction.user_id} is in {where}, and belongs to partition {partitioner(interaction.user_id)}",
            why="the topic was written with another number of partitions, or another partitioner",
            remedy=OTHER_TOPIC,
        )


def _refuse_gaps(reader: TopicView, dataset: SortedDataset, end: Ends, row: _Row, partitioner: Partitioner) -> None:
    """Raises TopicError unless the partition holds each of its rows from the first to the last record exactly once, in order."""
    partition, first = end.first.partition, _sequence(end.first)
    if first != row.first:
        raise TopicError(
            f"partition {partition} begins with sequence {first}; asked for is a replay whose first one there is {row.first}",
            why="its earliest records were deleted" if end.deleted else "it was begun at a later position (--from)",
            remedy="use another topic with --topic, or the same --from as before",
        )
    count, previous = _count_in_order(end.tail, dataset, partitioner)
    if end.last.offset - end.first.offset + 1 == row.written:
        return
    count, previous = _count_in_order(reader.records(partition, end.first.offset), dataset, partitioner)
    if count != row.written:
        raise TopicError(
            f"partition {partition} holds {count} of the {row.written} interactions up to sequence {previous}",
            why="records are missing in the middle: deleted, compacted, or lost",
            remedy=OTHER_TOPIC,
        )


def _count_in_order(records: Iterable[Stored], dataset: SortedDataset, partitioner: Partitioner) -> tuple[int, int]:
    """How many records, and the last one's sequence. Raises TopicError unless they are of this dataset, in ascending order."""
    count, previous = 0, -1
    for stored in records:
        if stored.interaction.dataset != dataset.name or stored.fingerprint != dataset.fingerprint:
            _refuse_foreign(stored, dataset, partitioner)
        if _sequence(stored) <= previous:
            raise TopicError(
                f"sequence {_sequence(stored)} follows {previous} in partition {stored.partition}, offset {stored.offset}",
                why="the same interactions were written more than once, or out of order",
                remedy=OTHER_TOPIC,
            )
        count, previous = count + 1, _sequence(stored)
    return count, previous
