"""Strings as arrays and back, and what checkpoints hold as checked copies."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.errors import CheckpointError
from autoemb_pipeline.learners.base import Arrays


def pack_strings(name: str, strings: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Two arrays: all UTF-8 bytes in a row, and the length of each string."""
    encoded = [s.encode() for s in strings]
    joined = np.frombuffer(b"".join(encoded), dtype=np.uint8).copy()
    return {f"{name}/bytes": joined, f"{name}/lengths": np.array([len(e) for e in encoded], dtype=np.int64)}


def unpack_strings(name: str, state: Arrays) -> tuple[str, ...]:
    """The strings that `pack_strings` packed.

    Raises:
        CheckpointError: an array is missing.
    """
    joined = read(state, f"{name}/bytes").tobytes()
    ends = read(state, f"{name}/lengths").cumsum().tolist()
    return tuple(joined[start:end].decode() for start, end in zip([0, *ends], ends, strict=False))


def read(state: Arrays, name: str) -> NDArray[Any]:
    """A copy of the array of that name.

    Raises:
        CheckpointError: there is none.
    """
    if name not in state:
        raise CheckpointError(
            f"the checkpoint's tensor {name} is missing",
            why="it is of another configuration",
            remedy="start with its own options",
        )
    return np.array(state[name], order="C")


def restored(state: Arrays, name: str, like: NDArray[Any]) -> NDArray[Any]:
    """A copy of the array of that name.

    Raises:
        CheckpointError: it is missing, or of another shape or type than `like`.
    """
    known = read(state, name)
    if known.shape != like.shape or known.dtype != like.dtype:
        raise CheckpointError(
            f"the checkpoint's tensor {name} is {known.shape} {known.dtype}, not {like.shape} {like.dtype}",
            why="it is of another configuration",
            remedy="start with its own options",
        )
    return known
