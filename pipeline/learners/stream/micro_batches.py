"""In which order the rows of a mini-batch are predicted and updated: the micro-batches.

A pure function of ids, timestamps and the context mode, never of labels. What a prediction may know (docs/architecture.md, Honesty):
`event` labels of earlier interactions; `strict` of earlier interactions with an earlier timestamp; `batch` none of this mini-batch.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.records import ContextMode

Positions = NDArray[np.int64]


def micro_batches(
    user_ids: Sequence[str], item_ids: Sequence[str], timestamps: Sequence[int], *, mode: ContextMode, size: int
) -> list[Positions]:
    """The mini-batch's positions, cut into parts that are predicted and then learnt in turn.

    Every part is predicted before it is learnt. With size 1 in `event` mode a part is a wave: interactions none of whose
    ids occurred between them and the previous waves, so that each is predicted from rows that learnt all earlier interactions of
    its user and its item and no later one; that is the same as one by one, in fewer parts. Otherwise a part is a run of consecutive
    interactions, at least `size` of them but for the last, in `strict` extended
    until everything after has a later timestamp than everything before.

    Args:
        user_ids, item_ids, timestamps: of the mini-batch's B interactions, in merged order.
        mode: which labels a prediction may know.
        size: of a micro-batch, at least 1.
    """
    count = len(user_ids)
    if mode == "batch":
        return [np.arange(count)]
    if mode == "event" and size == 1:
        return _waves(user_ids, item_ids)
    times = np.asarray(timestamps, dtype=np.int64)
    latest_before = np.maximum.accumulate(times)
    earliest_after = np.minimum.accumulate(times[::-1])[::-1]
    bounds = [0]
    for position in range(1, count):
        if position - bounds[-1] >= size and (mode == "event" or earliest_after[position] > latest_before[position - 1]):
            bounds.append(position)
    bounds.append(count)
    return [np.arange(start, end) for start, end in pairwise(bounds)]


def _waves(user_ids: Sequence[str], item_ids: Sequence[str]) -> list[Positions]:
    """Wave of an interaction: one more than the latest wave that holds its user or its item."""
    user_wave: dict[str, int] = {}
    item_wave: dict[str, int] = {}
    waves: list[list[int]] = []
    for position, (user, item) in enumerate(zip(user_ids, item_ids, strict=True)):
        wave = max(user_wave.get(user, 0), item_wave.get(item, 0))
        user_wave[user] = item_wave[item] = wave + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(position)
    return [np.array(wave, dtype=np.int64) for wave in waves]
