"""What a checkpoint holds beside its rows: tensors, and a JSON value in the manifest; written from memory and checked when read.

Layout of a checkpoint directory::

    manifest.json          what is in it, with checksums; written last
    tensors.safetensors    model, optimiser, RNG, metric state
    rocksdb/               rows of embedding tables and of the context
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from autoemb_pipeline.checkpoint.manifest import Manifest, frozen_json
from autoemb_pipeline.errors import CheckpointError

TENSORS = "tensors.safetensors"
ROWS = "rocksdb"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Copies of everything but rows, taken at one moment.

    Attributes:
        step: the last step trained.
        payload: any JSON value; goes into the manifest.
        tensors: name -> numbers.
    """

    step: int
    payload: Any
    tensors: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, *, step: int, payload: Any, tensors: Mapping[str, NDArray[Any]]) -> "Snapshot":
        """Copies, so that training may go on and change the originals.

        Raises:
            TypeError: the payload holds what JSON cannot.
        """
        return cls(
            step=step,
            payload=frozen_json(payload, what="payload"),
            tensors={name: np.array(array, order="C") for name, array in tensors.items()},
        )

    def encode(self) -> dict[str, bytes]:
        """File name -> content. The same snapshot gives the same bytes."""
        return {TENSORS: safetensors.numpy.save(dict(self.tensors))}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedCheckpoint:
    """A checkpoint as read back.

    Attributes:
        step, payload, tensors: as given to `CheckpointWriter.begin`.
        directory: the checkpoint; its ``rocksdb`` folder is the source of a row store and is never opened itself.
    """

    step: int
    payload: Any
    tensors: dict[str, NDArray[Any]]
    directory: Path

    @property
    def rows(self) -> Path:
        """For `RocksConfig.source` and `ReadOnlyRows`."""
        return self.directory / ROWS


def load_contents(directory: Path, manifest: Manifest) -> LoadedCheckpoint:
    """Everything but rows, from bytes whose checksum was compared first.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    tensors = safetensors.numpy.load(_checked_bytes(directory, TENSORS, manifest))
    return LoadedCheckpoint(step=manifest.step, payload=manifest.payload, tensors=tensors, directory=directory)


def _checked_bytes(directory: Path, name: str, manifest: Manifest) -> bytes:
    try:
        data = (directory / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"Checkpoint {directory} has no readable {name}.", why=str(error)) from error
    record = manifest.files.get(name)
    if record is None or hashlib.sha256(data).hexdigest() != record.sha256:
        raise CheckpointError(f"Checkpoint {directory} is damaged: {name}.", why="Its checksum differs from the manifest's.")
    return data
