"""From numpy's numbers and types to torch's, and back."""

from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor


def torch_type(precision: Literal["float32", "float64"]) -> torch.dtype:
    """Torch's type of that name."""
    return torch.float32 if precision == "float32" else torch.float64


def array_of(tensor: Tensor) -> NDArray[Any]:
    """A contiguous copy without gradient, in the tensor's own type."""
    copied: NDArray[Any] = tensor.detach().cpu().numpy().copy(order="C")
    return copied
