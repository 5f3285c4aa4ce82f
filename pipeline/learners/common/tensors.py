"""From torch's numbers to a checkpoint's."""

from typing import Any

from numpy.typing import NDArray
from torch import Tensor


def array_of(tensor: Tensor) -> NDArray[Any]:
    """A contiguous copy without gradient, in the tensor's own type."""
    copied: NDArray[Any] = tensor.detach().cpu().numpy().copy(order="C")
    return copied
