"""Forgetting ids whose last event lies too far back: some are visited at the end of every mini-batch, in the order of their ids.

The stream alone decides: an id is due when its latest event time lies more than the time to live before the latest of the stream. It is
removed when its turn comes, with all that is kept of it in every table of its side; an id that comes back is a new one. A mini-batch's
visits are 64 per side and twice the ids that came since the last: so the cost of a step follows the mini-batch, and however fast new ids
come, no more than half of those kept are overdue.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from autoemb_pipeline.kernels.layout import LAST_TIME
from autoemb_pipeline.open_batch import SIDES
from autoemb_pipeline.rows import Lent, RowStore

SECONDS_PER_DAY = 86_400.0
VISITED_AT_LEAST = 64
VISITED_PER_NEW = 2


class Forget(Protocol):
    """Called with records that are about to be removed."""

    def __call__(self, field: int, lent: Lent) -> None:
        """field: 0 for users, 1 for items."""
        ...


class _Side:
    """One side's.

    Attributes:
        cursor: the last id visited; None: the next is the first of all.
        known: ids with records when the last visit was over.
        removed: ids removed since the run began.
    """

    def __init__(self) -> None:
        self.cursor: str | None = None
        self.known = 0
        self.removed = 0


class Expiry:
    """Removes ids of both sides when they are due.

    Args:
        days: time to live, in days of event time.
        store: holds the records.
        tables: of both sides all their tables, that of the records first.
    """

    def __init__(self, days: float, store: RowStore, tables: tuple[Sequence[str], Sequence[str]]) -> None:
        self._seconds, self._store, self._tables = days * SECONDS_PER_DAY, store, tables
        self._sides = (_Side(), _Side())
        self._latest = -np.inf

    def visit(self, latest: float, waiting: tuple[frozenset[str], frozenset[str]], forget: Forget) -> None:
        """Removes those of the next ids that are due.

        Args:
            latest: s, of the mini-batch's event times.
            waiting: ids that are not removed because interactions of theirs wait for their labels.
            forget: hears of it first.
        """
        self._latest = max(self._latest, latest)
        for field, (side, tables) in enumerate(zip(self._sides, self._tables, strict=True)):
            count = self._store.count(tables[0])
            visited = self._next(side, tables[0], VISITED_AT_LEAST + VISITED_PER_NEW * max(count - side.known, 0))
            if visited:
                self._remove(field, self._store.lend(tables[0], visited), waiting[field], forget)
            side.known = self._store.count(tables[0])

    def _next(self, side: _Side, table: str, limit: int) -> Sequence[str]:
        visited = self._store.ids_after(table, side.cursor, limit)
        side.cursor = visited[-1] if len(visited) == limit else None
        return visited

    def _remove(self, field: int, lent: Lent, waiting: frozenset[str], forget: Forget) -> None:
        due = np.flatnonzero(lent.slabs[0][lent.slots, LAST_TIME] < self._latest - self._seconds)
        due = np.array([k for k in due.tolist() if lent.ids[k] not in waiting], dtype=np.int64)
        if not len(due):
            return
        gone = [lent.ids[k] for k in due.tolist()]
        forget(field, Lent(lent.slabs, lent.slots[due], gone, lent.own))
        for table in self._tables[field]:
            self._store.remove(table, gone)
        self._sides[field].removed += len(gone)

    def report(self) -> dict[str, object]:
        """Fields of the metrics topic: ids removed since the run began."""
        return {f"{name}_removed_ids": side.removed for name, side in zip(SIDES, self._sides, strict=True)}

    def state(self) -> dict[str, Any]:
        """All that is not in the store, as JSON-able values."""
        latest = None if np.isinf(self._latest) else self._latest
        return {"latest": latest, "sides": [[side.cursor, side.known, side.removed] for side in self._sides]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` gave."""
        self._latest = -np.inf if state["latest"] is None else state["latest"]
        for side, saved in zip(self._sides, state["sides"], strict=True):
            side.cursor, side.known, side.removed = saved
