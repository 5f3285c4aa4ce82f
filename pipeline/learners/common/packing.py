"""Strings as tensors and back, for checkpoints that hold tensors only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoemb_pipeline.errors import CheckpointError


def pack_strings(name: str, strings: Sequence[str]) -> dict[str, Tensor]:
    """Two tensors: all UTF-8 bytes in a row, and the length of each string."""
    encoded = [s.encode() for s in strings]
    joined = np.frombuffer(b"".join(encoded), dtype=np.uint8).copy()
    return {f"{name}/bytes": torch.from_numpy(joined), f"{name}/lengths": torch.tensor([len(e) for e in encoded], dtype=torch.int64)}


def unpack_strings(name: str, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The strings that `pack_strings` packed.

    Raises:
        CheckpointError: a tensor is missing.
    """
    joined = read(state, f"{name}/bytes").numpy().tobytes()
    ends = read(state, f"{name}/lengths").cumsum(0).tolist()
    return tuple(joined[start:end].decode() for start, end in zip([0, *ends], ends, strict=False))


def read(state: Mapping[str, Tensor], name: str) -> Tensor:
    """A copy of the tensor of that name.

    Raises:
        CheckpointError: there is none.
    """
    if name not in state:
        raise CheckpointError(
            f"the checkpoint's tensor {name} is missing",
            why="it is of another configuration",
            remedy="start with its own options",
        )
    return copied(state[name])


def copied(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU without gradient."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def restored(state: Mapping[str, Tensor], name: str, like: NDArray[Any]) -> NDArray[Any]:
    """The tensor of that name as an array.

    Raises:
        CheckpointError: it is missing, or of another shape or type than `like`.
    """
    known = read(state, name).numpy()
    if known.shape != like.shape or known.dtype != like.dtype:
        raise CheckpointError(
            f"the checkpoint's tensor {name} is {known.shape} {known.dtype}, not {like.shape} {like.dtype}",
            why="it is of another configuration",
            remedy="start with its own options",
        )
    return known
