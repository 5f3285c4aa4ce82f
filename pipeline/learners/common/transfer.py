"""The border between host and device: whatever a step copies passes here, and nothing here waits but `Arriving.wait`.

On CUDA a copy goes through pinned memory and is queued behind the step's other work. Elsewhere there is nothing to copy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray[Any], *, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The array's numbers on the device, without waiting. On the CPU the memory is the array's own where the type is.

    Args:
        array: of any shape; not changed until the step ends.
        device: of the arithmetic.
        dtype: of the tensor; None: the array's.
    """
    host = torch.as_tensor(array, dtype=dtype)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arriving:
    """Numbers on their way to the host.

    Attributes:
        host: where they arrive.
        event: passed when they have; None: they are there.
    """

    host: Tensor
    event: torch.cuda.Event | None

    def wait(self) -> NDArray[Any]:
        """The numbers. Waits for all that the device was given before them: what was sent earlier has then arrived too."""
        if self.event is not None:
            self.event.synchronize()
        return np.asarray(self.host.numpy())


def to_host(tensor: Tensor) -> Arriving:
    """Sends a tensor's numbers to the host, without waiting and without its graph."""
    own = tensor.detach()
    if own.device.type != "cuda":
        return Arriving(host=own, event=None)
    host = torch.empty(own.shape, dtype=own.dtype, pin_memory=True)
    host.copy_(own, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return Arriving(host=host, event=event)
