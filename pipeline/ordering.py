"""The order of a mini-batch in columns: the k-way merge by head of its partitions' slices, and the late records in it.

The merge by heads equals a sort by the running maximum of the key over the partition's rows in this mini-batch, then partition, then place.
The maximum begins anew with every mini-batch. It is a function of the slices alone (docs/architecture.md, invariant 4).
"""

from bisect import bisect_left

import numpy as np

from autoemb_pipeline.columns import ABSENT, Block
from autoemb_pipeline.kernels.order import NO_CEILING, ascends, count_late, merge_by_heads

Triple = tuple[int, str, int]  # (timestamp, dataset, sequence)


def canonical(block: Block) -> Block:
    """A mini-batch's records in canonical order, given in any order that keeps each partition's own."""
    rank = block.rank
    if ascends(block.time, rank, block.sequence, block.partition):
        return block
    grouped = np.argsort(block.partition, kind="stable")
    partition = block.partition[grouped]
    cuts = np.flatnonzero(partition[1:] != partition[:-1]) + 1
    bounds = np.concatenate([[0], cuts, [len(block)]]).astype(np.int64)
    lanes = len(bounds) - 1
    no, yes = np.zeros(lanes, np.bool_), np.ones(lanes, np.bool_)
    ceilings = np.full(lanes, NO_CEILING, np.int64)
    order, *_ = merge_by_heads(
        block.time[grouped], rank[grouped], block.sequence[grouped], grouped, bounds, ceilings, no, yes, False, False, -1, len(block)
    )
    return block.take(grouped[order])


def late(block: Block, frontier: Triple | None) -> tuple[int, Triple | None]:
    """How many records of a mini-batch in canonical order lie below the greatest one before them, and the greatest of all.

    Args:
        block: the mini-batch.
        frontier: the greatest (timestamp, dataset, sequence) of all mini-batches before; None before the first.
    """
    if len(block) == 0:
        return 0, frontier
    time, name, sequence = frontier or (np.iinfo(np.int64).min, "", 0)
    place = bisect_left(block.datasets, name)
    known = block.datasets[place : place + 1] == (name,)
    rank = 2 * place if known else 2 * place - 1 if name else ABSENT
    count, row = count_late(block.time, block.rank, block.sequence, time, rank, sequence)
    if row < 0:
        return count, frontier
    code = int(block.dataset[row])
    return count, (int(block.time[row]), "" if code < 0 else block.datasets[code], int(block.sequence[row]))
