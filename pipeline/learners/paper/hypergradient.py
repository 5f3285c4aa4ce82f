"""∇_Θ L_val(W(Θ), Θ): what the controllers descend (paper, Eq. 9 and Algorithm 1).

W(Θ) is the update that was really made on the mini-batch last trained: W_t = W_{t−1} − rate · direction(∇_W L_train(W_{t−1}, Θ)), all of
it on rows that were gathered for that step. Hence

    ∇_Θ = ∂L_val/∂Θ + ξ · (∂W_t/∂Θ)ᵀ · ∂L_val/∂W   at W_t,

with ξ as a factor on the rates: 0 is the first-order approximation, 1 the total derivative of what happened.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.choices import Preconditioner
from autoemb_pipeline.learners.common.optimisers import Optimiser, State
from autoemb_pipeline.learners.common.transfer import to_device
from autoemb_pipeline.learners.paper.config import Unroll
from autoemb_pipeline.learners.paper.forward import ForwardPass, PaperModel, gradients
from autoemb_pipeline.learners.paper.recommender import Point
from autoemb_pipeline.learners.paper.trained_step import TrainedStep, pack_step, unpack_step
from autoemb_pipeline.learners.search.encoding import EncodedBatch
from autoemb_pipeline.learners.search.selectors import Theta

ThetaGradients = list[tuple[Theta, list[Tensor]]]

FINITE_DIFFERENCE_NORM = 0.01


@dataclass(kw_only=True, slots=True)
class Hypergradient:
    """The controllers' gradient, first order or through the last training step.

    Attributes:
        model: W and Θ.
        xi: ξ.
        unroll: how the second-order term is computed: exactly, or by DARTS' central difference of two first-order gradients.
        preconditioner: how the optimiser's scaling takes part in it.
        last: the last training step, kept only where ξ > 0.
    """

    model: PaperModel
    xi: float
    unroll: Unroll = "exact"
    preconditioner: Preconditioner = "exact"
    last: TrainedStep | None = field(default=None)

    def remember(self, forward: ForwardPass, target: Tensor) -> None:
        """Keeps what the step about to be made from this forward pass starts from. Call before it is applied."""
        if self.xi > 0:
            dense = self.model.recommender.dense
            self.last = TrainedStep(
                batch=forward.batch, target=target, point=forward.point, dense_state=dict(dense.state), number=dense.steps + 1
            )

    def gradients(self, validation: ForwardPass, target: Tensor) -> ThetaGradients:
        """Gradients of Θ to be summed: the direct one on the validation batch's Θ, and ξ times the indirect one on the inner batch's."""
        loss = self.model.loss(validation.logits, target)
        leaves = list(validation.theta.leaves)
        if self.xi == 0 or self.last is None:
            return [(validation.theta, gradients(loss, leaves))]
        slopes = gradients(loss, [*leaves, *validation.point.leaves])
        direct, outer = slopes[: len(leaves)], slopes[len(leaves) :]
        theta = self.model.selector.gather(self.last.batch)
        pull = self._aligned(outer, validation.batch, self.last.batch)
        indirect = self._exact(self.last, theta, pull) if self.unroll == "exact" else self._finite_difference(self.last, theta, pull)
        return [(validation.theta, direct), (theta, [self.xi * term for term in indirect])]

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The last training step."""
        return {} if self.last is None else pack_step(self.last)

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        self.last = unpack_step(state, self.model.device, tuple(self.model.recommender.dense.values))

    def _exact(self, step: TrainedStep, theta: Theta, pull: Sequence[Tensor]) -> list[Tensor]:
        """−∇_Θ Σ_k rate_k ⟨v_k, direction_k(∇_k L_train(W_{t−1}, Θ))⟩ by differentiating twice."""
        loss = self._training_loss(step, step.point, theta)
        inner = torch.autograd.grad(loss, step.point.leaves, create_graph=True, allow_unused=True, materialize_grads=True)
        moved = self._directions(step, inner)
        terms = [rate * (v * d).sum() for (rate, d), v in zip(moved, pull, strict=True)]
        return gradients(-torch.stack(terms).sum(), list(theta.leaves))

    def _finite_difference(self, step: TrainedStep, theta: Theta, pull: Sequence[Tensor]) -> list[Tensor]:
        """The same by (∇_Θ L_train(W⁺) − ∇_Θ L_train(W⁻)) / 2R, W± = W_{t−1} ± R ṽ, R = 0.01/‖ṽ‖ (DARTS, section 2.3).

        ṽ_k = rate_k · ∂direction_k/∂gradient_k · v_k: optimisers are elementwise, so their Jacobian is diagonal.
        """
        leaves = [g.detach().requires_grad_() for g in gradients(self._training_loss(step, step.point, theta), step.point.leaves)]
        terms = [rate * (v * d).sum() for (rate, d), v in zip(self._directions(step, leaves), pull, strict=True)]
        towards = gradients(torch.stack(terms).sum(), leaves)
        norm = torch.sqrt(torch.stack([t.square().sum() for t in towards]).sum())
        # A host that looked whether it is 0 would wait for the device. Without a slope both ends are one point: the difference is 0.
        radius = FINITE_DIFFERENCE_NORM / torch.where(norm > 0, norm, torch.ones_like(norm))
        ends = []
        for sign in (1.0, -1.0):
            shifted = step.point.moved([sign * radius * t for t in towards])
            ends.append(gradients(self._training_loss(step, shifted, theta), list(theta.leaves)))
        return [-(above - below) / (2.0 * radius) for above, below in zip(*ends, strict=True)]

    def _training_loss(self, step: TrainedStep, point: Point, theta: Theta) -> Tensor:
        logits = self.model.recommender.logits(point, step.batch, theta.weights(step.batch))
        return self.model.loss(logits, step.target)

    def _directions(self, step: TrainedStep, inner: Sequence[Tensor]) -> list[tuple[float, Tensor]]:
        """Rate and direction of every leaf of W, as that step's optimisers made them from their state of that moment."""
        recommender = self.model.recommender
        kinds: list[tuple[Optimiser, State]] = [(recommender.dense.optimiser, state) for state in step.dense_state.values()]
        kinds += [(recommender.users.plan.optimiser, step.point.users.state), (recommender.items.plan.optimiser, step.point.items.state)]
        return [
            (optimiser.rate, optimiser.direction(gradient, state, step.number, self.preconditioner)[0])
            for gradient, (optimiser, state) in zip(inner, kinds, strict=True)
        ]

    @staticmethod
    def _aligned(outer: Sequence[Tensor], validation: EncodedBatch, inner: EncodedBatch) -> list[Tensor]:
        """∂L_val/∂W on the leaves of the inner step: rows by id, zero for ids that the validation batch does not hold."""
        return [
            *outer[:-2],
            _rows_by_id(outer[-2], validation.user_ids, inner.user_ids),
            _rows_by_id(outer[-1], validation.item_ids, inner.item_ids),
        ]


def _rows_by_id(rows: Tensor, ids: Sequence[str], target: Sequence[str]) -> Tensor:
    """rows [n, D] of `ids`, as [m, D] for `target`; zeros for ids without a row."""
    positions = {identifier: n for n, identifier in enumerate(ids)}
    index = to_device(np.array([positions.get(w, len(ids)) for w in target], dtype=np.int64), device=rows.device)
    return torch.cat([rows, rows.new_zeros(1, rows.shape[1])])[index]
