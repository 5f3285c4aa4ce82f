"""What each block's product is multiplied by: the stream learner's place for dimension search and for its baselines.

Shape legend: B interactions, N blocks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from autoemb_pipeline.learners.search.encoding import EncodedBatch, encode
from autoemb_pipeline.learners.search.selectors import Selector, Theta
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.records import FloatArray, LearnerInputs

SideArrays = tuple[FloatArray, FloatArray]
NOT_OPENED: SideArrays = (np.zeros((0, 0)), np.zeros((0, 0)))


class Gate(Protocol):
    """Opened for a mini-batch before its labels are known; may learn from its loss afterwards."""

    def open(self, inputs: LearnerInputs) -> FloatArray:
        """[B, N] factors R of the blocks' products."""
        ...

    @property
    def weights(self) -> SideArrays | None:
        """[B, N] α and β of the mini-batch opened; None where no weights are learnt."""
        ...

    @property
    def uses(self) -> SideArrays:
        """[B, N] A and B, whose product is R; ones where sides do not matter."""
        ...

    def learn(self, gradient: FloatArray) -> None:
        """One step from ∂L/∂R, [B, N], of the mini-batch opened."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and optimiser state."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        ...


class FixedGate:
    """Uses that follow from the inputs alone: nothing is searched.

    Args:
        uses: from a mini-batch to A and B, see `same_use` and `threshold_use`.
    """

    weights: SideArrays | None = None

    def __init__(self, uses: Callable[[LearnerInputs], SideArrays]) -> None:
        self._uses_of = uses
        self.uses = NOT_OPENED

    def open(self, inputs: LearnerInputs) -> FloatArray:
        """The product of both sides' uses."""
        self.uses = self._uses_of(inputs)
        return self.uses[0] * self.uses[1]

    def learn(self, gradient: FloatArray) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


def same_use(use: FloatArray) -> Callable[[LearnerInputs], SideArrays]:
    """The same uses for every id of both sides: ones for FSE, zeros for context features and biases alone. use: [N]."""

    def uses(inputs: LearnerInputs) -> SideArrays:
        every = np.tile(use, (len(inputs.user_ids), 1))
        return every, every

    return uses


def threshold_use(thresholds: Sequence[int], blocks: Blocks) -> Callable[[LearnerInputs], SideArrays]:
    """An id's space follows from its count alone: one more per threshold reached. thresholds: N - 1 increasing counts."""
    spaces = np.eye(len(blocks.dims))

    def uses(inputs: LearnerInputs) -> SideArrays:
        users, items = (spaces[np.searchsorted(thresholds, side.count, side="right")] for side in (inputs.users, inputs.items))
        return blocks.use_of(users), blocks.use_of(items)

    return uses


class SearchedGate:
    """Soft selection by weights that are searched: controllers (AutoEmb, SAM) or free logits per id (DARTS).

    Θ learns from ∂L/∂α of the loss of predictions made before the rows learnt their labels: each interaction is the validation of the
    rows trained on all earlier ones (first order). In first order SAM's gradient is the same.

    Args:
        selector: Θ.
        dims: of the spaces.
        blocks: theirs.
        cost, amortised: λ and its exponent, see `StreamConfig.cost`.
        dtype, device: of Θ's arithmetic.
    """

    def __init__(
        self,
        selector: Selector,
        *,
        dims: tuple[int, ...],
        blocks: Blocks,
        cost: float,
        amortised: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.selector = selector
        self._dims, self._blocks = np.array(dims, dtype=np.float64), blocks
        self._cost, self._amortised = cost, amortised
        self._dtype, self._device = dtype, device
        self._opened: tuple[EncodedBatch, Theta, tuple[Tensor, Tensor], SideArrays] | None = None
        self.weights: SideArrays | None = None
        self.uses = NOT_OPENED
        self.batch: EncodedBatch | None = None

    def open(self, inputs: LearnerInputs) -> FloatArray:
        """The product of both sides' uses."""
        batch = encode(inputs, dtype=self._dtype, device=self._device)
        theta = self.selector.gather(batch)
        weights = theta.weights(batch)
        if weights is None:
            raise ValueError("a searched gate needs a selector with weights")
        alpha, beta = (w.detach().cpu().numpy().astype(np.float64) for w in weights)
        self._opened = (batch, theta, weights, (inputs.users.count, inputs.items.count))
        self.batch = batch
        self.weights = (alpha, beta)
        self.uses = (self._blocks.use_of(alpha), self._blocks.use_of(beta))
        return self.uses[0] * self.uses[1]

    def learn(self, gradient: FloatArray, extra: Tensor | None = None) -> None:
        """One step of Θ from ∂L/∂R, the cost, and a further differentiable loss (`trace`)."""
        if self._opened is None:
            raise RuntimeError("learn() without open()")
        _, theta, weights, counts = self._opened
        terms = []
        for own, other, count in zip(weights, reversed(self.uses), counts, strict=True):
            slope = self._blocks.weights_gradient(gradient * other) + self._cost * self._dims / ((1.0 + count) ** self._amortised)[:, None]
            terms.append((own * torch.as_tensor(slope, dtype=own.dtype, device=own.device)).sum())
        loss = torch.stack(terms).sum()
        if extra is not None:
            loss = loss + extra
        gradients = torch.autograd.grad(loss, list(theta.leaves))
        self.selector.apply([(theta, gradients)])
        self._opened = None

    def weights_at(self, user_inputs: FloatArray, item_inputs: FloatArray) -> tuple[Tensor, Tensor]:
        """α and β for other controller inputs, [B, K] each, differentiable in the Θ of the mini-batch opened."""
        if self._opened is None:
            raise RuntimeError("weights_at() without open()")
        batch, theta = self._opened[:2]
        users, items = (torch.as_tensor(x, dtype=self._dtype, device=self._device) for x in (user_inputs, item_inputs))
        weights = theta.weights(replace(batch, user_inputs=users, item_inputs=items))
        if weights is None:
            raise ValueError("a searched gate needs a selector with weights")
        return weights

    def state_dict(self) -> dict[str, Tensor]:
        """Θ and its optimiser's state."""
        return self.selector.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        self._opened = None
        self.selector.load_state_dict(state)
