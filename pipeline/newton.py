"""Logistic (rating: softmax) regression by online Newton steps: the reference "logistic", and the stream preset's dense part.

The quasi-Newton update of online Bayesian logistic regression: H += Σ p(1-p)·zzᵀ, w -= H⁻¹ Σ (p-y)·z, both sums with the w of the
predictions. The softmax form has block matrices p_c([c=d] - p_d)·zzᵀ.

Shape legend: B interactions, Z inputs, C outputs (1 for the binary task).
"""

from collections.abc import Mapping

import numpy as np

from autoemb_pipeline.records import FloatArray


class OnlineNewton:
    """Weights [C, Z] with their precision H.

    Args:
        start: [C, Z] weights before the first step, the mean of their prior.
        ridge: [Z] precision of the prior, the same for every output.
    """

    def __init__(self, start: FloatArray, ridge: FloatArray) -> None:
        self.weights = start.copy()
        self._outputs, self._inputs = start.shape
        self._precision = np.diag(np.tile(ridge, self._outputs)).astype(np.float64)

    def scores(self, inputs: FloatArray) -> FloatArray:
        """[B, Z] to [B, C], z·w."""
        return inputs @ self.weights.T

    def step(self, inputs: FloatArray, predicted: FloatArray, targets: FloatArray) -> None:
        """One Newton step from a mini-batch. Arguments as of `observe`."""
        self.descend(self.observe(inputs, predicted, targets))

    def observe(self, inputs: FloatArray, predicted: FloatArray, targets: FloatArray) -> FloatArray:
        """Adds the curvature of a mini-batch to H; leaves the weights.

        Args:
            inputs: [B, Z].
            predicted, targets: [B, C] probabilities (binary: C = 1, P(positive)) and targets.

        Returns:
            [C, Z] gradient of the summed cross-entropy.
        """
        if self._outputs == 1:
            self._precision += (inputs * (predicted * (1.0 - predicted))).T @ inputs
        else:
            self._add_softmax(inputs, predicted)
        return (predicted - targets).T @ inputs

    def descend(self, gradient: FloatArray) -> None:
        """w -= H⁻¹ gradient. gradient: [C, Z], a sum of what `observe` returned."""
        self.weights = self.weights - np.linalg.solve(self._precision, gradient.ravel()).reshape(self._outputs, self._inputs)

    def _add_softmax(self, inputs: FloatArray, predicted: FloatArray) -> None:
        """Σ over interactions of (diag(p) - ppᵀ) ⊗ zzᵀ."""
        blocks = self._precision.reshape(self._outputs, self._inputs, self._outputs, self._inputs)
        for c in range(self._outputs):
            for d in range(c, self._outputs):
                weight = predicted[:, c] * ((1.0 if c == d else 0.0) - predicted[:, d])
                block = (inputs * weight[:, None]).T @ inputs
                blocks[c, :, d, :] += block
                if c != d:
                    blocks[d, :, c, :] += block

    def state(self) -> Mapping[str, FloatArray]:
        """Copies for the checkpoint."""
        return {"weights": self.weights.copy(), "precision": self._precision.copy()}

    def load_state(self, state: Mapping[str, FloatArray]) -> None:
        """Restores what `state` returned."""
        self.weights, self._precision = state["weights"].copy(), state["precision"].copy()
