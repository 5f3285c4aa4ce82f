"""The cheap references every method is printed beside, on the same events and in the same information regime.

They see the same context features as the learner, hence know exactly what `--context` allows. Running mean: x0 alone. Logistic: sixteen
weights on x0..x15 by online Newton steps. Whoever claims that embeddings help must beat it.
"""

from collections.abc import Mapping

import numpy as np

from autoemb_pipeline.kernels import features_of, newton_descend, newton_observe, predict_references
from autoemb_pipeline.records import CONTEXT_FEATURES, RATING_CLASSES, FloatArray, Labels, LearnerInputs, Task

NEWTON_EVERY = 500
RIDGE = 10.0


def sigmoid(x: FloatArray) -> FloatArray:
    """1/(1+exp(-x)), stable for large |x|."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


class RunningMean:
    """Binary: clip(item mean + user deviation, .02, .98), which is σ(x0). Rating: the user x item Dirichlet estimate."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def predict(self, inputs: LearnerInputs) -> FloatArray:
        """[B] probabilities, or [B, C] for the rating task."""
        if self._task == "binary":
            return sigmoid(inputs.features[:, 0])
        if inputs.class_probabilities is None:
            raise ValueError("the rating task needs class probabilities from the context")
        return inputs.class_probabilities


class Logistic:
    """Logistic (rating: softmax) regression on x0..x15, with the running mean as offset, by online Newton steps in compiled code.

    w = 0 and H = 10·I at the start; a step once per 500 events. The rating task's offset is log p of the Dirichlet estimate. Steps happen
    between mini-batches only, so a larger mini-batch makes fewer.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._weights = np.zeros((1 if task == "binary" else RATING_CLASSES, CONTEXT_FEATURES))
        self._precision = RIDGE * np.eye(self._weights.size)
        self._gradient = np.zeros_like(self._weights)
        self._events = 0

    def predict(self, inputs: LearnerInputs) -> FloatArray:
        """[B] probabilities, or [B, C] for the rating task. inputs: the first 16 features count."""
        count, outputs = len(inputs.features), len(self._weights)
        classes = np.zeros((count, 0)) if self._task == "binary" else inputs.class_probabilities
        if classes is None:
            raise ValueError("the rating task needs class probabilities from the context")
        mean, predicted = np.empty((count, outputs)), np.empty((count, outputs))
        predict_references(inputs.features, classes, self._weights, mean, predicted)
        return predicted[:, 0] if self._task == "binary" else predicted

    def update(self, inputs: LearnerInputs, predicted: FloatArray, labels: Labels) -> None:
        """Takes the labels of a batch after `predicted` was recorded; held-out ones are passed over."""
        which = np.arange(len(predicted)) if inputs.held_out is None else np.flatnonzero(~inputs.held_out)
        probabilities = predicted.reshape(len(predicted), -1)
        newton_observe(
            features_of(inputs.features), which, probabilities, labels.binary, labels.classes, self._precision, self._gradient
        )  # fmt: skip
        self._events += len(which)
        if self._events >= NEWTON_EVERY:
            newton_descend(self._weights, self._precision, self._gradient)
            self._events = 0

    def state(self) -> Mapping[str, FloatArray]:
        """Arrays for the checkpoint: [C·16] weights and gradient, [C·16, C·16] H, [1] events since the last step."""
        return {
            "weights": self._weights.flatten(),
            "hessian": self._precision.copy(),
            "gradient": self._gradient.flatten(),
            "events": np.array([float(self._events)]),
        }

    def load_state(self, state: Mapping[str, FloatArray]) -> None:
        """Restores what `state` returned."""
        shape = self._weights.shape
        self._weights, self._gradient = state["weights"].reshape(shape).copy(), state["gradient"].reshape(shape).copy()
        self._precision, self._events = state["hessian"].copy(), int(state["events"][0])
