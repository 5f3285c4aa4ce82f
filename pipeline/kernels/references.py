"""The references printed beside every method, from the same features: the running mean, and the logistic regression on x0..x15."""

from math import tanh

import numpy as np

from autoemb_pipeline.kernels.compiling import kernel
from autoemb_pipeline.kernels.layout import CONTEXT_FEATURES, Floats
from autoemb_pipeline.kernels.scores import softmax


@kernel
def predict_references(inputs: Floats, classes: Floats, weights: Floats, mean: Floats, logistic: Floats) -> None:
    """Both references' predictions from the features as the event-order kernel left them.

    Args:
        inputs: [B, ≥ 16] of `Predicted`.
        classes: [B, 5] of `Predicted`, [B, 0] for the binary task.
        weights: [C, 16] of the logistic regression.
        mean, logistic: [B, C] results: σ(x0) and σ(x0 + w·x), or the class estimate p and softmax(log p + w·x).
    """
    outputs = weights.shape[0]
    for i in range(inputs.shape[0]):
        x = inputs[i]
        for c in range(outputs):
            score = x[0] if outputs == 1 else np.log(classes[i, c])
            mean[i, c] = 0.5 * (1.0 + tanh(0.5 * score)) if outputs == 1 else classes[i, c]
            for k in range(CONTEXT_FEATURES):
                score += weights[c, k] * x[k]
            logistic[i, c] = 0.5 * (1.0 + tanh(0.5 * score)) if outputs == 1 else score
        if outputs > 1:
            softmax(logistic[i])


@kernel
def features_of(inputs: Floats) -> Floats:
    """[B, 16] x0..x15 as an array of their own, which the logistic regression's `newton_observe` takes."""
    known = np.empty((inputs.shape[0], CONTEXT_FEATURES))
    for i in range(inputs.shape[0]):
        for k in range(CONTEXT_FEATURES):
            known[i, k] = inputs[i, k]
    return known
