"""A row as bytes and back: what RocksDB holds of it.

A plain row is its numbers, little-endian. A record is one value: a version byte, then its parts one after the other, `held` first; of the
optional columns, only those of the blocks that the record holds. A value of another version is refused.
"""

import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.errors import CheckpointError
from autoemb_pipeline.rows import AnySpec, Record, RecordSpec, Rows, TableSpec
from autoemb_pipeline.state.validation import initial_rows, parts_of, stored_dtype

VERSION = 1
CHUNK = 256  # rows encoded at a time: what is copied stays in the processor's cache
Bytes = NDArray[np.uint8]


class RowCodec:
    """Rows of one table as values.

    Args:
        spec: the table's.
    """

    def __init__(self, spec: AnySpec) -> None:
        self._spec = spec
        self.parts = parts_of(spec)
        self.row_bytes = sum(part.width * stored_dtype(part).itemsize for part in self.parts)
        self._columns: dict[bytes, NDArray[np.int64]] = {}

    def slabs(self, rows: int) -> Record:
        """An array of so many rows for each part; its pages are touched as they are first used."""
        return tuple(np.empty((rows, part.width), dtype=stored_dtype(part)) for part in self.parts)

    def fill_new(self, ids: Sequence[str], slabs: Record, slots: NDArray[np.int64]) -> None:
        """Writes new rows of the ids into the slots."""
        for part, slab in zip(self.parts, slabs, strict=True):
            slab[slots] = initial_rows(part, ids)

    def encode(self, rows: Record) -> list[bytes]:
        """n values of rows, [n, width] for each part."""
        if not len(rows[0]):
            return []
        if not isinstance(self._spec, RecordSpec):
            return _cut(rows[0])
        values: list[bytes] = []
        for start in range(0, len(rows[0]), CHUNK):
            values += self._encode(tuple(part[start : start + CHUNK] for part in rows))
        return values

    def _encode(self, rows: Record) -> list[bytes]:
        spec = self._spec
        assert isinstance(spec, RecordSpec)  # noqa: S101
        if spec.held is None:
            return _cut(_joined(rows))
        held = rows[spec.held] != 0
        rest = [part for part in range(len(rows)) if part != spec.held]
        if (held == held[0]).all():
            return _cut(_joined([rows[spec.held], *(self._stored(part, rows[part], held[0]) for part in rest)]))
        values: list[bytes] = [b""] * len(held)
        patterns, which = np.unique(held, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            chosen = np.flatnonzero(which.reshape(-1) == number)
            parts = [rows[spec.held][chosen], *(self._stored(part, rows[part][chosen], pattern) for part in rest)]
            for row, value in zip(chosen.tolist(), _cut(_joined(parts)), strict=True):
                values[row] = value
        return values

    def decode(self, ids: Sequence[str], values: Sequence[bytes], slabs: Record, slots: NDArray[np.int64]) -> None:
        """Writes the rows of n values into the slots.

        Raises:
            CheckpointError: a value is of another version or length.
        """
        if not isinstance(self._spec, RecordSpec):
            slabs[0][slots] = np.frombuffer(b"".join(values), dtype=slabs[0].dtype).reshape(len(values), -1)
            return
        spaces = 0 if self._spec.held is None else self.parts[self._spec.held].width
        groups: dict[bytes, list[int]] = {}
        size = len(values[0])
        if set(map(len, values)) == {size}:  # as a rule they hold the same blocks
            stored: Bytes = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), size)
            if (stored[:, : 1 + spaces] == stored[0, : 1 + spaces]).all():
                self._decode_alike(values[0][: 1 + spaces], ids, stored, slabs, slots)
                return
        for row, value in enumerate(values):
            groups.setdefault(value[: 1 + spaces], []).append(row)
        for head, members in groups.items():
            size = len(values[members[0]])
            if any(len(values[k]) != size for k in members):
                raise self._other_format()
            stored = np.frombuffer(b"".join([values[k] for k in members]), dtype=np.uint8).reshape(len(members), size)
            self._decode_alike(head, [ids[k] for k in members], stored, slabs, slots[members])

    def one(self, identifier: str, value: bytes) -> Record:
        """The row of one value."""
        slabs = self.slabs(1)
        self.decode([identifier], [value], slabs, np.zeros(1, dtype=np.int64))
        return tuple(slab[0] for slab in slabs)

    def _decode_alike(self, head: bytes, ids: Sequence[str], values: Bytes, slabs: Record, slots: NDArray[np.int64]) -> None:
        """Values, [n, bytes], that hold the same blocks. head: what each begins with."""
        spec = self._spec
        assert isinstance(spec, RecordSpec)  # noqa: S101
        if head[:1] != bytes([VERSION]) or len(head) != 1 + (0 if spec.held is None else self.parts[spec.held].width):
            raise self._other_format()
        pattern = np.frombuffer(head[1:], dtype=np.int8) != 0
        parts = [k for k in range(len(self.parts)) if k != spec.held]
        columns = {
            k: self._kept(pattern) if spec.held is not None and k == spec.optional else np.arange(self.parts[k].width) for k in parts
        }
        sizes = [len(columns[k]) * slabs[k].dtype.itemsize for k in parts]
        if values.shape[1] != len(head) + sum(sizes):
            raise self._other_format()
        place = len(head)
        for k, size in zip(parts, sizes, strict=True):
            stored = np.ascontiguousarray(values[:, place : place + size]).view(slabs[k].dtype)
            place += size
            if len(columns[k]) == self.parts[k].width:
                slabs[k][slots] = stored
                continue
            slabs[k][slots] = initial_rows(self.parts[k], ids)
            slabs[k][slots[:, None], columns[k]] = stored
        if spec.held is not None:
            slabs[spec.held][slots] = np.frombuffer(head[1:], dtype=np.int8)

    def _other_format(self) -> CheckpointError:
        return CheckpointError(f"A record of table {self._spec.name!r} is of another format.", remedy="Start with another --state-dir.")

    def _stored(self, part: int, rows: Rows, pattern: NDArray[np.bool_]) -> Rows:
        assert isinstance(self._spec, RecordSpec)  # noqa: S101
        return rows if part != self._spec.optional or pattern.all() else rows[:, self._kept(pattern)]

    def _kept(self, pattern: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Columns of the optional part that a record with these blocks has, ascending."""
        assert isinstance(self._spec, RecordSpec)  # noqa: S101
        known = self._columns.get(pattern.tobytes())
        if known is None:
            missing = [c for columns, holds in zip(self._spec.blocks, pattern, strict=True) if not holds for c in columns]
            known = np.setdiff1d(np.arange(self.parts[self._spec.optional].width), missing)
            self._columns[pattern.tobytes()] = known
        return known


def _joined(parts: Sequence[Rows]) -> Bytes:
    """[n, bytes] the version, then the parts of each record."""
    sizes = [part.shape[1] * part.dtype.itemsize for part in parts]
    joined: Bytes = np.empty((len(parts[0]), 1 + sum(sizes)), dtype=np.uint8)
    joined[:, 0] = VERSION
    place = 1
    for part, size in zip(parts, sizes, strict=True):
        joined[:, place : place + size] = np.ascontiguousarray(part).view(np.uint8).reshape(len(part), size)
        place += size
    return joined


def _cut(rows: Rows) -> list[bytes]:
    data, size = rows.tobytes(), rows.shape[1] * rows.dtype.itemsize
    return [data[k : k + size] for k in range(0, len(data), size)]


def format_of(spec: AnySpec) -> bytes:
    """The meta record of a table's row format: ``f4:146``; of records JSON with version, parts, and the blocks' columns."""
    if isinstance(spec, TableSpec):
        return _part_format(spec).encode()
    parts = [_part_format(part) for part in spec.parts]
    return json.dumps({"record": VERSION, "parts": parts, "held": spec.held, "optional": spec.optional, "blocks": spec.blocks}).encode()


def spec_of(name: str, stored: bytes) -> AnySpec:
    """The table of a meta record; initial rows are zeros.

    Raises:
        ValueError, KeyError, TypeError: it is no meta record of this version.
    """
    if not stored.startswith(b"{"):
        return _part(name, stored.decode())
    fields = json.loads(stored)
    if fields["record"] != VERSION:
        raise ValueError(f"record version {fields['record']}")
    return RecordSpec(
        name=name,
        parts=tuple(_part(name, text) for text in fields["parts"]),
        held=fields["held"],
        optional=fields["optional"],
        blocks=tuple(tuple(columns) for columns in fields["blocks"]),
    )


def _part_format(spec: TableSpec) -> str:
    return f"{spec.dtype}:{spec.width}"


def _part(name: str, text: str) -> TableSpec:
    kind, _, width = text.partition(":")
    dtypes: dict[str, Literal["f4", "f8", "i1"]] = {"f4": "f4", "f8": "f8", "i1": "i1"}
    return TableSpec(name=name, width=int(width), dtype=dtypes[kind])


__all__ = ["VERSION", "RowCodec", "format_of", "spec_of"]
