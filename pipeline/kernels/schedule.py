"""The order of operations of each context mode. A function of event times alone, never of labels.

What a prediction may know: `event` labels of earlier interactions; `batch` none of its own mini-batch; `strict` those of earlier
interactions with an earlier timestamp, over the bounds of mini-batches.
"""

from typing import Literal

import numpy as np

from autoemb_pipeline.kernels.compiling import kernel
from autoemb_pipeline.kernels.layout import LEARN, PREDICT, Bytes, Floats, Integers, Operations

ContextMode = Literal["batch", "event", "strict"]


def operations(times: Integers, mode: ContextMode, carried: int = 0) -> tuple[Operations, Integers]:
    """What to do with a mini-batch whose labels come with their records.

    Args:
        times: [B] event times; the first `carried` interactions were predicted in an earlier mini-batch and wait for their labels.
        mode: which labels a prediction may know.
        carried: how many wait; 0 but in `strict`.

    Returns:
        The operations, and the [m] interactions whose labels this mini-batch may not know yet: they are carried into the next one.
    """
    count = len(times)
    if mode == "event":
        kinds = np.tile(np.array([PREDICT, LEARN], dtype=np.int8), count)
        return Operations(kinds, np.repeat(np.arange(count), 2)), np.zeros(0, dtype=np.int64)
    if mode == "batch":
        kinds = np.repeat(np.array([PREDICT, LEARN], dtype=np.int8), count)
        return Operations(kinds, np.tile(np.arange(count), 2)), np.zeros(0, dtype=np.int64)
    kinds = np.empty(2 * count, dtype=np.int8)
    events = np.empty(2 * count, dtype=np.int64)
    waiting = np.empty(count, dtype=np.int64)
    done, left = _strict(times, carried, kinds, events, waiting)
    return Operations(kinds[:done].copy(), events[:done].copy()), waiting[:left].copy()


@kernel
def _strict(times: Integers, carried: int, kinds: Bytes, events: Integers, waiting: Integers) -> tuple[int, int]:
    """Labels wait in the order they came; before an event those of an earlier time are learnt, in that order."""
    done, left = 0, carried
    for k in range(carried):
        waiting[k] = k
    earliest = times[:carried].min() if carried else 0
    for i in range(carried, len(times)):
        if left and earliest < times[i]:
            kept = 0
            for k in range(left):
                if times[waiting[k]] < times[i]:
                    kinds[done], events[done] = LEARN, waiting[k]
                    done += 1
                else:
                    earliest = min(earliest, times[waiting[k]]) if kept else times[waiting[k]]
                    waiting[kept] = waiting[k]
                    kept += 1
            left = kept
        kinds[done], events[done] = PREDICT, i
        done += 1
        earliest = min(earliest, times[i]) if left else times[i]
        waiting[left] = i
        left += 1
    return done, left


@kernel
def earlier_in_batch(local: Integers) -> Floats:
    """[B] how often the same id stood earlier in the mini-batch. local: [B] numbers from 0 of the ids."""
    seen = np.zeros(local.max() + 1 if len(local) else 0, dtype=np.int64)
    earlier = np.empty(len(local), dtype=np.float64)
    for i in range(len(local)):
        earlier[i] = seen[local[i]]
        seen[local[i]] += 1
    return earlier
