"""Losses, dimensions and weights summed by popularity: what Figures 6 and 7 are made of.

Shape legend: B interactions, N spaces, U buckets of popularity.
"""

from math import log

from autoemb_pipeline.kernels.compiling import kernel
from autoemb_pipeline.kernels.layout import Floats
from autoemb_pipeline.kernels.search import SMALLEST_WEIGHT


@kernel
def sum_by_popularity(counts: Floats, losses: Floats, weights: Floats, dims: Floats, sums: Floats, told: Floats) -> None:
    """Adds a mini-batch to the buckets 0, 1, 2-3, 4-7, …, and tells of its weights as a whole.

    Args:
        counts: [B] interactions of the id before.
        losses: [B].
        weights: [B, N] of the spaces, or [0, N] where there are none.
        dims: [N].
        sums: [3 + N, U] count, loss, effective dimension Σ α_n d_n, weights; in place.
        told: [N + 2] result: sums of the weights, of their entropies (nats), and of the effective dimensions.
    """
    spaces, last = weights.shape[1], sums.shape[1] - 1
    told[:] = 0.0
    for i in range(len(counts)):
        bucket, count = 0, counts[i]
        while count >= 1.0 and bucket < last:
            bucket += 1
            count *= 0.5
        sums[0, bucket] += 1.0
        sums[1, bucket] += losses[i]
        if len(weights) == 0:
            continue
        dimension, entropy = 0.0, 0.0
        for n in range(spaces):
            weight = weights[i, n]
            dimension += weight * dims[n]
            if weight > 0.0:
                entropy -= weight * log(max(weight, SMALLEST_WEIGHT))
            sums[3 + n, bucket] += weight
            told[n] += weight
        sums[2, bucket] += dimension
        told[spaces] += entropy
        told[spaces + 1] += dimension
