"""Kernels of the event-time merge: partitions merged by their heads, and what follows from the order.

A row's key is (time, rank of its dataset, sequence); ties go by partition, and within a partition rows stay in their order. Rows that are
no records have a time outside all event times: `AT_ONCE` sorts before every record, `LAST` after.
"""

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import helper, kernel

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

AT_ONCE = np.iinfo(np.int64).min
LAST = np.iinfo(np.int64).max
NO_CEILING = np.iinfo(np.int64).max


@helper
def _before(time: Integers, rank: Integers, sequence: Integers, one: int, other: int) -> int:
    """-1, 0 or 1 as one row's key lies before, at or behind the other's."""
    if time[one] != time[other]:
        return -1 if time[one] < time[other] else 1
    if rank[one] != rank[other]:
        return -1 if rank[one] < rank[other] else 1
    if sequence[one] != sequence[other]:
        return -1 if sequence[one] < sequence[other] else 1
    return 0


@helper
def _sink(heap: Integers, size: int, place: int, heads: Integers, time: Integers, rank: Integers, sequence: Integers) -> None:
    """Moves the lane at ``place`` of a heap of lanes down to where its head belongs."""
    lane = heap[place]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size:
            order = _before(time, rank, sequence, heads[heap[child + 1]], heads[heap[child]])
            if order < 0 or (order == 0 and heap[child + 1] < heap[child]):
                child += 1
        order = _before(time, rank, sequence, heads[lane], heads[heap[child]])
        if order < 0 or (order == 0 and lane < heap[child]):
            break
        heap[place] = heap[child]
        place = child
    heap[place] = lane


@kernel
def merge_by_heads(
    time: Integers,
    rank: Integers,
    sequence: Integers,
    end: Integers,
    bounds: Integers,
    ceilings: Integers,
    reached: Flags,
    ends_here: Flags,
    waiting: bool,
    dense: bool,
    newest: int,
    limit: int,
) -> tuple[Integers, Integers, int, bool, int]:
    """Releases rows in merged order, as far as it is known.

    The smallest head goes next. Once a head is missing that must be waited for, only that may go which comes next whatever the missing one
    is: rows `AT_ONCE`, and, where the sequence rule holds, the sequence after the newest.

    Args:
        time, rank, sequence: [n] keys, lane behind lane; a lane is a partition's rows, lanes ascend by partition. sequence: -1 for none.
        end: [n] the offset where the partition stands once the row is released.
        bounds: [L + 1] lane l's rows are bounds[l] to bounds[l + 1]. A lane may be cut short at ``limit + 1`` rows, no shorter.
        ceilings: [L] the greatest ``end`` that may be released; `NO_CEILING` for none.
        reached: [L] the lane stands at its ceiling already.
        ends_here: [L] behind its rows the lane is not waited for: it is frozen.
        waiting: whether a head is missing, and waited for, from the start.
        dense: whether the sequence rule holds.
        newest: the sequence released last before; -1 for none.
        limit: most rows released.

    Returns:
        order: [r] the rows released.
        taken: [L] how many of each lane.
        newest, waiting: as above, after them.
        divided: the lane that has no row ending at its ceiling; -1 for none.
    """
    lanes = len(bounds) - 1
    heads = bounds[:-1].copy()
    heap = np.empty(lanes, np.int64)
    order = np.empty(min(limit, len(time)), np.int64)
    size, count = 0, 0
    for lane in range(lanes):
        if heads[lane] < bounds[lane + 1] and not reached[lane]:
            if end[heads[lane]] > ceilings[lane]:
                return order[:0], heads - bounds[:-1], newest, waiting, lane
            heap[size] = lane
            size += 1
    for place in range(size // 2 - 1, -1, -1):
        _sink(heap, size, place, heads, time, rank, sequence)
    while size > 0 and count < limit:
        lane = heap[0]
        row = heads[lane]
        if waiting and time[row] != AT_ONCE:
            if time[row] == LAST or not dense or newest < 0 or sequence[row] != newest + 1:
                break
        order[count] = row
        count += 1
        if sequence[row] >= 0:
            newest = sequence[row]
        heads[lane] += 1
        at_ceiling = end[row] >= ceilings[lane]
        if heads[lane] < bounds[lane + 1] and not at_ceiling:
            if end[heads[lane]] > ceilings[lane]:
                return order[:count], heads - bounds[:-1], newest, waiting, lane
        else:
            if not at_ceiling and not ends_here[lane]:
                waiting = True
            size -= 1
            heap[0] = heap[size]
        if size > 0:
            _sink(heap, size, 0, heads, time, rank, sequence)
    return order[:count], heads - bounds[:-1], newest, waiting, -1


@kernel
def ascends(time: Integers, rank: Integers, sequence: Integers, partition: Integers) -> bool:
    """Whether every row's key, with its partition, lies behind or at the one before it."""
    for row in range(1, len(time)):
        order = _before(time, rank, sequence, row - 1, row)
        if order > 0 or (order == 0 and partition[row - 1] > partition[row]):
            return False
    return True


@kernel
def count_late(
    time: Integers, rank: Integers, sequence: Integers, frontier_time: int, frontier_rank: int, frontier_sequence: int
) -> tuple[int, int]:
    """(rows whose key lies below the greatest before them, the row with the greatest key or -1 where it is the frontier's)."""
    late, greatest = 0, -1
    for row in range(len(time)):
        if time[row] != frontier_time:
            below = time[row] < frontier_time
        elif rank[row] != frontier_rank:
            below = rank[row] < frontier_rank
        else:
            below = sequence[row] < frontier_sequence
        if below:
            late += 1
        else:
            frontier_time, frontier_rank, frontier_sequence = time[row], rank[row], sequence[row]
            greatest = row
    return late, greatest


@kernel
def ascending_runs(dataset: Integers, sequence: Integers, highest: Integers) -> tuple[Integers, Integers, Flags]:
    """Cuts rows into runs of one dataset whose sequences ascend above all before, and single rows that do not.

    Args:
        dataset, sequence: [n] the dataset's number and the position in it; a row with -1 in either is in no run.
        highest: [D] highest sequence of each dataset before; -1 for none. Changed.

    Returns:
        starts, stops: [r] rows of each run. A row without a dataset or a sequence inside a run ends it.
        above: [r] whether the run ascends; where not it is one row.
    """
    starts, stops = np.empty(len(dataset), np.int64), np.empty(len(dataset), np.int64)
    above = np.empty(len(dataset), np.bool_)
    runs = 0
    open_ = False
    for row in range(len(dataset)):
        code = dataset[row]
        if code < 0 or sequence[row] < 0:
            open_ = False
            continue
        higher = sequence[row] > highest[code]
        if higher:
            highest[code] = sequence[row]
            if open_ and dataset[row - 1] == code:
                stops[runs - 1] = row + 1
                continue
        starts[runs], stops[runs], above[runs] = row, row + 1, higher
        open_ = higher
        runs += 1
    return starts[:runs], stops[:runs], above[:runs]
