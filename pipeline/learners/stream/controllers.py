"""The controllers of the stream preset: what each further block of an id is worth, learnt from losses known before every label.

At every prediction the kernel leaves the loss under every prefix of the pair's blocks, so what block j saved on this interaction is
known: e_j = loss_(j-1) - loss_j, on a label that no row had learnt. This is the upper level of Eq. 8 evaluated at the choices themselves;
nothing is differentiated through a training step. A saving of some 1e-4 drowns in the label's noise, so the estimate has two factors:

    worth_j(x) = κ_j(popularity) · m_j(x)

m_j is a ridge regression, on the controllers' inputs x (popularity, previous weights, losses; paper, section 2.3), of what the model's own
probabilities expect block j to save, (p_j - p_(j-1))², which has no label in it; κ_j = Σ e_j / Σ m_j corrects it by labels, per block
and popularity group, and begins at 1. The past of both fades, because rows get better.

Shape legend: B interactions, N blocks, K inputs and a constant, G popularity groups.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels import newton_descend, ridge_observe
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.packing import restored
from autoemb_pipeline.records import FloatArray

FADE = 0.998
RIDGE, CONSTANT_RIDGE = 10.0, 50.0
PRIOR = 20.0
"""Summed expected savings that halve κ's way from 1 to what labels say; its standard error is then some .86/√20."""
GROUPS = np.array([1.0, 4.0, 16.0])
"""Counts at which a popularity group begins; the first is that of new ids."""
CLUSTERS = 32


class Controller:
    """One side's.

    Args:
        blocks: N.
        inputs: K - 1.
        prior: weight of κ = 1, in the unit of the summed expected savings.
    """

    def __init__(self, blocks: int, inputs: int, prior: float = PRIOR) -> None:
        self._prior = prior
        self._ridge = np.append(np.full(inputs, RIDGE), CONSTANT_RIDGE)
        self._precision = np.stack([np.diag(self._ridge)] * blocks)
        self._moments = np.zeros((blocks, inputs + 1))
        self._weights = np.zeros((blocks, inputs + 1))
        self._sums = np.zeros((2, blocks, len(GROUPS) + 1))
        self._clusters = np.zeros((2, CLUSTERS))

    def worth(self, inputs: FloatArray, counts: FloatArray) -> FloatArray:
        """[B, N] loss that each block is expected to save per interaction. inputs: [B, K], the constant last; counts: [B]."""
        group = np.searchsorted(GROUPS, counts, side="right")
        expected = np.maximum(inputs @ self._weights.T, 0.0)
        result: FloatArray = expected * self._kappa().T[group]
        return result

    def learn(self, inputs: FloatArray, counts: FloatArray, known: FloatArray, saved: FloatArray, clusters: NDArray[np.int64]) -> None:
        """One mini-batch.

        Args:
            inputs, counts: as of `worth`.
            known: [B, N] what each block was expected to save; NaN where the pair has not the block.
            saved: [B, N] what it saved.
            clusters: [B] 0 to 31 by the user's id, for the uncertainty.
        """
        group = np.searchsorted(GROUPS, counts, side="right")
        self._sums *= FADE
        self._clusters *= FADE
        for j in range(len(self._weights)):
            rows = np.flatnonzero(~np.isnan(known[:, j]))
            ridge_observe(inputs, rows, known[:, j].copy(), FADE, self._ridge, self._precision[j], self._moments[j])
            for k, values in enumerate((saved[rows, j], known[rows, j])):
                self._sums[k, j] += np.bincount(group[rows], values, len(GROUPS) + 1)
                self._clusters[k] += np.bincount(clusters[rows], values, CLUSTERS)
            weights = np.zeros((1, len(self._ridge)))
            newton_descend(weights, self._precision[j], -self._moments[j][None, :])
            self._weights[j] = weights[0]

    def _kappa(self) -> FloatArray:
        """[N, G] shrunk towards the block's, and that towards 1."""
        saved, expected = self._sums
        block = (saved.sum(axis=1) + self._prior) / (expected.sum(axis=1) + self._prior)
        result: FloatArray = np.maximum((saved + self._prior * block[:, None]) / (expected + self._prior), 0.0)
        return result

    def uncertainty(self) -> float:
        """Standard error of Σ saved / Σ expected relative to it, over clusters of users; infinite before anything is known."""
        saved, expected = self._clusters
        total = expected.sum()
        if total <= 0.0 or saved.sum() <= 0.0:
            return float("inf")
        ratio = saved.sum() / total
        return float(np.sqrt(((saved - ratio * expected) ** 2).sum()) / saved.sum())

    def _arrays(self) -> dict[str, FloatArray]:
        return {
            "precision": self._precision,
            "moments": self._moments,
            "weights": self._weights,
            "sums": self._sums,
            "clusters": self._clusters,
        }

    def state_dict(self, name: str) -> dict[str, NDArray[Any]]:
        """Copies, under this name."""
        return {f"{name}/{key}": array.copy() for key, array in self._arrays().items()}

    def load_state_dict(self, name: str, state: Arrays) -> None:
        """Restores what `state_dict` gave. CheckpointError: an array is missing or of another shape."""
        for key, array in self._arrays().items():
            array[...] = restored(state, f"{name}/{key}", array)
