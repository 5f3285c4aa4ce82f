"""A row as bytes and back: what RocksDB holds of it.

A plain row is its numbers, little-endian. A record is one value: a version byte, then its parts one after the other, `held` first; of the
optional columns, only those of the blocks that the record holds. If they are stored as int16: first the float32 columns, then the numbers
of the held blocks (int16), then their exponents (int8). Parts with lengths come last. A value of another version is refused.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.errors import CheckpointError
from autoemb_pipeline.kernels.values import LENGTH_BYTES, pack_int16, read_sized, trim_sized, unpack_int16
from autoemb_pipeline.rows import AnySpec, Record, RecordSpec, Rows, TableSpec
from autoemb_pipeline.state.validation import initial_rows, parts_of, stored_dtype

VERSION = 2
CHUNK = 256  # rows encoded, or read in order, at a time: what is copied stays in the processor's cache
INT16, INT8 = np.dtype("<i2"), np.dtype("i1")
Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    """What a value holds of one part, the same for all records that hold the same blocks.

    Attributes:
        columns: those that are stored as they are, ascending; None: all.
        firsts, ends: columns of the numbers of 16 bits, per block.
        sizes: bytes of the columns, of the numbers, of the exponents.
    """

    columns: Integers | None
    firsts: Integers
    ends: Integers
    sizes: tuple[int, int, int]


class RowCodec:
    """Rows of one table as values.

    Args:
        spec: the table's.
    """

    def __init__(self, spec: AnySpec) -> None:
        self._spec = spec
        self.parts = parts_of(spec)
        self.row_bytes = sum(part.width * stored_dtype(part).itemsize for part in self.parts)
        self._held = spec.held if isinstance(spec, RecordSpec) else None
        self._sized = [k for k, part in enumerate(self.parts) if part.stored == "sized"]
        self._fixed = [k for k in range(len(self.parts)) if k not in (self._held, *self._sized)]
        self._known: dict[bytes, dict[int, _Stored]] = {}

    def slabs(self, rows: int) -> Record:
        """An array of so many rows for each part; its pages are touched as they are first used."""
        return tuple(np.empty((rows, part.width), dtype=stored_dtype(part)) for part in self.parts)

    def fill_new(self, ids: Sequence[str], slabs: Record, slots: Integers) -> None:
        """Writes new rows of the ids into the slots."""
        for part, slab in zip(self.parts, slabs, strict=True):
            slab[slots] = initial_rows(part, ids)

    def trim(self, slabs: Record, slots: Integers) -> None:
        """Zeros what is behind the lengths of changed rows, as if they had been stored and read back.

        Raises:
            ValueError: a length is more than its row holds.
        """
        for k in self._sized:
            wrong = trim_sized(slabs[k], slots)
            if wrong >= 0:
                raise self._too_long(self.parts[k])

    def trimmed(self, rows: Rows) -> Rows:
        """[n, width] rows of a plain table after `trim`; copies, where anything is trimmed."""
        if self._sized:
            rows = rows.copy()
            self.trim((rows,), np.arange(len(rows)))
        return rows

    def encode(self, rows: Record) -> list[bytes]:
        """n values of rows, [n, width] for each part. ValueError when a length is more than its row holds."""
        if not len(rows[0]):
            return []
        if not isinstance(self._spec, RecordSpec):
            return self._cut_sized(0, rows[0]) if self._sized else _cut(rows[0])
        values: list[bytes] = []
        for start in range(0, len(rows[0]), CHUNK):
            chunk = tuple(part[start : start + CHUNK] for part in rows)
            encoded = self._encode_fixed(chunk)
            for k in self._sized:
                encoded = [value + tail for value, tail in zip(encoded, self._cut_sized(k, chunk[k]), strict=True)]
            values += encoded
        return values

    def _encode_fixed(self, rows: Record) -> list[bytes]:
        """Values without the parts with lengths."""
        if self._held is None:
            return _cut(_joined(len(rows[0]), [rows[k] for k in self._fixed]))
        held = rows[self._held] != 0
        if (held == held[0]).all():
            return self._encode_alike(rows, held[0])
        values: list[bytes] = [b""] * len(held)
        patterns, which = np.unique(held, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            chosen = np.flatnonzero(which.reshape(-1) == number)
            for row, value in zip(chosen.tolist(), self._encode_alike(tuple(part[chosen] for part in rows), pattern), strict=True):
                values[row] = value
        return values

    def _encode_alike(self, rows: Record, pattern: NDArray[np.bool_]) -> list[bytes]:
        """Of records that hold the same blocks."""
        assert self._held is not None  # noqa: S101
        pieces = [rows[self._held]]
        for k, stored in self._stored(pattern).items():
            pieces.append(rows[k] if stored.columns is None else rows[k][:, stored.columns])
            if len(stored.firsts):
                numbers = np.empty((len(rows[k]), stored.sizes[1] // INT16.itemsize), dtype=INT16)
                exponents = np.empty((len(rows[k]), stored.sizes[2]), dtype=INT8)
                pack_int16(rows[k], stored.firsts, stored.ends, numbers, exponents)
                pieces += [numbers, exponents]
        return _cut(_joined(len(rows[0]), pieces))

    def _cut_sized(self, part: int, rows: Rows) -> list[bytes]:
        """Each row's length and the bytes that it counts."""
        sizes = LENGTH_BYTES + np.ascontiguousarray(rows[:, :LENGTH_BYTES]).view("<u2").reshape(-1).astype(np.int64)
        width = rows.shape[1]
        if (sizes > width).any():
            raise self._too_long(self.parts[part])
        data = rows.tobytes()
        return [data[start : start + size] for start, size in zip(range(0, len(data), width), sizes.tolist(), strict=True)]

    def decode(self, ids: Sequence[str], values: Sequence[bytes], slabs: Record, slots: Integers) -> None:
        """Writes the rows of n values into the slots.

        Raises:
            CheckpointError: a value is of another version or length.
        """
        if not isinstance(self._spec, RecordSpec):
            if self._sized:
                self._read_sized(values, slabs, slots)
            else:
                slabs[0][slots] = np.frombuffer(b"".join(values), dtype=slabs[0].dtype).reshape(len(values), -1)
            return
        size = 1 + (0 if self._held is None else self.parts[self._held].width)
        heads = [value[:size] for value in values]
        if heads.count(heads[0]) == len(heads):  # as a rule they hold the same blocks
            self._decode_alike(heads[0], ids, values, slabs, slots)
            return
        groups: dict[bytes, list[int]] = {}
        for row, head in enumerate(heads):
            groups.setdefault(head, []).append(row)
        for head, members in groups.items():
            self._decode_alike(head, [ids[k] for k in members], [values[k] for k in members], slabs, slots[members])

    def one(self, identifier: str, value: bytes) -> Record:
        """The row of one value."""
        return next(self.rows_of([(identifier.encode(), value)]))[1]

    def rows_of(self, stored: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, Record]]:
        """(id, its row of every part) of each (key, value), in order; some are decoded at a time. Raises as `decode`."""
        pairs = iter(stored)
        while chunk := list(islice(pairs, CHUNK)):
            ids = [key.decode() for key, _ in chunk]
            slabs = self.slabs(len(ids))
            self.decode(ids, [value for _, value in chunk], slabs, np.arange(len(ids)))
            for row, identifier in enumerate(ids):
                yield identifier, tuple(slab[row] for slab in slabs)

    def _decode_alike(self, head: bytes, ids: Sequence[str], values: Sequence[bytes], slabs: Record, slots: Integers) -> None:
        """Values that hold the same blocks. head: what each begins with."""
        if head[:1] != bytes([VERSION]) or len(head) != 1 + (0 if self._held is None else self.parts[self._held].width):
            raise self._other_format()
        parts = self._stored(np.frombuffer(head[1:], dtype=np.int8) != 0)
        size = len(head) + sum(sum(stored.sizes) for stored in parts.values())
        if self._sized:
            self._read_sized([value[size:] for value in values], slabs, slots)
            values = [value[:size] for value in values]
        if set(map(len, values)) != {size}:
            raise self._other_format()
        rows: Bytes = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), size)
        place = len(head)
        for k, stored in parts.items():
            whole, numbers, exponents = (
                rows[:, end - own : end] for own, end in zip(stored.sizes, place + np.cumsum(stored.sizes), strict=True)
            )
            place += sum(stored.sizes)
            if stored.columns is None:
                slabs[k][slots] = _as(whole, slabs[k].dtype)
                continue
            if len(stored.columns) + sum(stored.ends - stored.firsts) < self.parts[k].width:
                slabs[k][slots] = initial_rows(self.parts[k], ids)
            slabs[k][slots[:, None], stored.columns] = _as(whole, slabs[k].dtype)
            if len(stored.firsts):
                unpack_int16(_as(numbers, INT16), _as(exponents, INT8), stored.firsts, stored.ends, slabs[k], slots)
        if self._held is not None:
            slabs[self._held][slots] = np.frombuffer(head[1:], dtype=np.int8)

    def _read_sized(self, values: Sequence[bytes], slabs: Record, slots: Integers) -> None:
        """The parts with lengths; nothing but these may be in the values."""
        ends = np.cumsum(np.fromiter(map(len, values), np.int64, len(values)))
        starts = np.zeros_like(ends)
        starts[1:] = ends[:-1]
        data = np.frombuffer(b"".join(values), dtype=np.int8)
        if not all(read_sized(data, starts, ends, slabs[k], slots) for k in self._sized) or (starts != ends).any():
            raise self._other_format()

    def _other_format(self) -> CheckpointError:
        return CheckpointError(f"A record of table {self._spec.name!r} is of another format.", remedy="Start with another --state-dir.")

    def _too_long(self, part: TableSpec) -> ValueError:
        return ValueError(f"a row of {part.name!r} in table {self._spec.name!r} says that it is longer than {part.width} bytes")

    def _stored(self, pattern: NDArray[np.bool_]) -> dict[int, _Stored]:
        """What a record with these blocks holds of each part of fixed length, by the parts' positions."""
        key = pattern.tobytes()
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = {k: self._part_stored(k, pattern) for k in self._fixed}
        return known

    def _part_stored(self, part: int, pattern: NDArray[np.bool_]) -> _Stored:
        spec, width, nothing = self._spec, self.parts[part].width, np.zeros(0, dtype=np.int64)
        size = stored_dtype(self.parts[part]).itemsize
        left_out: set[int] = set()
        packed: list[tuple[int, int]] = []
        if isinstance(spec, RecordSpec) and self._held is not None and part == spec.optional:
            left_out.update(c for own, holds in zip(spec.blocks, pattern, strict=True) if not holds for c in own)
            if self.parts[part].stored == "int16":
                packed = [span for span, holds in zip(spec.numbers, pattern, strict=True) if holds]
        numbers = [c for first, end in packed for c in range(first, end)]
        columns = np.setdiff1d(np.arange(width), [*left_out, *numbers])
        firsts, ends = np.array(packed, dtype=np.int64).reshape(-1, 2).T.copy() if packed else (nothing, nothing)
        sizes = (size * len(columns), INT16.itemsize * len(numbers), len(packed))
        return _Stored(columns=None if len(columns) == width else columns, firsts=firsts, ends=ends, sizes=sizes)


def _joined(rows: int, parts: Sequence[Rows]) -> Bytes:
    """[n, bytes] the version, then the parts of each record."""
    sizes = [part.shape[1] * part.dtype.itemsize for part in parts]
    joined: Bytes = np.empty((rows, 1 + sum(sizes)), dtype=np.uint8)
    joined[:, 0] = VERSION
    place = 1
    for part, size in zip(parts, sizes, strict=True):
        joined[:, place : place + size] = np.ascontiguousarray(part).view(np.uint8).reshape(rows, size)
        place += size
    return joined


def _as(piece: Bytes, dtype: np.dtype[Any]) -> Rows:
    """[n, columns] numbers of a cut through records; a copy, for values cannot be written to, and compiled code takes note of that."""
    return piece.copy().view(dtype)


def _cut(rows: Rows) -> list[bytes]:
    data, size = rows.tobytes(), rows.shape[1] * rows.dtype.itemsize
    return [data[k : k + size] for k in range(0, len(data), size)]


def format_of(spec: AnySpec) -> bytes:
    """The meta record of a table's row format: ``f4:146``; of records JSON with version, parts, and the blocks' columns and numbers."""
    if isinstance(spec, TableSpec):
        return _part_format(spec).encode()
    parts = [_part_format(part) for part in spec.parts]
    places = {"held": spec.held, "optional": spec.optional, "blocks": spec.blocks, "numbers": spec.numbers}
    return json.dumps({"record": VERSION, "parts": parts, **places}).encode()


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
        numbers=tuple((first, end) for first, end in fields["numbers"]),
    )


def _part_format(spec: TableSpec) -> str:
    return f"{spec.dtype}:{spec.width}" + ("" if spec.stored == "whole" else f":{spec.stored}")


def _part(name: str, text: str) -> TableSpec:
    kind, width, *stored = text.split(":")
    dtypes: dict[str, Literal["f4", "f8", "i1"]] = {"f4": "f4", "f8": "f8", "i1": "i1"}
    ways: dict[str, Literal["whole", "int16", "sized"]] = {"": "whole", "int16": "int16", "sized": "sized"}
    return TableSpec(name=name, width=int(width), dtype=dtypes[kind], stored=ways["".join(stored)])


__all__ = ["VERSION", "RowCodec", "format_of", "spec_of"]
