"""What both row stores check of their arguments, so that neither accepts what the other refuses."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.kernels.values import LENGTH_BYTES
from autoemb_pipeline.rows import AnySpec, RecordSpec, Rows, TableSpec

RESERVED_TABLE = "default"  # RocksDB's own column family; it holds the store's counters
LARGEST_SIZED = LENGTH_BYTES + 0xFFFF


def checked_specs(specs: Sequence[AnySpec]) -> dict[str, AnySpec]:
    """Specs by name.

    Raises:
        ConfigurationError: on a doubled or reserved name, a width below 1, a dtype other than ``f4``, ``f8`` and ``i1``, or a part that
            cannot be stored as it says.
    """
    by_name = {spec.name: spec for spec in specs}
    if len(by_name) != len(specs):
        raise ConfigurationError("Two tables of one row store share a name.", why=", ".join(spec.name for spec in specs))
    for spec in specs:
        if not spec.name or spec.name == RESERVED_TABLE:
            raise ConfigurationError(f"A table may not be named {spec.name!r}.", why="RocksDB keeps that column family for itself.")
        for part in parts_of(spec):
            if part.width < 1 or part.dtype not in ("f4", "f8", "i1"):
                raise ConfigurationError(
                    f"Table {spec.name!r} has width {part.width} and dtype {part.dtype!r}.", remedy="Width >= 1, f4, f8 or i1."
                )
        _check_stored(spec)
    return by_name


def _check_stored(spec: AnySpec) -> None:
    apart = (spec.held, spec.optional) if isinstance(spec, RecordSpec) and spec.held is not None else ()
    for position, part in enumerate(parts_of(spec)):
        if part.stored not in ("whole", "sized", "int16"):
            raise _not_stored(spec, part, "It can be stored whole, sized or as int16.")
        if part.stored == "sized" and (part.dtype != "i1" or not LENGTH_BYTES <= part.width <= LARGEST_SIZED or position in apart):
            raise _not_stored(spec, part, f"Of i1, {LENGTH_BYTES} to {LARGEST_SIZED} wide, and neither held nor optional.")
        if part.stored == "int16" and (part.dtype != "f4" or position not in apart[1:]):
            raise _not_stored(spec, part, "It is for the optional part of f4 alone.")
    if not isinstance(spec, RecordSpec) or spec.held is None or spec.parts[spec.optional].stored != "int16":
        return
    part = spec.parts[spec.optional]
    inside = [first < end and set(range(first, end)) <= set(own) for (first, end), own in zip(spec.numbers, spec.blocks, strict=False)]
    if len(spec.numbers) != len(spec.blocks) or not all(inside):
        raise _not_stored(spec, part, f"Each block's numbers are columns of its own, in sequence; they are {spec.numbers}.")


def _not_stored(spec: AnySpec, part: TableSpec, why: str) -> ConfigurationError:
    what = f"Part {part.name!r} of table {spec.name!r}, {part.dtype}:{part.width}, cannot be stored as {part.stored!r}."
    return ConfigurationError(what, why=why)


def parts_of(spec: AnySpec) -> tuple[TableSpec, ...]:
    """The arrays of a table's rows: a plain table has one."""
    return spec.parts if isinstance(spec, RecordSpec) else (spec,)


def plain(spec: AnySpec) -> TableSpec:
    """The spec of a plain table; TypeError for one of records, whose rows are lent."""
    if isinstance(spec, RecordSpec):
        raise TypeError(f"table {spec.name!r} holds records: lend and keep them")
    return spec


def stored_dtype(spec: TableSpec) -> np.dtype[Any]:
    """The table's dtype as stored: little-endian whatever the machine."""
    return np.dtype("<" + spec.dtype)


def check_distinct(table: str, ids: Sequence[str]) -> None:
    """Raises ValueError unless all ids differ: two rows for one id have no order."""
    if len(set(ids)) != len(ids):
        raise ValueError(f"ids of table {table!r} repeat within one call; gather and scatter take distinct ids")


def checked_rows(spec: TableSpec, ids: Sequence[str], rows: Rows) -> Rows:
    """Rows as [n, width] of the stored dtype; ValueError on another shape, TypeError on a dtype that is no float."""
    if rows.shape != (len(ids), spec.width):
        raise ValueError(f"rows of table {spec.name!r} have shape {rows.shape}, expected {(len(ids), spec.width)}")
    return rows.astype(stored_dtype(spec), casting="same_kind", copy=False)


def initial_rows(spec: TableSpec, ids: Sequence[str]) -> Rows:
    """[n, width] rows of ids never scattered."""
    if spec.initial is None:
        return np.zeros((len(ids), spec.width), dtype=stored_dtype(spec))
    return checked_rows(spec, ids, spec.initial(ids))
