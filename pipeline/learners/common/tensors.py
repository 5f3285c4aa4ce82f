"""From numpy's numbers and types to torch's, and back."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def torch_type(precision: str) -> torch.dtype:
    """Torch's type of parameters, rows and losses under that precision: float32 under bf16 too."""
    return torch.float64 if precision == "float64" else torch.float32


def array_of(tensor: Tensor) -> NDArray[Any]:
    """A contiguous copy without gradient, in the tensor's own type."""
    copied: NDArray[Any] = tensor.detach().cpu().numpy().copy(order="C")
    return copied
