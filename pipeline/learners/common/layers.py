"""Fully-connected layers as modules.

Shape legend: B interactions, I inputs, O outputs.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from autoemb_pipeline.learners.common.choices import Activation
from autoemb_pipeline.learners.common.initial import UniformGenerator, mlp_weights
from autoemb_pipeline.records import FloatArray

Parameters = dict[str, Tensor]
ParametersView = Mapping[str, Tensor]


class Affine(nn.Module):
    """x ↦ Wᵀx + b.

    Args:
        weight: [I, O] initial W; b begins at zero.
    """

    def __init__(self, weight: FloatArray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight))
        self.bias = nn.Parameter(torch.zeros(weight.shape[1], dtype=torch.float64))

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, I] to [B, O]."""
        return torch.addmm(self.bias, x_BI, self.weight)


class Mlp(nn.Sequential):
    """h_m = activation(W_mᵀ h_{m−1} + b_m) for the hidden layers, linear at the output (paper, Eq. 4 and the inside of Eq. 5).

    The output layer begins at zero: the first predictions are exactly uniform. float64, CPU.

    Args:
        sizes: width of the input, of each hidden layer, and of the output.
        generator: of the initial weights.
        activation: of the hidden layers.
    """

    def __init__(self, sizes: Sequence[int], generator: UniformGenerator, activation: Activation = "tanh") -> None:
        super().__init__(*(Affine(weight) for weight in mlp_weights(sizes, generator)))
        self._squash = torch.tanh if activation == "tanh" else torch.relu

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, sizes[0]] to [B, sizes[-1]]."""
        *hidden, output = self
        for layer in hidden:
            x_BI = self._squash(layer(x_BI))
        result: Tensor = output(x_BI)
        return result
