"""What the controllers see of an id: its popularity and context (paper, section 2.3).

The paper gives 38 inputs, and names popularity, previous weights and loss. The encoding is this project's.

Shape legend: B interactions, N spaces, K = 35 + N controller inputs.
"""

import itertools
import math

import numpy as np

from autoemb_pipeline.records import FloatArray, SideContext

POPULARITY_BITS = 32
LARGEST_RELATIVE_LOSS = 4.0


def _thresholds() -> FloatArray:
    """The 32 smallest distinct values of round(2^(j/2)): 1, 2, 3, 4, 6, 8, 11, 16, …, 65536."""
    distinct: list[int] = []
    for j in itertools.count():
        value = round(2.0 ** (j / 2))
        if not distinct or value > distinct[-1]:
            distinct.append(value)
        if len(distinct) == POPULARITY_BITS:
            return np.array(distinct, dtype=np.float64)
    raise AssertionError  # pragma: no cover


POPULARITY_THRESHOLDS = _thresholds()


def controller_width(spaces: int) -> int:
    """Number of inputs: 32 popularity bits, log popularity, N previous weights, two losses; 38 for three spaces."""
    return POPULARITY_BITS + 1 + spaces + 2


def _relative(loss_B: FloatArray, global_loss: float) -> FloatArray:
    """A loss on the scale of the run's fading loss, in [0, 4]; 1 where either is unknown."""
    scale = global_loss if global_loss > 0 else math.nan
    relative = np.clip(loss_B / scale, 0.0, LARGEST_RELATIVE_LOSS)
    return np.where(np.isnan(relative), 1.0, relative)


def controller_inputs(side: SideContext, global_loss: float) -> FloatArray:
    """The controllers' inputs, [B, 35 + N] float64; 38 columns for three spaces.

    Columns: 32 bits [n ≥ c_k] of the count n; log n / log c_32 (0 for n = 0); the N previous weights; the previous loss divided by the
    global fading loss; the id's fading loss on the same scale. Both losses are clipped to [0, 4], and 1 for a new id.
    """
    count_B1 = side.count[:, None]
    bits = (count_B1 >= POPULARITY_THRESHOLDS[None, :]).astype(np.float64)
    logarithm = np.log(np.maximum(count_B1, 1.0)) / math.log(POPULARITY_THRESHOLDS[-1])
    previous = _relative(side.previous_loss, global_loss)[:, None]
    fading = _relative(side.fading_loss, global_loss)[:, None]
    return np.concatenate([bits, logarithm, side.previous_weights, previous, fading], axis=1)
