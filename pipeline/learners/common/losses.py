"""The two tasks' losses, one number per interaction (paper, section 3.3).

Shape legend: B interactions, C outputs: 1 for the binary task, the number of rating classes for the rating task.
"""

import numpy as np
import torch
from torch import Tensor

from autoemb_pipeline.learners.common.transfer import to_device
from autoemb_pipeline.records import RATING_CLASSES, FloatArray, Labels, Task


def outputs(task: Task) -> int:
    """Width of the output layer: 1 (sigmoid) or 5 (softmax)."""
    return 1 if task == "binary" else RATING_CLASSES


def targets(labels: Labels, task: Task, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[B] floats in {0, 1} (binary) or [B] class numbers (rating)."""
    if task == "binary":
        return to_device(labels.binary, device=device, dtype=dtype)
    return to_device(labels.classes, device=device, dtype=torch.int64)


def interaction_losses(logits_BC: Tensor, targets_B: Tensor) -> Tensor:
    """[B] squared errors of the sigmoid (C = 1) or cross-entropies of the softmax, in nats."""
    if logits_BC.shape[1] == 1:
        return (torch.sigmoid(logits_BC[:, 0]) - targets_B).square()
    return torch.nn.functional.cross_entropy(logits_BC, targets_B, reduction="none")


def probabilities(logits_BC: FloatArray) -> FloatArray:
    """Eq. 5's g in float64: [B] sigmoids (C = 1) or [B, C] softmax rows."""
    if logits_BC.shape[1] == 1:
        z = logits_BC[:, 0]
        small = np.exp(-np.abs(z))
        return np.where(z >= 0, 1.0, small) / (1.0 + small)
    shifted = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float64)


def prediction_losses(predicted: FloatArray, labels: Labels) -> FloatArray:
    """[B] losses of predicted probabilities, [B] or [B, C], in float64: what is recorded for them.

    A class probability that underflowed counts as the smallest positive normal number, so the loss stays finite.
    """
    if predicted.ndim == 1:
        return np.square(predicted - labels.binary)
    own = predicted[np.arange(len(predicted)), labels.classes]
    return -np.log(np.maximum(own, np.finfo(np.float64).tiny))
