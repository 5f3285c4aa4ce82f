"""Bounded slabs of one table's rows, with the least recently used ones leaving in bulk.

Slots are places in the slab. All work is per mini-batch and vectorised; only the id index is a Python dict.
"""

from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.rows import Record

Slots = NDArray[np.int64]

# What one cached id costs beside its row: the string, its dict entry, the boxed slot, the flags (CPython 3.11, short ids).
INDEX_BYTES = 256

CLEAN = np.uint8(0)
DIRTY = np.uint8(1)
CAPTURED = np.uint8(2)  # taken by a checkpoint, not yet in the database


class Leaving(NamedTuple):
    """Copies of rows that the database does not hold: [n, width] for each part."""

    ids: list[str]
    rows: Record


class RowCache:
    """Cached rows of one table.

    Args:
        slabs: [capacity, width] for each part of a row, at least one row.
    """

    def __init__(self, slabs: Record) -> None:
        self.capacity = capacity = len(slabs[0])
        self.slabs = slabs
        self.state = np.zeros(capacity, dtype=np.uint8)
        self.scattered = np.zeros(capacity, dtype=np.bool_)  # False: an initial row that no scatter has touched
        self.dirty = 0
        self._slot_of: dict[str, int] = {}
        self._id_of: list[str] = []
        self._free: list[int] = []
        self._used_at = np.zeros(capacity, dtype=np.int64)
        self._tick = 0

    def find(self, ids: Sequence[str]) -> Slots:
        """[n] slots; -1 where an id is not cached."""
        return np.fromiter(map(self._slot_of.get, ids, repeat(-1)), np.int64, len(ids))

    def touch(self, slots: Slots) -> None:
        """Marks the slots as used by the current call."""
        self._tick += 1
        self._used_at[slots] = self._tick

    def make_room(self, needed: int, protected: Slots) -> Leaving:
        """Frees slots until `wanted` fit, none of them protected; wanted + len(protected) <= capacity.

        A sixteenth of the cache leaves at a time, so that the search for the oldest is paid once per many rows.

        Returns:
            The rows among those removed that the database does not hold yet.
        """
        missing = needed - len(self._free) - (self.capacity - len(self._id_of))
        if missing <= 0:
            return Leaving([], self._rows(slice(0, 0)))
        self._used_at[protected] = self._tick + 1
        leaving = min(max(missing, self.capacity // 16), len(self._slot_of) - len(protected))
        used_at = self._used_at[: len(self._id_of)].copy()
        used_at[self._free] = np.iinfo(np.int64).max
        oldest = np.argpartition(used_at, leaving - 1)[:leaving]
        unsaved = oldest[self.state[oldest] != CLEAN]
        result = Leaving([self._id_of[k] for k in unsaved], self._rows(unsaved))
        self.dirty -= int(np.count_nonzero(self.state[oldest] == DIRTY))
        self.state[oldest] = CLEAN
        self.scattered[oldest] = False
        for slot in oldest.tolist():
            del self._slot_of[self._id_of[slot]]
        self._free.extend(oldest.tolist())
        return result

    def admit(self, ids: Sequence[str]) -> Slots:
        """[n] slots for ids that are not cached; make_room came before. Their rows are for the caller to fill. ids: at least one."""
        reused = self._free[-len(ids) :]
        del self._free[-len(ids) :]
        for slot, i in zip(reused, ids, strict=False):
            self._id_of[slot] = i
        first = len(self._id_of)
        self._id_of += ids[len(reused) :]
        slots = [*reused, *range(first, len(self._id_of))]
        self._slot_of.update(zip(ids, slots, strict=True))
        return np.array(slots, dtype=np.int64)

    def drop(self, ids: Sequence[str]) -> list[bool]:
        """Forgets cached ids, whatever their state. Returns for each id whether a scattered row of it was cached."""
        dropped = []
        for i in ids:
            slot = self._slot_of.pop(i, None)
            dropped.append(slot is not None and bool(self.scattered[slot]))
            if slot is not None:
                self.dirty -= int(self.state[slot] == DIRTY)
                self.state[slot] = CLEAN
                self.scattered[slot] = False
                self._free.append(slot)
        return dropped

    def never_scattered(self, slots: Slots) -> list[str]:
        """Ids in these slots whose rows are initial ones."""
        return [self._id_of[k] for k in slots[~self.scattered[slots]].tolist()]

    def unsaved(self) -> list[str]:
        """Ids whose rows the database may lack."""
        return [self._id_of[k] for k in np.flatnonzero(self.state != CLEAN).tolist()]

    def dirty_of(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids whose rows are cached and changed."""
        return [i for i in ids if (slot := self._slot_of.get(i)) is not None and self.state[slot] == DIRTY]

    def mark_dirty(self, slots: Slots) -> int:
        """Marks scattered rows; returns how many of the ids were never scattered before."""
        self.dirty += int(np.count_nonzero(self.state[slots] != DIRTY))
        self.state[slots] = DIRTY
        new = len(slots) - int(np.count_nonzero(self.scattered[slots]))
        self.scattered[slots] = True
        return new

    def take_dirty(self, becomes: np.uint8, limit: int | None = None) -> tuple[Slots, Leaving]:
        """Copies of (at most `limit`) dirty rows, which stay cached in the state `becomes`."""
        slots = np.flatnonzero(self.state == DIRTY)[:limit]
        self.state[slots] = becomes
        self.dirty -= len(slots)
        return slots, Leaving([self._id_of[k] for k in slots], self._rows(slots))

    def _rows(self, slots: Slots | slice) -> Record:
        return tuple(slab[slots] for slab in self.slabs)

    def settle(self, slots: Slots) -> None:
        """Rows of a capture that are unchanged since it are clean now: the database holds them."""
        self.state[slots[self.state[slots] == CAPTURED]] = CLEAN
