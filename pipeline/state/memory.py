"""Rows in memory: the reference that the RocksDB store is tested against, and the store of short runs."""

from collections.abc import Iterator, Sequence

import numpy as np

from autoemb_pipeline.rows import Rows, TableSpec
from autoemb_pipeline.state.validation import check_distinct, checked_rows, checked_specs, initial_rows, stored_dtype

_FIRST_CAPACITY = 1024


class _Table:
    """One table: a slab that doubles, and the slot of each id."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.slots: dict[str, int] = {}
        self.free: list[int] = []
        self.slab: Rows = np.empty((_FIRST_CAPACITY, spec.width), dtype=stored_dtype(spec))

    def gather(self, ids: Sequence[str]) -> Rows:
        slots = np.array([self.slots.get(i, -1) for i in ids], dtype=np.int64)
        rows = np.empty((len(ids), self.spec.width), dtype=self.slab.dtype)
        known = slots >= 0
        rows[known] = self.slab[slots[known]]
        new = np.flatnonzero(~known).tolist()
        if new:
            rows[new] = initial_rows(self.spec, [ids[k] for k in new])
        return rows

    def scatter(self, ids: Sequence[str], rows: Rows) -> None:
        slots = [self._slot(i) for i in ids]
        used = len(self.slots) + len(self.free)
        if used > len(self.slab):
            grown = np.empty((max(2 * len(self.slab), used), self.spec.width), dtype=self.slab.dtype)
            grown[: len(self.slab)] = self.slab
            self.slab = grown
        self.slab[slots] = rows

    def _slot(self, identifier: str) -> int:
        slot = self.slots.get(identifier)
        if slot is None:
            slot = self.free.pop() if self.free else len(self.slots)
            self.slots[identifier] = slot
        return slot

    def remove(self, ids: Sequence[str]) -> None:
        self.free += [self.slots.pop(i) for i in ids if i in self.slots]


class MemoryRowStore:
    """`autoemb_pipeline.rows.RowStore` in memory, unbounded.

    Args:
        specs: the tables.

    Raises:
        ConfigurationError: see `autoemb_pipeline.state.validation.checked_specs`.
    """

    def __init__(self, specs: Sequence[TableSpec]) -> None:
        self._tables = {name: _Table(spec) for name, spec in checked_specs(specs).items()}

    def gather(self, table: str, ids: Sequence[str]) -> Rows:
        """See `RowStore.gather`. ValueError when ids repeat, KeyError on an unknown table."""
        check_distinct(table, ids)
        return self._tables[table].gather(ids)

    def scatter(self, table: str, ids: Sequence[str], rows: Rows) -> None:
        """See `RowStore.scatter`. ValueError when ids repeat or the shape is wrong, KeyError on an unknown table."""
        check_distinct(table, ids)
        of = self._tables[table]
        of.scatter(ids, checked_rows(of.spec, ids, rows))

    def remove(self, table: str, ids: Sequence[str]) -> None:
        """See `RowStore.remove`. ValueError when ids repeat, KeyError on an unknown table."""
        check_distinct(table, ids)
        self._tables[table].remove(ids)

    def items(self, table: str) -> Iterator[tuple[str, Rows]]:
        """See `RowStore.items`. Rows are copies."""
        of = self._tables[table]
        return ((i, of.slab[of.slots[i]].copy()) for i in sorted(of.slots))

    def count(self, table: str) -> int:
        """Ids that have a row, exact."""
        return len(self._tables[table].slots)

    def close(self) -> None:
        """Nothing to release; there so that both stores close alike."""
