"""The networks that predict: a fixed-size one (paper, Fig. 2) and the enhanced one with selection (Fig. 5).

Initial parameters are float64, on the CPU, and a function of the seed alone.

Shape legend: B interactions, N spaces, D = d_1 + … + d_N numbers of a concatenated row, W = d_N the common width, F context
features, C outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoemb_pipeline.learners.common.initial import UniformGenerator, glorot_uniform, seeded_generator
from autoemb_pipeline.learners.common.layers import Affine, Mlp, tanh
from autoemb_pipeline.learners.paper.choices import Normalisation, SoftScale

EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkInputs:
    """What a network sees of a mini-batch, one row per interaction.

    Attributes:
        user_rows, item_rows: [B, D] concatenated embeddings.
        user_weights, item_weights: [B, N] α and β; None where nothing is selected.
        features: [B, F] context features; the paper's networks use none of them.
    """

    user_rows: Tensor
    item_rows: Tensor
    user_weights: Tensor | None
    item_weights: Tensor | None
    features: Tensor


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


def select(spaces_BNW: Tensor, weights_BN: Tensor, *, scale: SoftScale = "1/N") -> Tensor:
    """Eq. 7: u = s · Σ_n α_n ê_n with s = 1/N as printed, or s = 1: [B, W].

    Hard selection (Eq. 6) is this with one-hot weights, hence on the same scale.
    """
    mixed_BW = (weights_BN.unsqueeze(2) * spaces_BNW).sum(dim=1)
    return mixed_BW / weights_BN.shape[1] if scale == "1/N" else mixed_BW


def largest(weights_BN: Tensor) -> Tensor:
    """One-hot rows at the largest weight, the first of equals (Eq. 6, whose printed max is an argmax). Without gradient."""
    return torch.zeros_like(weights_BN).scatter_(1, weights_BN.detach().argmax(dim=1, keepdim=True), 1.0)


class EmbeddingSpaces(nn.Sequential):
    """N embeddings of one id, stored side by side in one row, made comparable at one width (section 2.2).

    Args:
        dims: d_1 < … < d_N.
        normalisation: Eq. 2's, ``batch`` in the paper.
        generator: of the initial maps: W_n [d_n, W] by Glorot, b_n zero.
    """

    def __init__(self, dims: Sequence[int], normalisation: Normalisation, generator: UniformGenerator) -> None:
        super().__init__(*(Affine(glorot_uniform(generator, dim, dims[-1])) for dim in dims))
        self.dims = tuple(dims)
        self._normalisation = normalisation

    def transform(self, rows_BD: Tensor) -> Tensor:
        """ẽ_n = W_nᵀ e_n + b_n (Eq. 1): [B, D] to [B, N, W], of the rows' type, so that Eq. 2's statistics are."""
        embeddings = torch.split(rows_BD, list(self.dims), dim=1)
        return torch.stack([linear(e_Bd) for linear, e_Bd in zip(self, embeddings, strict=True)], dim=1).to(rows_BD.dtype)

    def forward(self, rows_BD: Tensor) -> Tensor:
        """ê_n = tanh(normalised ẽ_n) (Eq. 2): [B, D] to [B, N, W], every number in (−1, 1)."""
        return tanh(normalise(self.transform(rows_BD), self._normalisation))


def pairs(x_BF: Tensor, features: int) -> Tensor:
    """[B, features²] products of any two of the first features; with x13 = 1 among them, each feature itself is one of these."""
    x_Bf = x_BF[:, :features]
    return (x_Bf.unsqueeze(2) * x_Bf.unsqueeze(1)).flatten(1)


class FixedSizeNetwork(nn.Module):
    """FSE: both sides' rows concatenated, hidden layers, output (paper, section 2.1 and 3.4).

    Args:
        width: D, 146 in the paper.
        hidden: widths of the hidden layers.
        outputs: C.
        seed: of the initial parameters.
        features: of how many context features the hidden layers also see the products; none in the paper.
    """

    def __init__(self, width: int, hidden: Sequence[int], outputs: int, seed: int, features: int = 0) -> None:
        super().__init__()
        self.predictor = Mlp((2 * width + features**2, *hidden, outputs), seeded_generator(seed, "predictor"))
        self._features = features

    def forward(self, inputs: NetworkInputs) -> Tensor:
        """Logits, [B, C]."""
        logits: Tensor = self.predictor(torch.cat([inputs.user_rows, inputs.item_rows, pairs(inputs.features, self._features)], dim=1))
        return logits


class SelectingNetwork(nn.Module):
    """The enhanced network: Eq. 1 and 2 per side, selection (Eq. 7), concatenation, hidden layers (Eq. 4), output (Eq. 5).

    Args:
        dims: of the embedding spaces of each side.
        normalisation: Eq. 2's.
        shared_maps: one set of maps for both sides.
        hidden: widths of the hidden layers.
        outputs: C.
        seed: of the initial parameters.
        scale: Eq. 7's factor.
        features: as of `FixedSizeNetwork`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        normalisation: Normalisation,
        hidden: Sequence[int],
        outputs: int,
        seed: int,
        *,
        shared_maps: bool = False,
        scale: SoftScale = "1/N",
        features: int = 0,
    ) -> None:
        super().__init__()
        users, items = ("spaces", "spaces") if shared_maps else ("user_spaces", "item_spaces")
        self.user_spaces = EmbeddingSpaces(dims, normalisation, seeded_generator(seed, users))
        self.item_spaces = self.user_spaces if shared_maps else EmbeddingSpaces(dims, normalisation, seeded_generator(seed, items))
        self.predictor = Mlp((2 * dims[-1] + features**2, *hidden, outputs), seeded_generator(seed, "predictor"))
        self._scale = scale
        self._features = features

    def forward(self, inputs: NetworkInputs) -> Tensor:
        """Logits, [B, C]."""
        if inputs.user_weights is None or inputs.item_weights is None:
            raise ValueError("a selecting network needs weights for both sides")
        users_BW = select(self.user_spaces(inputs.user_rows), inputs.user_weights, scale=self._scale)
        items_BW = select(self.item_spaces(inputs.item_rows), inputs.item_weights, scale=self._scale)
        logits: Tensor = self.predictor(torch.cat([users_BW, items_BW, pairs(inputs.features, self._features)], dim=1))
        return logits
