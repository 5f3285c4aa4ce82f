"""How embedding rows learn in the stream preset: extended Kalman steps with one variance per row and block.

A row is a Gaussian belief: a mean (the embedding) and a variance per block, diagonal and equal within the block. An interaction observes
the logit s = offset + b_u + b_i + Σ_j g_j ⟨p_j, q_j⟩ with precision h = p(1-p). Linearised in both rows, the innovation's variance is
S = 1/h + v_bu + v_bi + Σ_j g_j² (V_pj |q_j|² + V_qj |p_j|²), and the step is p_j += V_pj g_j q_j (y-p)/(h S), likewise q, b_u, b_i.
So a row's rate is large while little is known of it and falls with what it has learnt. The block's variance falls by
V_pj² g_j² |q_j|² / (S · min(d_j, r)): spread over the r directions that carry signal, not over all d_j.

A bias is a block of one number whose partner is the constant 1, so it learns by the same formulas, without drift. Both sides' rows
lie in one array: a wave holds one or two interactions, and the calls cost more than the arithmetic.

Interactions learnt together (a micro-batch) count each row's occurrences m in S, so that m observations through one row cannot
overshoot as m separate full steps would. m = 1 is the plain step.

Shape legend: m interactions of a part, n rows, N blocks, D numbers of a row.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.records import FloatArray

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


@dataclass(frozen=True, kw_only=True)
class KalmanConfig:
    """Attributes.

    blocks: of a row.
    rank: r, directions over which a block's variance falls.
    drift: added to the variance of a row's block per occurrence that uses it, so that old rows never stop learning.
    """

    blocks: Blocks
    rank: float
    drift: float

    @cached_property
    def with_bias(self) -> Blocks:
        """The blocks, and the bias as one more of one number."""
        return Blocks(dims=(*self.blocks.dims, self.blocks.dims[-1] + 1))

    @cached_property
    def directions(self) -> FloatArray:
        """[N + 1] over how many directions each block's variance falls."""
        return np.minimum(self.with_bias.sizes, self.rank)

    @cached_property
    def drifts(self) -> FloatArray:
        """[N + 1] what is added to each block's variance."""
        return np.array([self.drift] * len(self.blocks.dims) + [0.0])


class BothSides:
    """Both sides' rows in one array, users before items. The sides' own arrays become views of it.

    Args:
        users, items: beliefs about a mini-batch's distinct ids.

    Attributes:
        means: [n, D + 1], the bias last.
        variances: [n, N + 1], the bias' last.
        largest: [n, N + 1].
        users: how many of the n.
    """

    def __init__(self, users: Beliefs, items: Beliefs) -> None:
        sides = (users, items)
        self.users = len(users.bias)
        self.means = np.concatenate([np.concatenate([s.means, s.bias[:, None]], axis=1) for s in sides])
        self.variances = np.concatenate([np.concatenate([s.variances, s.bias_variance[:, None]], axis=1) for s in sides])
        unbounded = [np.concatenate([s.largest, [np.inf]]) for s in sides]
        self.largest = np.repeat(unbounded, [len(s.bias) for s in sides], axis=0)
        for side, rows in zip(sides, (slice(None, self.users), slice(self.users, None)), strict=True):
            side.means, side.bias = self.means[rows, :-1], self.means[rows, -1]
            side.variances, side.bias_variance = self.variances[rows, :-1], self.variances[rows, -1]


def products(config: KalmanConfig, both: BothSides, rows: Index) -> FloatArray:
    """⟨p_j, q_j⟩ per block, and the sum of both biases: [m, N + 1]. rows: [2, m] of `both`, users' and items'."""
    p, q = both.means[rows]
    result = config.with_bias.sums(p * q)
    result[:, -1] = p[:, -1] + q[:, -1]
    return result


def learn(config: KalmanConfig, both: BothSides, rows: Index, gates: FloatArray, error: FloatArray, curvature: FloatArray) -> None:
    """Updates the rows of a part.

    Args:
        config: of the steps.
        both: beliefs, changed in place.
        rows: [2, m] of `both`, each interaction's user and item.
        gates: [m, N + 1] g_j, what each block's product is multiplied by in the logit; 1 for the biases.
        error: [m] ∂L/∂s, prediction minus label.
        curvature: [m] h.
    """
    blocks, occurrences = config.with_bias, _occurrences(rows)
    means = both.means[rows]
    variances = np.minimum(both.variances[rows] + config.drifts * (gates != 0.0), both.largest[rows])
    partners = means[::-1].copy()
    partners[:, :, -1] = 1.0
    # the squared slope of s in each row's block is the partner's squared length there
    squares = gates * gates * blocks.sums(partners * partners)
    uncertainty = np.add.reduce(variances * squares, axis=2)
    if occurrences is not None:
        uncertainty *= occurrences
    h = np.maximum(curvature, SMALLEST_CURVATURE)
    innovation = 1.0 / h + uncertainty[0] + uncertainty[1]
    step = -error / (h * innovation)
    partners *= blocks.spread(variances * (gates * step[:, None]))
    squares *= variances * variances / (innovation[:, None] * config.directions)
    if occurrences is None:
        both.means[rows] = means + partners
        both.variances[rows] = variances - squares
    else:
        both.variances[rows] = variances
        np.add.at(both.means, rows, partners)
        np.subtract.at(both.variances, rows, squares)


def _occurrences(rows: Index) -> FloatArray | None:
    """[2, m] how often each row occurs; None if all are distinct, as in a wave. Waves are many; np.unique is slow on them."""
    if len(set(rows.ravel().tolist())) == rows.size:
        return None
    _, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return counts[inverse].reshape(rows.shape).astype(np.float64)
