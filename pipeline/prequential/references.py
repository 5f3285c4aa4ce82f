"""The cheap references every method is printed beside, on the same events and in the same information regime.

They see the same context features as the learner, hence know exactly what `--context` allows. Running mean: x0 alone. Logistic: sixteen
weights on x0..x15 by online Newton steps. Whoever claims that embeddings help must beat it.
"""

from collections.abc import Mapping

import numpy as np

from pipeline.records import RATING_CLASSES, FloatArray, Labels, LearnerInputs, Task

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

    w = 0 and H = 10·I at the start; once per 500 events H += Σ p(1-p)·xxᵀ and w -= H⁻¹ Σ (p-y)·x, both sums with the w of the
    predictions. The rating task is the multinomial form of the same: offset log p of the Dirichlet estimate, block matrices
    p_c([c=d] - p_d)·xxᵀ. Steps happen between mini-batches only, so a larger mini-batch makes fewer.
    """

    def __init__(self, task: Task, features: int) -> None:
        self._task = task
        self._outputs = 1 if task == "binary" else RATING_CLASSES
        size = features * self._outputs
        self._weights = np.zeros(size)
        self._hessian = RIDGE * np.eye(size)
        self._gradient = np.zeros(size)
        self._events = 0

    def predict(self, inputs: LearnerInputs) -> FloatArray:
        """[B] probabilities, or [B, C] for the rating task."""
        x = inputs.features
        if self._task == "binary":
            return sigmoid(x[:, 0] + x @ self._weights)
        if inputs.class_probabilities is None:
            raise ValueError("the rating task needs class probabilities from the context")
        scores = np.log(inputs.class_probabilities) + x @ self._weights.reshape(self._outputs, -1).T
        scores -= scores.max(axis=1, keepdims=True)
        exponentials = np.exp(scores)
        distribution: FloatArray = exponentials / exponentials.sum(axis=1, keepdims=True)
        return distribution

    def update(self, inputs: LearnerInputs, predicted: FloatArray, labels: Labels) -> None:
        """Takes the labels of a batch after `predicted` was recorded; held-out ones are passed over."""
        keep = slice(None) if inputs.held_out is None else ~inputs.held_out
        x, p = inputs.features[keep], predicted[keep]
        if self._task == "binary":
            self._hessian += (x * (p * (1.0 - p))[:, None]).T @ x
            self._gradient += x.T @ (p - labels.binary[keep])
        else:
            self._hessian += _softmax_hessian(x, p)
            error = p - np.eye(RATING_CLASSES)[labels.classes[keep]]
            self._gradient += (error.T @ x).ravel()
        self._events += len(x)
        if self._events >= NEWTON_EVERY:
            self._weights -= np.linalg.solve(self._hessian, self._gradient)
            self._gradient[:] = 0.0
            self._events = 0

    def state(self) -> Mapping[str, FloatArray]:
        """Arrays for the checkpoint."""
        return {
            "weights": self._weights.copy(),
            "hessian": self._hessian.copy(),
            "gradient": self._gradient.copy(),
            "events": np.array([float(self._events)]),
        }

    def load_state(self, state: Mapping[str, FloatArray]) -> None:
        """Restores what `state` returned."""
        self._weights, self._hessian = state["weights"].copy(), state["hessian"].copy()
        self._gradient, self._events = state["gradient"].copy(), int(state["events"][0])


def _softmax_hessian(x: FloatArray, p: FloatArray) -> FloatArray:
    """Σ over events of (diag(p) - ppᵀ) ⊗ xxᵀ: [C·F, C·F]."""
    classes, features = p.shape[1], x.shape[1]
    blocks = np.empty((classes, features, classes, features))
    for c in range(classes):
        for d in range(classes):
            weight = p[:, c] * ((1.0 if c == d else 0.0) - p[:, d])
            blocks[c, :, d, :] = (x * weight[:, None]).T @ x
    return blocks.reshape(classes * features, classes * features)
