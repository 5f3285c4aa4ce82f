"""Fully-connected layers as pure functions of named parameters, so that a training step can be differentiated through.

Parameters are dictionaries of tensors, not module attributes: the bilevel update evaluates one network at several parameter values.

Shape legend: B interactions, I inputs, O outputs.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Mlp:
    """h_m = activation(W_mᵀ h_{m−1} + b_m) for the hidden layers, linear at the output (paper, Eq. 4 and the inside of Eq. 5).

    Attributes:
        name: prefix of the parameters' names.
        sizes: width of the input, of each hidden layer, and of the output.
        activation: of the hidden layers.
    """

    name: str
    sizes: tuple[int, ...]
    activation: Activation = "tanh"

    def initial(self, seed: int) -> Parameters:
        """Glorot hidden layers, zero biases, and a zero output layer: the first predictions are exactly uniform. float64, CPU."""
        generator = seeded_generator(seed, self.name)
        parameters: Parameters = {}
        last = len(self.sizes) - 2
        for layer, (inputs, outputs) in enumerate(pairwise(self.sizes)):
            weight = glorot_uniform(generator, inputs, outputs)
            parameters[f"{self.name}.{layer}.weight"] = torch.zeros_like(weight) if layer == last else weight
            parameters[f"{self.name}.{layer}.bias"] = torch.zeros(outputs, dtype=torch.float64)
        return parameters

    def __call__(self, parameters: ParametersView, x_BI: Tensor) -> Tensor:
        """[B, sizes[0]] to [B, sizes[-1]]."""
        squash = torch.tanh if self.activation == "tanh" else torch.relu
        last = len(self.sizes) - 2
        h_BI = x_BI
        for layer in range(last + 1):
            z_BO = torch.addmm(parameters[f"{self.name}.{layer}.bias"], h_BI, parameters[f"{self.name}.{layer}.weight"])
            h_BI = z_BO if layer == last else squash(z_BO)
        return h_BI
