"""The lower level of the bilevel problem, W: a prediction network's dense layers and the rows of its two embedding tables.

Shape legend: B interactions, N spaces, C outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.dense import DenseParameters
from autoemb_pipeline.learners.common.layers import ParametersView
from autoemb_pipeline.learners.common.tables import EmbeddingTable, GatheredRows
from autoemb_pipeline.learners.paper.network import NetworkInputs
from autoemb_pipeline.learners.search.encoding import EncodedBatch
from autoemb_pipeline.learners.search.selectors import Weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A value of W as far as one mini-batch can see it.

    Attributes:
        dense: the dense parameters.
        users, items: rows of the mini-batch's distinct ids.
    """

    dense: ParametersView
    users: GatheredRows
    items: GatheredRows

    @property
    def leaves(self) -> list[Tensor]:
        """Every tensor of W, dense layers first."""
        return [*self.dense.values(), self.users.values, self.items.values]

    def moved(self, displacement: Sequence[Tensor]) -> "Point":
        """This point plus a displacement in the order of its leaves, as new leaves; optimiser state stays."""
        ends = [(leaf.detach() + delta).requires_grad_() for leaf, delta in zip(self.leaves, displacement, strict=True)]
        return Point(
            dense=dict(zip(self.dense, ends[:-2], strict=True)),
            users=replace(self.users, values=ends[-2]),
            items=replace(self.items, values=ends[-1]),
        )


class Recommender:
    """Network and tables, with one step counter.

    Args:
        dense: the network that predicts, and its dense parameters.
        users, items: its embedding tables.
    """

    def __init__(self, dense: DenseParameters, users: EmbeddingTable, items: EmbeddingTable) -> None:
        self.dense = dense
        self.users = users
        self.items = items

    def gather(self, batch: EncodedBatch) -> Point:
        """W as it stands now, for this mini-batch."""
        return Point(dense=self.dense.values, users=self.users.gather(batch.user_ids), items=self.items.gather(batch.item_ids))

    def logits(self, point: Point, batch: EncodedBatch, weights: Weights) -> Tensor:
        """[B, C] at that value of W."""
        alpha, beta = weights if weights is not None else (None, None)
        inputs = NetworkInputs(
            # embedding's backward sums an id's gradients in a fixed order on every device; advanced indexing's does not
            user_rows=torch.nn.functional.embedding(batch.user_index, point.users.values),
            item_rows=torch.nn.functional.embedding(batch.item_index, point.items.values),
            user_weights=alpha,
            item_weights=beta,
            features=batch.features,
        )
        logits: Tensor = self.dense.call(point.dense, inputs)
        return logits if batch.offset is None else logits + batch.offset

    def apply(self, point: Point, gradients: Sequence[Tensor]) -> None:
        """One step from `point`, the current W, with gradients in the order of its leaves; scatters the rows."""
        self.dense.apply(gradients[:-2])
        self.users.apply(point.users, gradients[-2], self.dense.steps)
        self.items.apply(point.items, gradients[-1], self.dense.steps)

    def settle(self) -> None:
        """The store has every row after it."""
        self.users.settle()
        self.items.settle()

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Dense parameters, their optimiser's state and the step counter. The store then has every row."""
        self.settle()
        return self.dense.state_dict()

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        self.dense.load_state_dict(state)
