"""The oracle of a mini-batch's order and late records, one object per record."""

from collections.abc import Mapping, Sequence
from heapq import merge as heap_merge
from itertools import pairwise

from autoemb_pipeline.ordering import Triple
from tests.source.oracle.items import ConsumedRecord


def canonical(records: Sequence[ConsumedRecord]) -> tuple[Sequence[ConsumedRecord], Sequence[Triple]]:
    """The records in the k-way merge by head of their partitions' slices, and each one's (timestamp, dataset, sequence)."""
    keys = [record.merge_key for record in records]
    if all(a < b for a, b in pairwise(keys)):
        return records, [key[:3] for key in keys]
    ordered = list(heap_merge(*_slices(records).values(), key=lambda record: record.merge_key))
    return ordered, [record.merge_key[:3] for record in ordered]


def _slices(records: Sequence[ConsumedRecord]) -> Mapping[int, Sequence[ConsumedRecord]]:
    """Partition -> its records, in offset order."""
    slices: dict[int, list[ConsumedRecord]] = {}
    for record in records:
        slices.setdefault(record.partition, []).append(record)
    return slices


def late(triples: Sequence[Triple], frontier: Triple | None) -> tuple[int, Triple | None]:
    """How many lie below the greatest one before them, and the greatest of all."""
    late = 0
    for triple in triples:
        if frontier is None or triple >= frontier:
            frontier = triple
        else:
            late += 1
    return late, frontier
