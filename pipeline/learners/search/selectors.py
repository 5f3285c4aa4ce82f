"""The upper level of the bilevel problem, Θ: where the weights over the embedding spaces come from.

Shape legend: B interactions, N spaces.
"""

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.dense import DenseParameters
from autoemb_pipeline.learners.common.packing import read
from autoemb_pipeline.learners.common.tables import EmbeddingTable, GatheredRows
from autoemb_pipeline.learners.common.transfer import to_device
from autoemb_pipeline.learners.search.encoding import EncodedBatch, distinct

Weights = tuple[Tensor, Tensor] | None
"""α and β, [B, N] each; None for a network that selects nothing."""


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

    def apply(self, terms: Sequence[tuple[Theta, Sequence[Tensor]]]) -> None:
        """One step of Θ with the sum of the terms; each has gradients in the order of its theta's leaves."""
        ...

    def settle(self) -> None:
        """The store has every row after it."""
        ...

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Θ and its optimiser's state, without rows."""
        ...

    def load_state_dict(self, state: Arrays) -> None:
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

    def apply(self, terms: Sequence[tuple[Theta, Sequence[Tensor]]]) -> None:
        """Nothing to step."""

    def settle(self) -> None:
        """No rows."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Arrays) -> None:
        """Nothing to restore."""


class EqualWeights(NoSelection):
    """1/N for every space, never searched.

    Args:
        spaces: N.
    """

    def __init__(self, spaces: int) -> None:
        self._spaces = spaces

    def weights(self, batch: EncodedBatch) -> Weights:
        """1/N each."""
        equal = batch.user_inputs.new_full((len(batch), self._spaces), 1.0 / self._spaces)
        return equal, equal


class ControllerTheta:
    """The controllers' parameters at one moment."""

    def __init__(self, parameters: DenseParameters) -> None:
        self._parameters = parameters
        self._values = parameters.values
        self.leaves: Sequence[Tensor] = list(self._values.values())

    def weights(self, batch: EncodedBatch) -> Weights:
        """α and β from the controllers."""
        weights: tuple[Tensor, Tensor] = self._parameters.call(self._values, batch.user_inputs, batch.item_inputs)
        return weights


class Controllers:
    """Two controller networks, one per side (paper, section 2.3).

    Args:
        parameters: of `BothControllers`.
    """

    searches = True

    def __init__(self, parameters: DenseParameters) -> None:
        self.parameters = parameters

    def gather(self, batch: EncodedBatch) -> Theta:  # noqa: ARG002
        """The controllers as they stand: the same for every mini-batch."""
        return ControllerTheta(self.parameters)

    def apply(self, terms: Sequence[tuple[Theta, Sequence[Tensor]]]) -> None:
        """One step of both controllers."""
        leaf_by_leaf = zip(*(gradients for _, gradients in terms), strict=True)
        self.parameters.apply([functools.reduce(torch.add, summands) for summands in leaf_by_leaf])

    def settle(self) -> None:
        """No rows."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The controllers' parameters and optimiser state."""
        return self.parameters.state_dict()

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        self.parameters.load_state_dict(state)


class LogitTheta:
    """Rows of free logits of one mini-batch's ids."""

    def __init__(self, users: GatheredRows, items: GatheredRows) -> None:
        self.rows = (users, items)
        self.leaves: Sequence[Tensor] = (users.values, items.values)

    def weights(self, batch: EncodedBatch) -> Weights:
        """α and β: softmax of each id's logits."""
        users = torch.nn.functional.embedding(batch.user_index, self.leaves[0])
        items = torch.nn.functional.embedding(batch.item_index, self.leaves[1])
        return torch.softmax(users, dim=1), torch.softmax(items, dim=1)


class FreeLogits:
    """N free weights per user and item (the DARTS baseline of section 3.4).

    Args:
        users, items: tables of rows of N logits.
    """

    searches = True

    def __init__(self, users: EmbeddingTable, items: EmbeddingTable) -> None:
        self._tables = (users, items)
        self._steps = 0

    def gather(self, batch: EncodedBatch) -> Theta:
        """Logits of the mini-batch's ids."""
        return LogitTheta(self._tables[0].gather(batch.user_ids), self._tables[1].gather(batch.item_ids))

    def apply(self, terms: Sequence[tuple[Theta, Sequence[Tensor]]]) -> None:
        """One step of every id that a term names."""
        self._steps += 1
        for side, table in enumerate(self._tables):
            named = [(theta.rows[side], gradients[side]) for theta, gradients in terms if isinstance(theta, LogitTheta)]
            ids, index = distinct([identifier for rows, _ in named for identifier in rows.ids])
            rows = table.gather(ids)
            summands = torch.cat([gradient for _, gradient in named])
            total = torch.zeros_like(rows.values).index_add(0, to_device(index, device=summands.device), summands)
            table.apply(rows, total, self._steps)

    def settle(self) -> None:
        """See `Selector.settle`."""
        for table in self._tables:
            table.settle()

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The step counter; the logits are rows, and the store then has every one."""
        self.settle()
        return {"logits/steps": np.array(self._steps, dtype=np.int64)}

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        self._steps = int(read(state, "logits/steps"))
