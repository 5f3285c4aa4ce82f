"""The networks that predict: a fixed-size one (paper, Fig. 2) and the enhanced one with selection (Fig. 5).

Shape legend: B interactions, N spaces, D numbers of a concatenated row, W common width, F context features, C outputs.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.models.embedding import EmbeddingSpaces
from pipeline.models.layers import Mlp, Parameters, ParametersView
from pipeline.models.selection import SoftScale, select


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkInputs:
    """What a network sees of a mini-batch, one row per interaction.

    Attributes:
        user_rows, item_rows: [B, D] concatenated embeddings.
        user_weights, item_weights: [B, N] α and β; None where nothing is selected.
        features: [B, F] context features; the paper's networks use none.
    """

    user_rows: Tensor
    item_rows: Tensor
    user_weights: Tensor | None
    item_weights: Tensor | None
    features: Tensor


class Network(Protocol):
    """A prediction network as a pure function of its dense parameters W."""

    def initial(self, seed: int) -> Parameters:
        """Initial dense parameters; float64, CPU; a function of the seed alone."""
        ...

    def __call__(self, parameters: ParametersView, inputs: NetworkInputs) -> Tensor:
        """Logits, [B, C]."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedSizeNetwork:
    """FSE: both sides' rows concatenated, hidden layers, output (paper, section 2.1 and 3.4).

    Attributes:
        dims: dimensions of the spaces whose total width the rows have, 146 in the paper.
        hidden: widths of the hidden layers.
        outputs: C.
    """

    dims: tuple[int, ...]
    hidden: tuple[int, ...]
    outputs: int

    @property
    def _predictor(self) -> Mlp:
        return Mlp(name="predictor", sizes=(2 * sum(self.dims), *self.hidden, self.outputs))

    def initial(self, seed: int) -> Parameters:
        """Initial dense parameters; float64, CPU."""
        return self._predictor.initial(seed)

    def __call__(self, parameters: ParametersView, inputs: NetworkInputs) -> Tensor:
        """Logits, [B, C]."""
        return self._predictor(parameters, torch.cat([inputs.user_rows, inputs.item_rows], dim=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectingNetwork:
    """The enhanced network: Eq. 1 and 2 per side, selection (Eq. 7), concatenation, hidden layers (Eq. 4), output (Eq. 5).

    Attributes:
        users, items: the embedding spaces of each side.
        hidden: widths of the hidden layers.
        outputs: C.
        scale: Eq. 7's factor.
    """

    users: EmbeddingSpaces
    items: EmbeddingSpaces
    hidden: tuple[int, ...]
    outputs: int
    scale: SoftScale = "1/N"

    @property
    def _predictor(self) -> Mlp:
        return Mlp(name="predictor", sizes=(self.users.dims[-1] + self.items.dims[-1], *self.hidden, self.outputs))

    def initial(self, seed: int) -> Parameters:
        """Initial dense parameters; float64, CPU."""
        return self.users.initial(seed) | self.items.initial(seed) | self._predictor.initial(seed)

    def __call__(self, parameters: ParametersView, inputs: NetworkInputs) -> Tensor:
        """Logits, [B, C]."""
        if inputs.user_weights is None or inputs.item_weights is None:
            raise ValueError("a selecting network needs weights for both sides")
        users_BW = select(self.users(parameters, inputs.user_rows), inputs.user_weights, scale=self.scale)
        items_BW = select(self.items(parameters, inputs.item_rows), inputs.item_weights, scale=self.scale)
        return self._predictor(parameters, torch.cat([users_BW, items_BW], dim=1))
