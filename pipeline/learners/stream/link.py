"""Inputs of the stream learner's dense part, and what its one score means for either task.

Shape legend: B interactions, F context features, N blocks, C outputs.
"""

from dataclasses import dataclass

import numpy as np

from autoemb_pipeline.records import RATING_CLASSES, FloatArray, Labels, LearnerInputs, Task

# Products of x0..x12; x13 is the constant, x14 and x15 are flags of new ids.
_PAIRS = [(i, j) for i in range(13) for j in range(i, 13)]
_LEFT, _RIGHT = (np.array(side, dtype=np.int64) for side in zip(*_PAIRS, strict=True))
SMALLEST = 1e-12


def dense_inputs(features_BF: FloatArray, *, quadratic: bool) -> FloatArray:
    """Context features, and on request all products of two of x0..x12: 16 or 107 columns."""
    if not quadratic:
        return features_BF
    return np.concatenate([features_BF, features_BF[:, _LEFT] * features_BF[:, _RIGHT]], axis=1)


def dense_width(features: int, *, quadratic: bool) -> int:
    """Columns of `dense_inputs`."""
    return features + (len(_PAIRS) if quadratic else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """How a score s becomes probabilities: binary σ(offset + s); rating softmax(offset_c + s·κ_c) with levels κ = -1, -½, 0, ½, 1.

    Attributes:
        task: which of the two.
    """

    task: Task

    @property
    def levels(self) -> FloatArray:
        """[C] slope of each output's logit in the score."""
        return np.ones(1) if self.task == "binary" else np.linspace(-1.0, 1.0, RATING_CLASSES)

    def offsets(self, inputs: LearnerInputs) -> FloatArray:
        """[B, C] the running mean's logit, or the log of the Dirichlet estimate."""
        if self.task == "binary":
            return inputs.features[:, :1]
        if inputs.class_probabilities is None:
            raise ValueError("the rating task needs class probabilities from the context")
        return np.log(np.maximum(inputs.class_probabilities, SMALLEST))

    def predict(self, logits_BC: FloatArray) -> FloatArray:
        """[B, C] probabilities; binary: [B, 1]."""
        if self.task == "binary":
            small = np.exp(-np.abs(logits_BC))
            return np.where(logits_BC >= 0, 1.0, small) / (1.0 + small)
        shifted = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float64)

    def targets(self, labels: Labels) -> FloatArray:
        """[m, C] targets."""
        if self.task == "binary":
            return labels.binary[:, None]
        return np.eye(RATING_CLASSES)[labels.classes]

    def error(self, predicted_BC: FloatArray, target_BC: FloatArray) -> FloatArray:
        """[B] ∂L/∂s of the cross-entropy."""
        difference = predicted_BC - target_BC
        return difference[:, 0] if self.task == "binary" else difference @ self.levels

    def curvature(self, predicted_BC: FloatArray) -> FloatArray:
        """[B] ∂²L/∂s²: p(1-p), or the variance of κ under the predicted distribution."""
        if self.task == "binary":
            return predicted_BC[:, 0] * (1.0 - predicted_BC[:, 0])
        mean = predicted_BC @ self.levels
        return predicted_BC @ (self.levels * self.levels) - mean * mean
