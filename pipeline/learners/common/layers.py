"""Fully-connected layers as modules whose initial parameters depend on a seed and a name alone.

Shape legend: B interactions, I inputs, O outputs.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Parameters = dict[str, Tensor]
ParametersView = Mapping[str, Tensor]
Activation = Literal["tanh", "relu"]


def seeded_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on (seed, name) only: neither the global generator nor other layers move it."""
    digest = hashlib.blake2b(f"{seed}\x00{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def glorot_uniform(generator: torch.Generator, inputs: int, outputs: int) -> Tensor:
    """Glorot and Bengio's (2010) initial weights for tanh layers: [inputs, outputs] float64, variance 2 / (inputs + outputs)."""
    half_width = math.sqrt(6.0 / (inputs + outputs))
    unit: Tensor = torch.rand(inputs, outputs, generator=generator, dtype=torch.float64)
    return (2.0 * unit - 1.0) * half_width


class Affine(nn.Module):
    """x ↦ Wᵀx + b.

    Args:
        weight: [I, O] initial W; b begins at zero.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(weight.shape[1], dtype=weight.dtype))

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, I] to [B, O]."""
        return torch.addmm(self.bias, x_BI, self.weight)


class Mlp(nn.Sequential):
    """h_m = activation(W_mᵀ h_{m−1} + b_m) for the hidden layers, linear at the output (paper, Eq. 4 and the inside of Eq. 5).

    Hidden layers begin at Glorot's weights and the output layer at zero: the first predictions are exactly uniform. float64, CPU.

    Args:
        sizes: width of the input, of each hidden layer, and of the output.
        generator: of the initial weights.
        activation: of the hidden layers.
    """

    def __init__(self, sizes: Sequence[int], generator: torch.Generator, activation: Activation = "tanh") -> None:
        *hidden, output = (glorot_uniform(generator, inputs, outputs) for inputs, outputs in pairwise(sizes))
        super().__init__(*(Affine(weight) for weight in (*hidden, torch.zeros_like(output))))
        self._squash = torch.tanh if activation == "tanh" else torch.relu

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, sizes[0]] to [B, sizes[-1]]."""
        *hidden, output = self
        for layer in hidden:
            x_BI = self._squash(layer(x_BI))
        result: Tensor = output(x_BI)
        return result
