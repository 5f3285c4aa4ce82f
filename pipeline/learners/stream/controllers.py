"""The controllers of the stream preset: what each further block of an id is worth, learnt from losses known before every label.

At every prediction the kernel leaves the loss under every prefix of the pair's blocks, so what block j saved on this interaction is
known: e_j = loss_(j-1) - loss_j, on a label that no row had learnt. This is the upper level of Eq. 8 evaluated at the choices themselves;
nothing is differentiated through a training step. A saving of some 1e-4 drowns in the label's noise, so the estimate has two factors:

    worth_j(x) = κ_j(popularity) · m_j(x)

m_j is a ridge regression, on the controllers' inputs x (popularity, previous weights, losses; paper, section 2.3), of what the model's own
probabilities expect block j to save, (p_j - p_(j-1))², which has no label in it; κ_j = Σ e_j / Σ m_j corrects it by labels, per block
and popularity group, and begins at 1. The past of both fades, because rows get better.

Shape legend: B interactions, N blocks, K inputs, G popularity groups.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels import Evidence, Expectation, Seen, correct, learn
from autoemb_pipeline.kernels.worth import BITS, GROUPS
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.packing import restored
from autoemb_pipeline.records import FloatArray

FADE = 0.998
RIDGE, CONSTANT_RIDGE = 10.0, 50.0
PRIOR = 20.0
"""Summed expected savings that halve κ's way from 1 to what labels say; its standard error is then some .86/√20."""
CLUSTERS = 32


class Controller:
    """One side's.

    Args:
        blocks: N.
        prior: weight of κ = 1, in the unit of the summed expected savings.

    Attributes:
        says: what kernels ask it.
    """

    def __init__(self, blocks: int, prior: float = PRIOR) -> None:
        self._prior = prior
        ridge = np.append(np.full(BITS + blocks + 3, RIDGE), CONSTANT_RIDGE)
        width, groups = len(ridge), len(GROUPS) + 1
        self._evidence = Evidence(
            ridge=ridge,
            precision=np.stack([np.diag(ridge)] * blocks),
            moments=np.zeros((blocks, width)),
            sums=np.zeros((2, blocks, groups)),
            clusters=np.zeros((2, CLUSTERS)),
        )
        self.says = Expectation(weights=np.zeros((blocks, width)), kappa=np.ones((blocks, groups)))

    def learn(self, seen: Seen, level: NDArray[np.int64], losses: FloatArray, expected: FloatArray, clusters: NDArray[np.int64]) -> None:
        """One mini-batch.

        Args:
            seen: what the controllers saw of the interactions' ids.
            level: [B] blocks that the pair had; what the others would have saved is not learnt.
            losses: [B, N + 1] under every prefix.
            expected: [B, N] what each block was expected to save.
            clusters: [B] 0 to 31 by the user's id, for the uncertainty.
        """
        learn(seen, level, losses, expected, clusters, FADE, self._prior, self._evidence, self.says)

    def uncertainty(self) -> float:
        """Standard error of Σ saved / Σ expected relative to it, over clusters of users; infinite before anything is known."""
        saved, expected = self._evidence.clusters
        total = expected.sum()
        if total <= 0.0 or saved.sum() <= 0.0:
            return float("inf")
        ratio = saved.sum() / total
        return float(np.sqrt(((saved - ratio * expected) ** 2).sum()) / saved.sum())

    def _arrays(self) -> dict[str, FloatArray]:
        evidence = self._evidence
        return {
            "precision": evidence.precision,
            "moments": evidence.moments,
            "weights": self.says.weights,
            "sums": evidence.sums,
            "clusters": evidence.clusters,
        }

    def state_dict(self, name: str) -> dict[str, NDArray[Any]]:
        """Copies, under this name."""
        return {f"{name}/{key}": array.copy() for key, array in self._arrays().items()}

    def load_state_dict(self, name: str, state: Arrays) -> None:
        """Restores what `state_dict` gave. CheckpointError: an array is missing or of another shape."""
        for key, array in self._arrays().items():
            array[...] = restored(state, f"{name}/{key}", array)
        correct(self._evidence.sums, self._prior, self.says.kappa)
