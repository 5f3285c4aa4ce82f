"""Records as objects, one at a time: what the oracles take and give, and the way from and to columns."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from autoemb_pipeline.columns import RECORD, TRAILING, Block, Released, Unusable, concat
from autoemb_pipeline.records import DeadLetter, Interaction
from autoemb_pipeline.source import MergedSource

MergeKey = tuple[int, str, int, int, int]


class ConsumedRecord(NamedTuple):
    """A decoded interaction at its place in the topic, with the unusable records that stood directly before it in its partition.

    ``duplicates`` counts skipped re-deliveries, ``dead_letters`` holds undecodable records, both since the previous usable record.
    """

    interaction: Interaction
    partition: int
    offset: int
    duplicates: int = 0
    dead_letters: tuple[DeadLetter, ...] = ()

    @property
    def merge_key(self) -> MergeKey:
        """(timestamp, dataset, sequence, partition, offset): the total order of the stream (docs/architecture.md, invariant 4)."""
        i = self.interaction
        return (i.timestamp, i.dataset or "", -1 if i.sequence is None else i.sequence, self.partition, self.offset)


class Remainder(NamedTuple):
    """Unusable records of a partition that no usable record carries: they advance the partition and hold nothing to train on.

    ``next_offset`` is the offset after the last of them. ``trailing``: at a partition's frozen end (`--until-end`), after all else.
    """

    partition: int
    next_offset: int
    duplicates: int = 0
    dead_letters: tuple[DeadLetter, ...] = ()
    trailing: bool = False


Item = ConsumedRecord | Remainder


def block_of_records(records: Sequence[ConsumedRecord]) -> Block:
    """The block of records of any partitions; what they carry is not in it."""
    block = Block.of([record.interaction for record in records], 0, [record.offset for record in records])
    return replace(block, partition=np.array([record.partition for record in records], np.int64))


def block_of(items: Iterable[Item], partition: int) -> tuple[Block, dict[int, Unusable]]:
    """The items as rows of a partition, and what lies beside them."""
    rows, beside = [Block.of([])], {}
    for item in items:
        if isinstance(item, ConsumedRecord):
            rows.append(block_of_records([item]))
            offset = item.offset
        else:
            rows.append(Block.unusable(partition, item.next_offset, trailing=item.trailing))
            offset = item.next_offset - 1
        if item.duplicates or item.dead_letters:
            beside[offset] = Unusable(item.duplicates, item.dead_letters)
    return concat(rows), beside


def released_of(items: Iterable[Item]) -> Released:
    """The items as a source hands them out."""
    rows, beside = [Block.of([])], {}
    for item in items:
        block, by_offset = block_of([item], item.partition)
        rows.append(block)
        beside.update({(item.partition, offset): unusable for offset, unusable in by_offset.items()})
    return Released(concat(rows), beside)


def items_of(released: Released) -> list[Item]:
    """The rows as items."""
    block = released.block
    items: list[Item] = []
    places = zip(block.partition.tolist(), block.offset.tolist(), block.kind.tolist(), strict=True)
    for row, (partition, offset, kind) in enumerate(places):
        duplicates, letters, _ = released.beside.get((partition, offset), Unusable())
        if kind == RECORD:
            items.append(ConsumedRecord(block[row : row + 1].interactions()[0], partition, offset, duplicates, letters))
        else:
            items.append(Remainder(partition, offset + 1, duplicates, letters, kind == TRAILING))
    assert set(released.beside) <= {(p, o) for p, o in zip(block.partition.tolist(), block.offset.tolist(), strict=True)}
    return items


def poll(source: MergedSource, timeout: float) -> Item | None:
    """The next item; None when none could be released within `timeout` seconds."""
    items = items_of(source.poll_many(1, timeout))
    return items[0] if items else None
