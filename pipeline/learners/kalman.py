"""How embedding rows learn in the stream preset: extended Kalman steps with one variance per row and block.

A row is a Gaussian belief: a mean (the embedding) and a variance per block, diagonal and equal within the block. An interaction observes
the logit s = offset + b_u + b_i + Σ_j g_j ⟨p_j, q_j⟩ with precision h = p(1-p). Linearised in both rows, the innovation's variance is
S = 1/h + v_bu + v_bi + Σ_j g_j² (V_pj |q_j|² + V_qj |p_j|²), and the step is p_j += V_pj g_j q_j (y-p)/(h S), likewise q, b_u, b_i.
So a row's rate is large while little is known of it and falls with what it has learnt. The block's variance falls by
V_pj² g_j² |q_j|² / (S · min(d_j, r)): spread over the r directions that carry signal, not over all d_j.

Interactions learnt together (a micro-batch) count each row's occurrences m in S, so that m observations through one row cannot
overshoot as m separate full steps would. m = 1 is the plain step.

Shape legend: m interactions of a part, n rows, N blocks, D numbers of a row.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.models.nested import Blocks
from pipeline.records import FloatArray

SMALLEST_CURVATURE = 0.02  # of h: a confident mistake must not move a row without bound

Index = NDArray[np.int64]


@dataclass(kw_only=True, slots=True)
class Beliefs:
    """One side's rows of a mini-batch, changed in place.

    Attributes:
        means: [n, D] embeddings.
        variances: [n, N] per block.
        bias, bias_variance: [n].
        largest: [N] variance of a new row; drift never lifts a variance above it.
        held: [n, N] the blocks that an id has; the others' means are zero.
    """

    means: FloatArray
    variances: FloatArray
    bias: FloatArray
    bias_variance: FloatArray
    largest: FloatArray
    held: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class KalmanConfig:
    """Attributes.

    blocks: of a row.
    rank: r, directions over which a block's variance falls.
    drift: added to a row's variances per occurrence, so that old rows never stop learning.
    """

    blocks: Blocks
    rank: float
    drift: float


def products(users: Beliefs, items: Beliefs, user: Index, item: Index, blocks: Blocks) -> FloatArray:
    """⟨p_j, q_j⟩ per block: [m, N]."""
    return blocks.sums(users.means[user] * items.means[item])


def learn(
    config: KalmanConfig,
    users: Beliefs,
    items: Beliefs,
    user: Index,
    item: Index,
    gates: FloatArray,
    error: FloatArray,
    curvature: FloatArray,
) -> None:
    """Updates the rows of a part.

    Args:
        config: of the steps.
        users, items: beliefs, changed in place.
        user, item: [m] rows of each interaction.
        gates: [m, N] g_j, what each block's product is multiplied by in the logit.
        error: [m] ∂L/∂s, prediction minus label.
        curvature: [m] h.
    """
    blocks, squared = config.blocks, gates * gates
    parts = [_Part.of(side, index) for side, index in ((users, user), (items, item))]
    for part in parts:
        rows = part.rows
        part.side.variances[rows] = np.minimum(part.side.variances[rows] + config.drift, part.side.largest)
    means = [part.side.means[part.index] for part in parts]
    variances = [part.side.variances[part.index] for part in parts]
    # the squared slope of s in each side's block is the other side's squared length there
    seen = [squared * blocks.sums(other * other) for other in reversed(means)]
    h = np.maximum(curvature, SMALLEST_CURVATURE)
    innovation = 1.0 / h
    for part, variance, square in zip(parts, variances, seen, strict=True):
        innovation += part.occurrences * (part.side.bias_variance[part.index] + (variance * square).sum(axis=1))
    step = -error / (h * innovation)
    wide_gates = blocks.spread(gates)
    directions = np.minimum(blocks.sizes, config.rank)
    for part, variance, square, other in zip(parts, variances, seen, reversed(means), strict=True):
        bias_variance = part.side.bias_variance[part.index]
        part.add(part.side.means, blocks.spread(variance) * wide_gates * other * step[:, None])
        part.add(part.side.variances, -variance * variance * square / (innovation[:, None] * directions))
        part.add(part.side.bias, bias_variance * step)
        part.add(part.side.bias_variance, -bias_variance * bias_variance / innovation)


@dataclass(frozen=True, slots=True)
class _Part:
    """One side's rows of a part: `rows` distinct, `index` per interaction, how often each interaction's row occurs."""

    side: Beliefs
    index: Index
    rows: Index
    occurrences: FloatArray

    @classmethod
    def of(cls, side: Beliefs, index: Index) -> Self:
        if len(set(index.tolist())) == len(index):  # a wave; many are small, and np.unique is slow on those
            return cls(side, index, index, np.ones(len(index)))
        rows, inverse, counts = np.unique(index, return_inverse=True, return_counts=True)
        return cls(side, index, rows, counts[inverse].astype(np.float64))

    def add(self, target: FloatArray, change: FloatArray) -> None:
        """Adds each interaction's change to its row, in the interactions' order."""
        if len(self.rows) == len(self.index):
            target[self.index] += change
        else:
            np.add.at(target, self.index, change)
