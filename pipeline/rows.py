"""Rows of embedding tables and of the context, reached by id alone (docs/architecture.md, Layers).

A table maps ids (strings) to rows. A plain table (`TableSpec`) has one array per row, of fixed width; a row of an embedding table is
``[weights | optimiser state]``, so that both move together; its rows are copied out and in by `gather` and `scatter`. A record table
(`RecordSpec`) has several arrays per row, which the store lends: whoever asks gets the slots of its ids in the store's own slabs, reads and
writes there, and says which rows changed by `keep`. Nothing else in the project holds a tensor with a row per known id; so rows can live
in memory or in RocksDB.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.hashing import hashed_rows

Rows = NDArray[Any]
Record = tuple[Rows, ...]
JoinedTexts = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""n texts in UTF-8, one behind the other, and the n + 1 bounds between them."""

NUMBER_BYTES, EXPONENT_BYTES = 2, 1  # of a part stored as int16: a number's, and its block's own


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSpec:
    """One plain table, or one array of a record table.

    Attributes:
        name: unique within a store; also the RocksDB column family's name.
        width: numbers per row.
        dtype: ``f4``, ``f8`` or ``i1``, little-endian as stored.
        initial: ids -> [n, width] rows of ids never scattered; must be a pure function of the ids. None: zeros.
        stored: what a value in the store holds of a row. ``whole``: all. ``sized``, of ``i1`` only: the row's first two bytes, a
            little-endian length, and as many bytes behind them; what is behind these becomes zeros when the row is kept. ``int16``, of the
            optional part of a record only: see `RecordSpec.numbers`.
    """

    name: str
    width: int
    dtype: Literal["f4", "f8", "i1"] = "f4"
    initial: Callable[[Sequence[str]], Rows] | None = None
    stored: Literal["whole", "int16", "sized"] = "whole"


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordSpec:
    """A table of records: several arrays per id that are lent side by side, and one value in the store.

    Of the optional columns a value holds those of the blocks that the id holds; the others are as in a new record.

    Attributes:
        name: as of `TableSpec`.
        parts: the arrays, of any names.
        held: position of the part of int8, [N], that says which blocks an id holds: 0 where it does not. None: nothing is optional.
        optional: position of the part of which columns are optional.
        blocks: [N] columns of `optional` that are each block's.
        numbers: [N] first and end column of each block's numbers, which the store keeps as one exponent and 16 bits each if `optional` is
            stored as ``int16``. Numbers that `kernels.round_rows` has rounded come back in every bit, others from the nearest of their grid
            once the row has left the cache; so rounding them comes before `RowStore.keep`. Elsewhere they may be given and mean nothing.
    """

    name: str
    parts: tuple[TableSpec, ...]
    held: int | None = None
    optional: int = 0
    blocks: tuple[tuple[int, ...], ...] = ()
    numbers: tuple[tuple[int, int], ...] = ()


AnySpec = TableSpec | RecordSpec


def joined(specs: Sequence[AnySpec]) -> tuple[AnySpec, ...]:
    """The same tables, but record tables of one name as one: the parts side by side, in order. At most one of them has optional columns."""
    tables: dict[str, AnySpec] = {}
    for spec in specs:
        before = tables.get(spec.name)
        if not isinstance(spec, RecordSpec) or not isinstance(before, RecordSpec):
            tables[spec.name if before is None else f"{spec.name}\0{len(tables)}"] = spec
            continue
        shift = len(before.parts)
        tables[spec.name] = RecordSpec(
            name=spec.name,
            parts=before.parts + spec.parts,
            held=before.held if spec.held is None else spec.held + shift,
            optional=before.optional if spec.held is None else spec.optional + shift,
            blocks=before.blocks + spec.blocks,
            numbers=before.numbers + spec.numbers,
        )
    return tuple(tables.values())


def stored_bytes(spec: RecordSpec) -> tuple[int, tuple[int, ...]]:
    """Bytes of the optional part as stored: those that every id has, and [N] those that each block adds to an id that holds it."""
    part = spec.parts[spec.optional]
    size = np.dtype(part.dtype).itemsize
    blocks = [size * len(columns) for columns in spec.blocks]
    common = size * part.width - sum(blocks)
    if part.stored == "int16":
        blocks = [
            own + EXPONENT_BYTES - (size - NUMBER_BYTES) * (end - first) for own, (first, end) in zip(blocks, spec.numbers, strict=True)
        ]
    return common, tuple(blocks)


class Lent(NamedTuple):
    """Records of n distinct ids where the store keeps them, until the next call about their table.

    Attributes:
        slabs: the parts, [slots, width] each.
        slots: [n] where each id's record lies in every slab.
        ids: n.
        own: whether the slabs are the store's; False: copies, because the store cannot hold so many at once or is open for reading only.
    """

    slabs: Record
    slots: NDArray[np.int64]
    ids: Sequence[str]
    own: bool


class RowStore(Protocol):
    """Tables of rows by id. Cost of each call follows the ids named, never the table's size (docs/architecture.md, invariant 5)."""

    def gather(self, table: str, ids: Sequence[str]) -> Rows:
        """Rows of distinct ids of a plain table, in order: [n, width], a copy. Ids never scattered get their table's initial rows."""
        ...

    def scatter(self, table: str, ids: Sequence[str], rows: Rows) -> None:
        """Replaces the rows of distinct ids of a plain table. rows: [n, width]."""
        ...

    def lend(self, table: str, ids: Sequence[str]) -> Lent:
        """Records of distinct ids; those never kept are new ones. What is changed must be kept before the next call about the table."""
        ...

    def keep(self, table: str, lent: Lent) -> None:
        """Says that what the last `lend` of this table lent was changed and shall stay; some of it, if none of its ids is new.

        Raises:
            ValueError: the length of a ``sized`` row is more than the row holds.
        """
        ...

    def remove(self, table: str, ids: Sequence[str]) -> None:
        """Frees the rows of distinct ids; those without a row are passed over. A removed id is as one never scattered."""
        ...

    def ids_after(self, table: str, after: str | None, limit: int) -> Sequence[str]:
        """At most so many ids with rows, the next behind `after` in the byte order of the ids; None: from the first on."""
        ...

    def items(self, table: str) -> Iterator[tuple[str, Rows]]:
        """Every (id, row) ever scattered, in the byte order of the ids. For export and tests, not for the step."""
        ...

    def records(self, table: str) -> Iterator[tuple[str, Record]]:
        """As `items`, of any table: (id, its row of every part), copies."""
        ...

    def count(self, table: str) -> int:
        """Ids that have a row; exact, O(1), never by a scan."""
        ...


def hashed_uniform(ids: Sequence[str], *, seed: int, table: str, width: int, std: float) -> NDArray[np.float32]:
    """Initial rows from a counter-based hash (SplitMix64) of (seed, table, id): the same whatever came before.

    Uniform with the given standard deviation rather than normal: needs no transcendental function, so its bits do not depend on the
    machine's math library.

    Returns:
        [n, width] float32.
    """
    return hashed_uniform_of(joined_texts(ids), seed=seed, table=table, width=width, std=std)


def hashed_uniform_of(ids: JoinedTexts, *, seed: int, table: str, width: int, std: float) -> NDArray[np.float32]:
    """`hashed_uniform` of ids that are joined already."""
    data, bounds = ids
    rows = np.empty((len(bounds) - 1, width), dtype=np.float32)
    prefix = np.frombuffer(f"{seed}\x00{table}\x00".encode(), np.uint8)
    hashed_rows(prefix, data, bounds, std * 3.0**0.5, rows)
    return rows


def joined_texts(ids: Sequence[str]) -> JoinedTexts:
    """UTF-8 of the ids, one behind the other, and the n + 1 bounds between them."""
    data = "".join(ids).encode()
    bounds = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)), out=bounds[1:])
    if bounds[-1] != len(data):  # not all of them are ASCII
        np.cumsum(np.fromiter((len(i.encode()) for i in ids), np.int64, len(ids)), out=bounds[1:])
    return np.frombuffer(data, np.uint8), bounds
