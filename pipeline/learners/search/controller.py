"""The controllers in torch: from an id's popularity and context to its weights over the embedding spaces (paper, section 2.3).

Shape legend: B interactions, N spaces, K = 35 + N controller inputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoemb_pipeline.learners.common.choices import Activation
from autoemb_pipeline.learners.common.initial import UniformGenerator
from autoemb_pipeline.learners.common.layers import Mlp
from autoemb_pipeline.learners.search.inputs import controller_width


class Controller(Mlp):
    """One side's controller: K → hidden layers → N, softmax (paper, Fig. 4). The output layer begins at zero but for `start`.

    Args:
        spaces: N.
        hidden: widths of the hidden layers; (512, 512) in the paper.
        generator: of the initial weights.
        activation: of the hidden layers; the paper names none, tanh is the rest of its network's.
        start: logit of the largest space before the first step; 0 makes the first weights 1/N.
    """

    def __init__(
        self, spaces: int, hidden: Sequence[int], generator: UniformGenerator, *, activation: Activation = "tanh", start: float = 0.0
    ) -> None:
        super().__init__((controller_width(spaces), *hidden, spaces), generator, activation)
        with torch.no_grad():
            self.get_parameter(f"{len(hidden)}.bias")[-1] = start

    def forward(self, inputs_BK: Tensor) -> Tensor:
        """α (or β): [B, K] to [B, N], rows sum to 1."""
        return torch.softmax(super().forward(inputs_BK), dim=1)


class BothControllers(nn.Module):
    """A controller per side.

    Args:
        users, items: the controllers.
    """

    def __init__(self, users: Controller, items: Controller) -> None:
        super().__init__()
        self.user_controller = users
        self.item_controller = items

    def forward(self, user_inputs_BK: Tensor, item_inputs_BK: Tensor) -> tuple[Tensor, Tensor]:
        """α and β, [B, N] each."""
        return self.user_controller(user_inputs_BK), self.item_controller(item_inputs_BK)
