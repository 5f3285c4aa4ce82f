"""The network with everything that learns in it, and one forward pass through it.

Shape legend: B interactions, N spaces, C outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoemb_pipeline.learners.common.losses import interaction_losses, targets
from autoemb_pipeline.learners.common.transfer import to_device
from autoemb_pipeline.learners.paper.choices import Selection
from autoemb_pipeline.learners.paper.network import largest
from autoemb_pipeline.learners.paper.recommender import Point, Recommender
from autoemb_pipeline.learners.search.encoding import EncodedBatch, encode
from autoemb_pipeline.learners.search.selectors import Selector, Theta, Weights
from autoemb_pipeline.records import Labels, LearnerInputs, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardPass:
    """One forward pass of a mini-batch with the graph that its gradients need.

    Attributes:
        batch: what was predicted.
        point, theta: W and Θ at that moment.
        weights: the selector's α and β.
        logits: [B, C].
    """

    batch: EncodedBatch
    point: Point
    theta: Theta
    weights: Weights
    logits: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperModel:
    """W, Θ and how they meet a mini-batch.

    Attributes:
        recommender: W.
        selector: Θ.
        selection: how the network uses Θ's weights.
        task: the loss.
        reduction: of the interactions' losses, mean or sum.
        dtype, device: of the arithmetic.
    """

    recommender: Recommender
    selector: Selector
    selection: Selection
    task: Task
    reduction: str
    dtype: torch.dtype
    device: torch.device

    def encode(self, inputs: LearnerInputs) -> EncodedBatch:
        """The mini-batch as tensors."""
        return encode(inputs, dtype=self.dtype, device=self.device)

    def targets(self, labels: Labels, rows: NDArray[np.int64] | None = None) -> Tensor:
        """[B] targets of the task, or those of the named rows."""
        all_rows = targets(labels, self.task, dtype=self.dtype, device=self.device)
        return all_rows if rows is None else all_rows[to_device(rows, device=self.device)]

    def forward(self, batch: EncodedBatch, *, point: Point | None = None, selection: Selection | None = None) -> ForwardPass:
        """Predicts a mini-batch with W and Θ as they stand.

        Args:
            batch: the interactions.
            point: W for this mini-batch if it was gathered already.
            selection: overrides how weights are used; validation is always soft, for hard weights have no gradient.
        """
        point = point or self.recommender.gather(batch)
        theta = self.selector.gather(batch)
        weights = theta.weights(batch)
        logits = self.recommender.logits(point, batch, applied(weights, selection or self.selection))
        return ForwardPass(batch=batch, point=point, theta=theta, weights=weights, logits=logits)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mini-batch's loss, a scalar."""
        losses = interaction_losses(logits, target)
        return losses.mean() if self.reduction == "mean" else losses.sum()


def applied(weights: Weights, selection: Selection) -> Weights:
    """The weights the network is given: as they are, or one-hot at the largest."""
    if weights is None or selection == "soft":
        return weights
    return largest(weights[0]), largest(weights[1])


def gradients(scalar: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """∂scalar/∂leaves, zeros for leaves that it does not depend on. Keeps the graph."""
    return list(torch.autograd.grad(scalar, leaves, retain_graph=True, allow_unused=True, materialize_grads=True))
