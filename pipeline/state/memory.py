"""Rows in memory: the reference that the RocksDB store is tested against, and the store of short runs."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from sortedcontainers import SortedList

from autoemb_pipeline.rows import AnySpec, Lent, Record, Rows
from autoemb_pipeline.state.codec import RowCodec
from autoemb_pipeline.state.validation import check_distinct, checked_rows, checked_specs, plain

_FIRST_CAPACITY = 1024


class _Table:
    """One table: slabs that double, and the slot of each id. `fresh` are ids that were lent and not kept yet."""

    def __init__(self, spec: AnySpec) -> None:
        self.spec = spec
        self.codec = RowCodec(spec)
        self.slots: dict[str, int] = {}
        self.fresh: dict[str, int] = {}
        self.free: list[int] = []
        self.order: SortedList[str] | None = None  # the ids; None until somebody asks for them in order
        self.used = 0
        self.slabs = self.codec.slabs(_FIRST_CAPACITY)

    def gather(self, ids: Sequence[str]) -> Rows:
        slots = np.array([self.slots.get(i, -1) for i in ids], dtype=np.int64)
        rows = self.codec.slabs(len(ids))
        known = slots >= 0
        rows[0][known] = self.slabs[0][slots[known]]
        new = np.flatnonzero(~known)
        if len(new):
            self.codec.fill_new([ids[k] for k in new.tolist()], rows, new)
        return rows[0]

    def scatter(self, ids: Sequence[str], rows: Rows) -> None:
        rows = self.codec.trimmed(rows)
        if self.order is not None:
            self.order.update(i for i in ids if i not in self.slots)
        slots = [self._slot(i, self.slots) for i in ids]
        self.slabs[0][slots] = rows

    def lend(self, ids: Sequence[str]) -> Lent:
        self.free += self.fresh.values()
        self.fresh.clear()
        new = [i for i in ids if i not in self.slots]
        if new:
            taken = np.array([self._slot(i, self.fresh) for i in new], dtype=np.int64)
            self.codec.fill_new(new, self.slabs, taken)
        slots = np.array([self.slots[i] if i in self.slots else self.fresh[i] for i in ids], dtype=np.int64)
        return Lent(self.slabs, slots, ids, own=True)

    def keep(self, lent: Lent) -> None:
        self.codec.trim(lent.slabs, lent.slots)
        self.slots.update(self.fresh)
        if self.order is not None:
            self.order.update(self.fresh)
        self.fresh.clear()

    def record(self, identifier: str) -> Record:
        return tuple(slab[self.slots[identifier]].copy() for slab in self.slabs)

    def _slot(self, identifier: str, known: dict[str, int]) -> int:
        """The id's slot; a free one if `known` has none."""
        slot = known.get(identifier)
        if slot is None:
            if not self.free:
                self._grow()
            slot = known[identifier] = self.free.pop()
        return slot

    def _grow(self) -> None:
        if self.used == len(self.slabs[0]):
            grown = self.codec.slabs(2 * self.used)
            for new, old in zip(grown, self.slabs, strict=True):
                new[: self.used] = old
            self.slabs = grown
        self.free.append(self.used)
        self.used += 1

    def remove(self, ids: Sequence[str]) -> None:
        known = [i for i in ids if i in self.slots]
        self.free += map(self.slots.pop, known)
        if self.order is not None:
            for i in known:
                self.order.remove(i)

    def ids_after(self, after: str | None, limit: int) -> list[str]:
        if self.order is None:
            self.order = SortedList(self.slots)
        return list(islice(self.order.irange(after, inclusive=(False, True)), limit))


class MemoryRowStore:
    """`autoemb_pipeline.rows.RowStore` in memory, unbounded.

    Args:
        specs: the tables.

    Raises:
        ConfigurationError: see `autoemb_pipeline.state.validation.checked_specs`.
    """

    def __init__(self, specs: Sequence[AnySpec]) -> None:
        self._tables = {name: _Table(spec) for name, spec in checked_specs(specs).items()}

    def gather(self, table: str, ids: Sequence[str]) -> Rows:
        """See `RowStore.gather`. ValueError when ids repeat, KeyError on an unknown table, TypeError on one of records."""
        check_distinct(table, ids)
        stored = self._tables[table]
        plain(stored.spec)
        return stored.gather(ids)

    def scatter(self, table: str, ids: Sequence[str], rows: Rows) -> None:
        """See `RowStore.scatter`. Raises as gather does, and ValueError when the shape is wrong."""
        check_distinct(table, ids)
        stored = self._tables[table]
        stored.scatter(ids, checked_rows(plain(stored.spec), ids, rows))

    def lend(self, table: str, ids: Sequence[str]) -> Lent:
        """See `RowStore.lend`. ValueError when ids repeat, KeyError on an unknown table."""
        check_distinct(table, ids)
        return self._tables[table].lend(ids)

    def keep(self, table: str, lent: Lent) -> None:
        """See `RowStore.keep`."""
        self._tables[table].keep(lent)

    def remove(self, table: str, ids: Sequence[str]) -> None:
        """See `RowStore.remove`. ValueError when ids repeat, KeyError on an unknown table."""
        check_distinct(table, ids)
        self._tables[table].remove(ids)

    def ids_after(self, table: str, after: str | None, limit: int) -> Sequence[str]:
        """See `RowStore.ids_after`. KeyError on an unknown table."""
        return self._tables[table].ids_after(after, limit)

    def items(self, table: str) -> Iterator[tuple[str, Rows]]:
        """See `RowStore.items`. Rows are copies."""
        stored = self._tables[table]
        plain(stored.spec)
        return ((i, row[0]) for i, row in self.records(table))

    def records(self, table: str) -> Iterator[tuple[str, Record]]:
        """See `RowStore.records`."""
        stored = self._tables[table]
        return ((i, stored.record(i)) for i in sorted(stored.slots))

    def count(self, table: str) -> int:
        """Ids that have a row, exact."""
        return len(self._tables[table].slots)

    def close(self) -> None:
        """Nothing to release; there so that both stores close alike."""
