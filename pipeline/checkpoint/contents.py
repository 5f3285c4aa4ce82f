"""The files of one checkpoint beside its rows: tensors, arrays and JSON values, each written from memory and checked when read.

Layout of a checkpoint directory::

    manifest.json              what is in it, with checksums; written last
    tensors.safetensors        model, optimiser, RNG
    prequential.safetensors    arrays of the metric state
    prequential.json           its plain values
    rocksdb/                   rows of embedding tables and of the context
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from autoemb_pipeline.checkpoint.manifest import Manifest, frozen_json
from autoemb_pipeline.errors import CheckpointError

TENSORS = "tensors.safetensors"
ARRAYS = "prequential.safetensors"
VALUES = "prequential.json"
ROWS = "rocksdb"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Copies of everything but rows, taken at one moment.

    Attributes:
        step: the last step trained.
        payload: any JSON value; goes into the manifest.
        tensors: on the CPU.
        arrays: numpy arrays.
        values: JSON values.
    """

    step: int
    payload: Any
    tensors: Mapping[str, torch.Tensor]
    arrays: Mapping[str, np.ndarray[Any, Any]]
    values: Mapping[str, Any]

    @classmethod
    def of(cls, *, step: int, payload: Any, tensors: Mapping[str, torch.Tensor], arrays: Mapping[str, Any]) -> "Snapshot":
        """Copies, so that training may go on and change the originals.

        Raises:
            TypeError: payload or arrays hold what JSON and safetensors cannot.
        """
        numeric = {name: value for name, value in arrays.items() if isinstance(value, np.ndarray)}
        for name, value in numeric.items():
            if value.dtype.kind not in "biuf":
                raise TypeError(f"array {name!r} has dtype {value.dtype}; safetensors takes numbers and booleans")
        return cls(
            step=step,
            payload=frozen_json(payload, what="payload"),
            tensors={name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()},
            arrays={name: np.array(value, order="C", copy=True) for name, value in numeric.items()},
            values={name: frozen_json(value, what=name) for name, value in arrays.items() if name not in numeric},
        )

    def encode(self) -> dict[str, bytes]:
        """File name -> content. The same snapshot gives the same bytes."""
        return {
            TENSORS: safetensors.torch.save(dict(self.tensors)),
            ARRAYS: safetensors.numpy.save(dict(self.arrays)),
            VALUES: json.dumps(self.values, sort_keys=True).encode(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedCheckpoint:
    """A checkpoint as read back.

    Attributes:
        step, payload, tensors: as given to `CheckpointWriter.begin`.
        arrays: numpy arrays and JSON values, as given.
        directory: the checkpoint; its ``rocksdb`` folder is the source of a row store and is never opened itself.
    """

    step: int
    payload: Any
    tensors: dict[str, torch.Tensor]
    arrays: dict[str, Any]
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
    data = {name: _checked_bytes(directory, name, manifest) for name in (TENSORS, ARRAYS, VALUES)}
    return LoadedCheckpoint(
        step=manifest.step,
        payload=manifest.payload,
        tensors=safetensors.torch.load(data[TENSORS]),
        arrays={name: np.array(a) for name, a in safetensors.numpy.load(data[ARRAYS]).items()} | json.loads(data[VALUES]),
        directory=directory,
    )


def _checked_bytes(directory: Path, name: str, manifest: Manifest) -> bytes:
    try:
        data = (directory / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"Checkpoint {directory} has no readable {name}.", why=str(error)) from error
    record = manifest.files.get(name)
    if record is None or hashlib.sha256(data).hexdigest() != record.sha256:
        raise CheckpointError(f"Checkpoint {directory} is damaged: {name}.", why="Its checksum differs from the manifest's.")
    return data
