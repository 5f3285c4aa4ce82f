"""The upper level of the bilevel problem, Θ: where the weights over the embedding spaces come from.

Shape legend: B interactions, N spaces.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipeline.learners.dense import DenseParameters
from pipeline.learners.encoding import EncodedBatch
from pipeline.learners.recommender import Weights
from pipeline.models.controller import Controller


class Theta(Protocol):
    """A value of Θ as far as one mini-batch can see it."""

    @property
    def leaves(self) -> Sequence[Tensor]:
        """Tensors that take gradients; none where nothing is searched."""
        ...

    def weights(self, batch: EncodedBatch) -> Weights:
        """α and β of the mini-batch, differentiable in the leaves."""
        ...


class Selector(Protocol):
    """Source of weights."""

    searches: bool

    def gather(self, batch: EncodedBatch) -> Theta:
        """Θ as it stands now, for this mini-batch."""
        ...

    def apply(self, parts: Sequence[tuple[Theta, Sequence[Tensor]]]) -> None:
        """One step of Θ with the sum of the parts; each has gradients in the order of its theta's leaves."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Θ and its optimiser's state, without rows."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        ...


class NoSelection:
    """Nothing is selected and nothing searched (FSE)."""

    searches = False
    leaves: Sequence[Tensor] = ()

    def weights(self, batch: EncodedBatch) -> Weights:  # noqa: ARG002
        """None."""
        return None

    def gather(self, batch: EncodedBatch) -> Theta:  # noqa: ARG002
        """Itself."""
        return self

    def apply(self, parts: Sequence[tuple[Theta, Sequence[Tensor]]]) -> None:
        """Nothing to step."""

    def state_dict(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


class ControllerTheta:
    """The controllers' parameters at one moment."""

    def __init__(self, users: Controller, items: Controller, values: Mapping[str, Tensor]) -> None:
        self._users = users
        self._items = items
        self._values = values
        self.leaves: Sequence[Tensor] = list(values.values())

    def weights(self, batch: EncodedBatch) -> Weights:
        """α and β from the controllers."""
        return self._users(self._values, batch.user_inputs), self._items(self._values, batch.item_inputs)


class Controllers:
    """Two controller networks, one per side (paper, section 2.3).

    Args:
        users, items: the controllers.
        parameters: of both.
    """

    searches = True

    def __init__(self, users: Controller, items: Controller, parameters: DenseParameters) -> None:
        self._users = users
        self._items = items
        self.parameters = parameters

    def gather(self, batch: EncodedBatch) -> Theta:  # noqa: ARG002
        """The controllers as they stand: the same for every mini-batch."""
        return ControllerTheta(self._users, self._items, self.parameters.values)

    def apply(self, parts: Sequence[tuple[Theta, Sequence[Tensor]]]) -> None:
        """One step of both controllers."""
        self.parameters.apply([functools.reduce(torch.add, terms) for terms in zip(*(part for _, part in parts), strict=True)])

    def state_dict(self) -> dict[str, Tensor]:
        """The controllers' parameters and optimiser state."""
        return self.parameters.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        self.parameters.load_state_dict(state)
