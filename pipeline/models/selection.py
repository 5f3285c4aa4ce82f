"""Selection among the transformed embeddings (paper, Eq. 3, 6 and 7).

Shape legend: B interactions, N spaces, W common width.
"""

from typing import Literal

import torch
from torch import Tensor

Selection = Literal["soft", "hard"]
SoftScale = Literal["1/N", "1"]


def select(spaces_BNW: Tensor, weights_BN: Tensor, *, scale: SoftScale = "1/N") -> Tensor:
    """Eq. 7: u = s · Σ_n α_n ê_n with s = 1/N as printed, or s = 1: [B, W].

    Hard selection (Eq. 6) is this with one-hot weights, hence on the same scale.
    """
    mixed_BW = (weights_BN.unsqueeze(2) * spaces_BNW).sum(dim=1)
    return mixed_BW / weights_BN.shape[1] if scale == "1/N" else mixed_BW


def largest(weights_BN: Tensor) -> Tensor:
    """One-hot rows at the largest weight, the first of equals (Eq. 6, whose printed max is an argmax). Without gradient."""
    chosen_B = weights_BN.argmax(dim=1)
    return torch.nn.functional.one_hot(chosen_B, weights_BN.shape[1]).to(weights_BN.dtype)
