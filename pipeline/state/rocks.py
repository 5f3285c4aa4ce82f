"""Rows in RocksDB behind a bounded write-back cache.

The live database is scratch: no write-ahead log, rebuilt from a checkpoint at every start. A checkpoint goes in two steps:
`capture` (the training thread, short) copies the rows changed since the last one, `persist` (any other thread) writes them into the
database and makes a RocksDB checkpoint of it. Between the two the database must not see rows of later steps, so what leaves
the cache meanwhile waits in a bounded buffer.

What the store returns, and what it writes, is a function of the calls alone, not of the cache's size or of when `persist` runs.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import rocksdict
from sortedcontainers import SortedList

from autoemb_pipeline.errors import CheckpointError, StateError
from autoemb_pipeline.failpoints import failpoint
from autoemb_pipeline.rows import AnySpec, Lent, Record, Rows
from autoemb_pipeline.state.cache import CAPTURED, CLEAN, INDEX_BYTES, Leaving, Slots
from autoemb_pipeline.state.codec import RowCodec, format_of
from autoemb_pipeline.state.files import clear_scratch, clone, count_key, format_key, keys_after, open_database, read_counts
from autoemb_pipeline.state.options import RocksConfig
from autoemb_pipeline.state.table import RocksTable
from autoemb_pipeline.state.validation import check_distinct, checked_rows, checked_specs, plain

WRITTEN_AT_ONCE = 2048  # rows of a write batch: few enough that their copies are not fresh pages each time


@dataclass(frozen=True, kw_only=True, slots=True)
class Capture:
    """All rows changed since the last capture, as they were at one moment. Opaque to everyone but the store it came from."""

    rows: dict[str, Leaving]
    slots: dict[str, Slots]
    counts: dict[str, int]
    made: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list)


class RocksRowStore:
    """`autoemb_pipeline.rows.RowStore` over RocksDB. One thread calls it; only `persist` may run in another.

    Args:
        config: directories and sizes.
        specs: the tables.

    Raises:
        ConfigurationError: see `checked_specs`.
        CheckpointError: the source checkpoint cannot be read or holds other tables or formats.
        StateError: the live directory holds foreign files, or RocksDB cannot open it.
    """

    def __init__(self, config: RocksConfig, specs: Sequence[AnySpec]) -> None:
        by_name = checked_specs(specs)
        clear_scratch(config.directory)
        if config.source is None:
            config.directory.mkdir(parents=True)
        else:
            clone(config.source, config.directory)
        self._database: Any = open_database(config.directory, by_name, config.options)
        self._no_log = rocksdict.WriteOptions()
        self._no_log.disable_wal = True
        # Equal rows for every table. Half of the memory is the slabs' and the index's; an eighth each goes to a capture, its write
        # batch, the pending rows, and theirs.
        row_bytes = sum(RowCodec(spec).row_bytes + INDEX_BYTES for spec in specs)
        capacity = max(1, config.cache_bytes // 2 // max(1, row_bytes))
        self._buffer_bytes = config.cache_bytes // 8
        counts = read_counts(self._database, by_name)
        self._tables = {n: RocksTable(s, capacity=capacity, count=counts[n], database=self._database) for n, s in by_name.items()}
        self._flight: Capture | None = None
        self._broken: CheckpointError | None = None
        self._pending_bytes = 0

    def gather(self, table: str, ids: Sequence[str]) -> Rows:
        """See `RowStore.gather`.

        Raises:
            ValueError: ids repeat. KeyError: unknown table.
            CheckpointError: a checkpoint could not be written; the store cannot go on.
        """
        check_distinct(table, ids)
        self._settle()
        opened = self._tables[table]
        plain(opened.spec)
        return self._copies(opened, ids)[0]

    def scatter(self, table: str, ids: Sequence[str], rows: Rows) -> None:
        """See `RowStore.scatter`. Raises as gather does, and ValueError when the shape is wrong."""
        check_distinct(table, ids)
        opened = self._tables[table]
        rows = checked_rows(plain(opened.spec), ids, rows)
        self._settle()
        self._replace(opened, ids, (opened.codec.trimmed(rows),))

    def lend(self, table: str, ids: Sequence[str]) -> Lent:
        """See `RowStore.lend`: slots of the cache, or copies if it cannot hold so many ids. Raises as gather does."""
        check_distinct(table, ids)
        self._settle()
        opened = self._tables[table]
        if len(ids) <= opened.cache.capacity:
            return Lent(opened.cache.slabs, self._resident(opened, ids, fill=True), ids, own=True)
        return Lent(self._copies(opened, ids), np.arange(len(ids)), ids, own=False)

    def keep(self, table: str, lent: Lent) -> None:
        """See `RowStore.keep`. Raises as gather does."""
        self._settle()
        opened = self._tables[table]
        opened.codec.trim(lent.slabs, lent.slots)
        if not lent.own:
            self._replace(opened, lent.ids, tuple(slab[lent.slots] for slab in lent.slabs))  # of the copies some may stay behind
            return
        self._changed(opened, lent.slots)

    def _copies(self, opened: RocksTable, ids: Sequence[str]) -> Record:
        """Rows of distinct ids, as many at a time as the cache holds."""
        copies = opened.codec.slabs(len(ids))
        for start in range(0, len(ids), opened.cache.capacity):
            part = ids[start : start + opened.cache.capacity]
            slots = self._resident(opened, part, fill=True)
            for copy, slab in zip(copies, opened.cache.slabs, strict=True):
                copy[start : start + len(part)] = slab[slots]
        return copies

    def _replace(self, opened: RocksTable, ids: Sequence[str], rows: Record) -> None:
        for start in range(0, len(ids), opened.cache.capacity):
            part = ids[start : start + opened.cache.capacity]
            slots = self._resident(opened, part, fill=False)
            for row, slab in zip(rows, opened.cache.slabs, strict=True):
                slab[slots] = row[start : start + len(part)]
            self._changed(opened, slots)

    def _changed(self, opened: RocksTable, slots: Slots) -> None:
        if opened.fresh is not None:
            opened.fresh.update(opened.cache.never_scattered(slots))
        opened.count += opened.cache.mark_dirty(slots)
        if self._flight is None and self._dirty_bytes() > self._buffer_bytes:
            self._write_dirty()  # bounds what a capture has to copy

    def remove(self, table: str, ids: Sequence[str]) -> None:
        """See `RowStore.remove`. The rows of a checkpoint under way are not touched. Raises as gather does."""
        check_distinct(table, ids)
        opened = self._tables[table]
        self._settle()
        cached = opened.cache.drop(ids)
        stored = opened.family.get([i.encode() for i in ids]) if ids else []
        known = [
            i for i, value, scattered in zip(ids, stored, cached, strict=True) if scattered or opened.pending.get(i, value) is not None
        ]
        opened.count -= len(known)
        if opened.fresh is not None:
            for i in known:
                opened.fresh.discard(i)
        if self._flight is not None:
            self._wait_with(opened, dict.fromkeys(known))
            return
        batch = rocksdict.WriteBatch(raw_mode=True)
        for i in known:
            batch.delete(i.encode(), opened.handle)
        if len(batch):
            self._write(batch)

    def ids_after(self, table: str, after: str | None, limit: int) -> Sequence[str]:
        """See `RowStore.ids_after`: the database's ids with those that are on their way to it. Raises as gather does."""
        self._settle()
        opened = self._tables[table]
        if opened.fresh is None:
            opened.fresh = SortedList({*opened.cache.unsaved(), *(i for i, value in opened.pending.items() if value is not None)})
        ordered = merge(keys_after(opened.family, after), opened.fresh.irange(after, inclusive=(False, True)))
        distinct = (i for i, _ in groupby(ordered))
        return list(islice((i for i in distinct if i in opened.fresh or opened.pending.get(i, b"") is not None), limit))

    def items(self, table: str) -> Iterator[tuple[str, Rows]]:
        """See `RowStore.items`. Writes changed rows to the live database first, then reads a moment's view of it."""
        plain(self._tables[table].spec)
        return ((i, row[0]) for i, row in self.records(table))

    def records(self, table: str) -> Iterator[tuple[str, Record]]:
        """See `RowStore.records`; as `items`."""
        opened = self._tables[table]
        self._wait_for_flight()
        self._write_dirty()
        return opened.codec.rows_of(opened.family.items())

    def count(self, table: str) -> int:
        """Ids that have a row: exact, O(1)."""
        return self._tables[table].count

    def capture(self) -> Capture:
        """Copies of the rows changed since the last capture; to be handed to `persist` exactly once.

        Raises:
            CheckpointError: an earlier checkpoint failed. RuntimeError: one is under way.
        """
        self._settle()
        if self._flight is not None:
            raise RuntimeError("a capture of this store is being persisted; wait for it first")
        if self._dirty_bytes() > self._buffer_bytes:  # rows that changed while the previous checkpoint was under way
            self._write_dirty()
        rows, slots = {}, {}
        for name, opened in self._tables.items():
            slots[name], rows[name] = opened.cache.take_dirty(CAPTURED)
        self._flight = Capture(rows=rows, slots=slots, counts={name: opened.count for name, opened in self._tables.items()})
        return self._flight

    def persist(self, capture: Capture, directory: Path) -> None:
        """Makes `directory` a RocksDB checkpoint of the captured moment; for a background thread. Nothing is synced here.

        One write batch, a flush of every table, then RocksDB's checkpoint, which links SST files and copies the rest.

        Raises:
            CheckpointError: RocksDB could not write; the store then refuses every further call.
        """
        try:
            batch = rocksdict.WriteBatch(raw_mode=True)
            for name, leaving in capture.rows.items():
                self._tables[name].put(batch, leaving)
                batch.put(count_key(name), capture.counts[name].to_bytes(8, "little"))
                batch.put(format_key(name), format_of(self._tables[name].spec))
            self._database.write(batch, self._no_log)
            failpoint("flush")
            for opened in self._tables.values():
                opened.family.flush()
            self._database.flush()
            failpoint("rocksdb-checkpoint")
            rocksdict.Checkpoint(self._database).create_checkpoint(str(directory))
        except BaseException as error:
            capture.failures.append(error)
            raise _write_failed(error) from error
        finally:
            capture.made.set()

    def abandon(self, capture: Capture, cause: BaseException) -> None:
        """Says that a capture will never be persisted. Its rows may be lost to the database, so the store refuses further calls."""
        capture.failures.append(cause)
        capture.made.set()

    def close(self) -> None:
        """Waits for a persist under way and releases the database's lock. The live directory stays until the next start."""
        if self._database is None:
            return
        if self._flight is not None:
            self._flight.made.wait()
        for opened in self._tables.values():  # handles keep RocksDB's LOCK beyond close(), and tracebacks keep tables
            opened.family = opened.handle = None
        self._tables.clear()
        with contextlib.suppress(Exception):  # it flushes first, which fails on a full disk; the rows are scratch by now
            self._database.close()
        self._database = None

    def _resident(self, opened: RocksTable, ids: Sequence[str], *, fill: bool) -> Slots:
        """Slots of at most `capacity` distinct ids, all in the cache. fill=False: rows of new ids are left for scatter to write."""
        cache = opened.cache
        slots = cache.find(ids)
        absent = np.flatnonzero(slots < 0).tolist()
        if absent:
            self._spill(opened, cache.make_room(len(absent), slots[slots >= 0]))
            slots[absent] = self._load(opened, [ids[k] for k in absent], fill=fill)
        cache.touch(slots)
        return slots

    def _load(self, opened: RocksTable, ids: list[str], *, fill: bool) -> Slots:
        """Brings ids that are not cached into free slots: from the pending rows, else the database, else their initial rows."""
        slots = opened.cache.admit(ids)
        sought = [k for k, i in enumerate(ids) if i not in opened.pending] if opened.pending else range(len(ids))
        values = opened.family.get([ids[k].encode() for k in sought]) if sought else []
        hits = [k for k, value in zip(sought, values, strict=True) if value is not None]
        if hits:
            opened.codec.decode([ids[k] for k in hits], [value for value in values if value is not None], opened.cache.slabs, slots[hits])
        opened.cache.scattered[slots[hits]] = True
        new = [k for k, value in zip(sought, values, strict=True) if value is None]
        if len(sought) < len(ids):
            new += self._load_pending(opened, ids, slots)
        if new and fill:
            opened.codec.fill_new([ids[k] for k in new], opened.cache.slabs, slots[new])
        return slots

    def _load_pending(self, opened: RocksTable, ids: list[str], slots: Slots) -> list[int]:
        """Brings rows back that wait for a checkpoint. Returns which of the ids were removed meanwhile; their removal goes on waiting."""
        back = {k: value for k, i in enumerate(ids) if (value := opened.pending.get(i)) is not None}
        if back:
            waiting = list(back)
            opened.codec.decode([ids[k] for k in waiting], list(back.values()), opened.cache.slabs, slots[waiting])
            for k in waiting:
                del opened.pending[ids[k]]
            self._pending_bytes -= len(waiting) * (opened.row_bytes + INDEX_BYTES)
            opened.cache.mark_dirty(slots[waiting])
        return [k for k, i in enumerate(ids) if i in opened.pending]

    def _spill(self, opened: RocksTable, leaving: Leaving) -> None:
        """Writes rows that left the cache, or keeps them until the checkpoint under way is made."""
        if not leaving.ids:
            return
        if self._flight is not None:
            self._wait_with(opened, dict(zip(leaving.ids, opened.codec.encode(leaving.rows), strict=True)))
            return
        batch = rocksdict.WriteBatch(raw_mode=True)
        opened.put(batch, leaving)
        self._write(batch)

    def _wait_with(self, opened: RocksTable, rows: Mapping[str, bytes | None]) -> None:
        """Keeps rows, or removals, until the checkpoint under way is made; waits for it when there are too many."""
        before = len(opened.pending)
        opened.pending.update(rows)
        self._pending_bytes += (len(opened.pending) - before) * (opened.row_bytes + INDEX_BYTES)
        if self._pending_bytes > self._buffer_bytes:
            self._wait_for_flight()

    def _write(self, batch: Any) -> None:
        try:
            self._database.write(batch, self._no_log)
        except Exception as error:
            self._broken = _write_failed(error)
            raise self._broken from error

    def _write_dirty(self) -> None:
        """All changed rows into the live database, in batches of bounded size; no checkpoint may be under way."""
        for opened in self._tables.values():
            while opened.cache.dirty:
                batch = rocksdict.WriteBatch(raw_mode=True)
                opened.put(batch, opened.cache.take_dirty(CLEAN, WRITTEN_AT_ONCE)[1])
                self._write(batch)
            if opened.fresh is not None:
                opened.fresh.clear()

    def _dirty_bytes(self) -> int:
        return sum(opened.cache.dirty * opened.row_bytes for opened in self._tables.values())

    def _wait_for_flight(self) -> None:
        if self._flight is not None:
            self._flight.made.wait()
        self._settle()

    def _settle(self) -> None:
        """After a checkpoint was made: its rows are clean, and the rows that waited for it go to the database."""
        if self._broken is not None:
            raise self._broken
        if self._database is None:
            raise StateError("The row store is closed.")
        flight = self._flight
        if flight is None or not flight.made.is_set():
            return
        self._flight = None
        if flight.failures:
            self._broken = _write_failed(flight.failures[0])
            raise self._broken from flight.failures[0]
        batch = rocksdict.WriteBatch(raw_mode=True)
        for name, opened in self._tables.items():
            opened.cache.settle(flight.slots[name])
            opened.put_pending(batch)
        self._pending_bytes = 0
        if len(batch):
            self._write(batch)


def _write_failed(error: BaseException) -> CheckpointError:
    return CheckpointError(
        "The rows could not be written to the state directory.",
        why=str(error),
        remedy="Free space on its disk (see `df`), then start again: training goes on from the last checkpoint.",
    )


__all__ = ["Capture", "RocksRowStore"]
