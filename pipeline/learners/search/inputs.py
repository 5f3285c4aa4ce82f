"""What the controllers see of an id: its popularity and context (paper, section 2.3).

The paper gives 38 inputs, and names popularity, previous weights and loss. The encoding is this project's.

Shape legend: B interactions, N spaces, K = 35 + N controller inputs.
"""

import math

import numpy as np

from autoemb_pipeline.kernels.search import FIXED_INPUTS, LARGEST_RELATIVE_LOSS
from autoemb_pipeline.kernels.search import THRESHOLDS as POPULARITY_THRESHOLDS
from autoemb_pipeline.records import FloatArray, SideContext


def controller_width(spaces: int) -> int:
    """Number of inputs: 32 popularity bits, log popularity, N previous weights, two losses; 38 for three spaces."""
    return FIXED_INPUTS + spaces


def _relative(loss_B: FloatArray, global_loss: float) -> FloatArray:
    """A loss on the scale of the run's fading loss, in [0, 4]; 1 where either is unknown."""
    scale = global_loss if global_loss > 0 else math.nan
    relative = np.clip(loss_B / scale, 0.0, LARGEST_RELATIVE_LOSS)
    return np.where(np.isnan(relative), 1.0, relative)


def popularity(counts: FloatArray) -> FloatArray:
    """[B, 33] 32 bits [n ≥ c_k] of the count n, and log n / log c_32 (0 for n = 0). counts: [B]."""
    bits = (counts[:, None] >= POPULARITY_THRESHOLDS).astype(np.float64)
    logarithm = np.log(np.maximum(counts, 1.0)) / math.log(POPULARITY_THRESHOLDS[-1])
    return np.concatenate([bits, logarithm[:, None]], axis=1)


def controller_inputs(side: SideContext, global_loss: float) -> FloatArray:
    """The controllers' inputs, [B, 35 + N] float64; 38 columns for three spaces.

    Columns: the `popularity`; the N previous weights; the previous loss divided by the
    global fading loss; the id's fading loss on the same scale. Both losses are clipped to [0, 4], and 1 for a new id.
    """
    previous = _relative(side.previous_loss, global_loss)[:, None]
    fading = _relative(side.fading_loss, global_loss)[:, None]
    return np.concatenate([popularity(side.count), side.previous_weights, previous, fading], axis=1)
