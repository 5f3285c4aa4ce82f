"""Embedding spaces of several dimensions made comparable (paper, section 2.2, Eq. 1 and 2).

Shape legend: B interactions, N spaces, D = d_1 + … + d_N numbers of a concatenated row, W = d_N the common width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.models.layers import Parameters, ParametersView, glorot_uniform, seeded_generator

Normalisation = Literal["batch", "layer", "none"]

EPSILON = 1e-5


def normalise(x_BNW: Tensor, kind: Normalisation, epsilon: float = EPSILON) -> Tensor:
    """(x − μ) / √(σ² + ε) with the biased variance, without affine parameters and without running statistics (inside of Eq. 2).

    ``batch`` takes μ and σ² per space and feature over the batch's interactions, at prediction as in training (a batch of one gives 0);
    ``layer`` over the features of one interaction in one space, so that no prediction depends on who shares the batch.
    """
    if kind == "none":
        return x_BNW
    axis = 0 if kind == "batch" else -1
    centred = x_BNW - x_BNW.mean(dim=axis, keepdim=True)
    variance = centred.square().mean(dim=axis, keepdim=True)
    return centred * torch.rsqrt(variance + epsilon)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingSpaces:
    """N embeddings of one id, stored side by side in one row, mapped to one width.

    Attributes:
        name: prefix of the parameters' names; two sides that share the linear maps share the name.
        dims: d_1 < … < d_N.
        normalisation: Eq. 2's, ``batch`` in the paper.
    """

    name: str
    dims: tuple[int, ...]
    normalisation: Normalisation

    def initial(self, seed: int) -> Parameters:
        """W_n [d_n, W] by Glorot, b_n zero; float64, CPU."""
        generator = seeded_generator(seed, self.name)
        parameters: Parameters = {}
        for n, dim in enumerate(self.dims):
            parameters[f"{self.name}.{n}.weight"] = glorot_uniform(generator, dim, self.dims[-1])
            parameters[f"{self.name}.{n}.bias"] = torch.zeros(self.dims[-1], dtype=torch.float64)
        return parameters

    def transform(self, parameters: ParametersView, rows_BD: Tensor) -> Tensor:
        """ẽ_n = W_nᵀ e_n + b_n (Eq. 1): [B, D] to [B, N, W]."""
        parts = torch.split(rows_BD, list(self.dims), dim=1)
        mapped = [
            torch.addmm(parameters[f"{self.name}.{n}.bias"], part, parameters[f"{self.name}.{n}.weight"]) for n, part in enumerate(parts)
        ]
        return torch.stack(mapped, dim=1)

    def __call__(self, parameters: ParametersView, rows_BD: Tensor) -> Tensor:
        """ê_n = tanh(normalised ẽ_n) (Eq. 2): [B, D] to [B, N, W], every number in (−1, 1)."""
        return torch.tanh(normalise(self.transform(parameters, rows_BD), self.normalisation))
