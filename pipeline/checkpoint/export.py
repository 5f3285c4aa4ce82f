"""A checkpoint's embeddings for other programs: Parquet with ids, safetensors of the same rows in the same order, and the dense layers.

Rows are read, converted and written a few thousand at a time, so that memory does not follow the number of ids.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import polars as pl
import safetensors.numpy
from numpy.typing import NDArray

from autoemb_pipeline.checkpoint.reading import OpenCheckpoint
from autoemb_pipeline.errors import StateError
from autoemb_pipeline.kernels import weights_at
from autoemb_pipeline.kernels.layout import COUNT
from autoemb_pipeline.learners.config import LearnerConfig
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.factory import blocks_of
from autoemb_pipeline.learners.stream.rows import ROW
from autoemb_pipeline.open_batch import SIDES
from autoemb_pipeline.state.readonly import ReadOnlyRows

CHUNK = 8192
ROWS_PER_FILE = 500_000
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written: counts of ids, width of an embedding, files relative to the target."""

    users: int
    items: int
    width: int
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chunk:
    """n ids in byte order: [n, D] embeddings, [n, N] chosen weights or None, [n] popularity."""

    ids: list[str]
    embedding: Array
    weights: Array | None
    count: Array


def export_checkpoint(opened: OpenCheckpoint, learner: LearnerConfig, target: Path, *, rows_per_file: int = ROWS_PER_FILE) -> Exported:
    """Writes ``users/*.parquet``, ``items/*.parquet``, ``users.safetensors``, ``items.safetensors`` and ``model.safetensors``.

    Parquet columns: id, count (popularity), embedding (list of D numbers), and for methods that choose weight_D of each space: the weights
    of the id's last occurrence, 1/N for one without. An embedding is the id's numbers over all spaces, the smallest first.

    Args:
        opened: with rows opened with the run's tables (`autoemb_pipeline.predict.tables_of`).
        learner: the run's.
        target: a directory that does not exist yet, or is empty.
        rows_per_file: of each Parquet file.

    Raises:
        StateError: the target is not empty, or cannot be written.
    """
    width = embedding_width(learner)
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise StateError(f"{target} is not empty.", why="Nothing is overwritten.", remedy="Give another --output.")
        counts = {}
        for field, side in enumerate(SIDES):
            chunks = _chunks(opened.rows, side, weights_at(field), width, learner)
            counts[side] = opened.rows.count(side)
            _write_side(target, f"{side}s", chunks, counts[side], rows_per_file)
        dense = {n.removeprefix("learner."): t for n, t in opened.loaded.tensors.items() if n.startswith("learner.")}
        (target / "model.safetensors").write_bytes(safetensors.numpy.save(dense))
    except OSError as error:
        raise StateError(
            f"The export to {target} failed.", why=str(error), remedy="Free space, remove the directory, try again."
        ) from error
    files = tuple(sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()))
    return Exported(users=counts["user"], items=counts["item"], width=width, files=files)


def embedding_width(learner: LearnerConfig) -> int:
    """Numbers of an embedding over all spaces."""
    if not isinstance(learner, StreamConfig):
        return learner.width
    return 0 if learner.method == "context-only" else blocks_of(learner).dims[-1]


def _chunks(rows: ReadOnlyRows, side: str, weights_at: int, width: int, learner: LearnerConfig) -> Iterator[_Chunk]:
    known = rows.records(side)
    spaces = len(learner.dims) if learner.method not in ("fse", "context-only") else 0
    while part := list(islice(known, CHUNK)):
        ids = [i for i, _ in part]
        context = np.stack([record[0] for _, record in part])
        if isinstance(learner, StreamConfig):
            embedding = np.stack([record[ROW][:width] for _, record in part])
        else:
            embedding = rows.gather(f"embedding.{side}", ids)[:, :width]
        yield _Chunk(
            ids=ids,
            embedding=embedding,
            weights=context[:, weights_at : weights_at + spaces] if spaces else None,
            count=context[:, COUNT].astype(np.int64),
        )


def _write_side(target: Path, name: str, chunks: Iterator[_Chunk], count: int, rows_per_file: int) -> None:
    folder = target / name
    folder.mkdir()
    waiting: list[pl.DataFrame] = []
    number = 0
    tensors: _TensorFile | None = None
    for chunk in chunks:
        tensors = tensors or _TensorFile(target / f"{name}.safetensors", _tensors(chunk), count)
        tensors.append(_tensors(chunk))
        waiting.append(_frame(chunk))
        if sum(len(f) for f in waiting) >= rows_per_file:
            pl.concat(waiting).write_parquet(folder / f"part-{number:05d}.parquet")
            waiting, number = [], number + 1
    if waiting:
        pl.concat(waiting).write_parquet(folder / f"part-{number:05d}.parquet")
    if tensors is not None:
        tensors.close()


def _frame(chunk: _Chunk) -> pl.DataFrame:
    weights = {} if chunk.weights is None else {f"weight_{n + 1}": chunk.weights[:, n] for n in range(chunk.weights.shape[1])}
    embedding = pl.Series("embedding", chunk.embedding).cast(pl.List(pl.Float32 if chunk.embedding.dtype == np.float32 else pl.Float64))
    return pl.DataFrame({"id": chunk.ids, "count": chunk.count, **weights}).with_columns(embedding)


def _tensors(chunk: _Chunk) -> dict[str, Array]:
    weights = {} if chunk.weights is None else {"weights": chunk.weights}
    return {"embedding": chunk.embedding, "count": chunk.count, **weights}


class _TensorFile:
    """A safetensors file of known length whose tensors grow row by row.

    The format: the header's length (8 bytes, little-endian), a JSON header of dtypes, shapes and byte ranges, then the numbers
    (https://github.com/huggingface/safetensors, Format).
    """

    def __init__(self, path: Path, example: dict[str, Array], rows: int) -> None:
        header: dict[str, Any] = {}
        self._at: dict[str, int] = {}
        end = 0
        for name, array in example.items():
            size = rows * array[:1].nbytes
            shape = [rows, *array.shape[1:]]
            header[name] = {"dtype": {"f4": "F32", "f8": "F64", "i8": "I64"}[array.dtype.str[1:]], "shape": shape}
            header[name]["data_offsets"] = [end, end + size]
            self._at[name] = end
            end += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # aligned, as the format recommends
        self._base = 8 + len(text)
        self._file = path.open("xb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(self._base + end)
        self._file.flush()

    def append(self, rows: dict[str, Array]) -> None:
        """The next rows of every tensor."""
        for name, array in rows.items():
            data = np.ascontiguousarray(array).tobytes()
            os.pwrite(self._file.fileno(), data, self._base + self._at[name])
            self._at[name] += len(data)

    def close(self) -> None:
        """The file is complete."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
