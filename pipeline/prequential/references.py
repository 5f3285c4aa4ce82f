"""The cheap references every method is printed beside, on the same events and in the same information regime.

They see the same context features as the learner, hence know exactly what `--context` allows. Running mean: x0 alone. Logistic: sixteen
weights on x0..x15 by online Newton steps. Whoever claims that embeddings help must beat it.
"""

from collections.abc import Mapping

import numpy as np

from autoemb_pipeline.newton import OnlineNewton
from autoemb_pipeline.records import RATING_CLASSES, FloatArray, Labels, LearnerInputs, Task

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
    """Logistic (rating: softmax) regression on x0..x15, with the running mean as offset, by online Newton steps.

    w = 0 and H = 10·I at the start; a step once per 500 events. The rating task's offset is log p of the Dirichlet estimate. Steps happen
    between mini-batches only, so a larger mini-batch makes fewer.
    """

    def __init__(self, task: Task, features: int) -> None:
        self._task = task
        start = np.zeros((1 if task == "binary" else RATING_CLASSES, features))
        self._newton = OnlineNewton(start, np.full(features, RIDGE))
        self._gradient = np.zeros_like(start)
        self._events = 0

    def predict(self, inputs: LearnerInputs) -> FloatArray:
        """[B] probabilities, or [B, C] for the rating task."""
        scores = self._newton.scores(inputs.features)
        if self._task == "binary":
            return sigmoid(inputs.features[:, 0] + scores[:, 0])
        if inputs.class_probabilities is None:
            raise ValueError("the rating task needs class probabilities from the context")
        scores += np.log(inputs.class_probabilities)
        scores -= scores.max(axis=1, keepdims=True)
        exponentials = np.exp(scores)
        distribution: FloatArray = exponentials / exponentials.sum(axis=1, keepdims=True)
        return distribution

    def update(self, inputs: LearnerInputs, predicted: FloatArray, labels: Labels) -> None:
        """Takes the labels of a batch after `predicted` was recorded; held-out ones are passed over."""
        keep = slice(None) if inputs.held_out is None else ~inputs.held_out
        x, p = inputs.features[keep], predicted[keep]
        if self._task == "binary":
            self._gradient += self._newton.observe(x, p[:, None], labels.binary[keep, None])
        else:
            self._gradient += self._newton.observe(x, p, np.eye(RATING_CLASSES)[labels.classes[keep]])
        self._events += len(x)
        if self._events >= NEWTON_EVERY:
            self._newton.descend(self._gradient)
            self._gradient[:] = 0.0
            self._events = 0

    def state(self) -> Mapping[str, FloatArray]:
        """Arrays for the checkpoint: [C·F] weights and gradient, [C·F, C·F] H, [1] events since the last step."""
        newton = self._newton.state()
        return {
            "weights": newton["weights"].ravel(),
            "hessian": newton["precision"],
            "gradient": self._gradient.ravel().copy(),
            "events": np.array([float(self._events)]),
        }

    def load_state(self, state: Mapping[str, FloatArray]) -> None:
        """Restores what `state` returned."""
        shape = self._gradient.shape
        self._newton.load_state({"weights": state["weights"].reshape(shape), "precision": state["hessian"]})
        self._gradient, self._events = state["gradient"].reshape(shape).copy(), int(state["events"][0])
