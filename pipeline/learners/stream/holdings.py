"""What is kept per id for embeddings, in bytes, and taking blocks back from ids for which they are no longer worth it.

Counted is what the store keeps of each known id: an index entry and the id itself, its bias and the variance of it, the flags of its
blocks, the numbers, scale and variance of each block that it holds, and what it remembers, partners' ids included. Context is counted
apart.

Shape legend: n ids, N blocks.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sortedcontainers import SortedList

from autoemb_pipeline.kernels import Measured, tally, weigh
from autoemb_pipeline.kernels.holding import ENTERED, LEFT, NEW
from autoemb_pipeline.kernels.values import LENGTH_BYTES
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.packing import pack_strings, restored, unpack_strings
from autoemb_pipeline.learners.stream.rows import CONTEXT, FIXED_WIDTH, HOLDS, REMEMBERED, SidePlan
from autoemb_pipeline.rows import Lent, RowStore, stored_bytes

INDEX_ENTRY_BYTES = 16
Integers = NDArray[np.int64]
_NOTHING = np.zeros((0, 0), dtype=np.int8)


def bytes_report(sides: tuple["Holdings", "Holdings"]) -> dict[str, float | None]:
    """Fields of the metrics topic: bytes kept for embeddings and for context, and the shares of what a fixed size would keep."""
    own, context = sum(side.bytes for side in sides), sum(side.context_bytes for side in sides)
    fixed = sum(side.fixed_bytes for side in sides)
    return {
        "embedding_bytes": own,
        "least_bytes": sum(side.least_bytes for side in sides),
        "context_bytes": context,
        "bytes_share_of_fixed": own / fixed if fixed else None,
        "total_share_of_fixed": (own + context) / (fixed + context) if fixed else None,
    }


def id_bytes(plan: SidePlan) -> tuple[int, tuple[int, ...]]:
    """Bytes that every known id takes beside its name, and [N] those that each block adds."""
    common, blocks = stored_bytes(plan.spec())
    return INDEX_ENTRY_BYTES + common + plan.spaces + (LENGTH_BYTES if plan.searched else 0), blocks


def smallest_bytes(plan: SidePlan) -> int:
    """Bytes of an id with a name of one letter that holds the smallest block."""
    base, blocks = id_bytes(plan)
    return base + 1 + blocks[0]


class Holdings:
    """One side's.

    Args:
        plan: of its rows.
        store: read once after a restore, to find the ids that have blocks or memory.

    Attributes:
        base, by_level: bytes of every known id beside its name; and [N + 1] those of so many blocks.
        ids: how many are known.
        holders: [N + 1] how many of them hold so many blocks.
        cursor: the last id visited.
    """

    def __init__(self, plan: SidePlan, store: RowStore) -> None:
        self._plan, self._store = plan, store
        self.base, blocks = id_bytes(plan)
        self.by_level: Integers = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
        self.ids, self._id_bytes, self._payload = 0, 0, 0
        self.holders: Integers = np.zeros(plan.spaces + 1, dtype=np.int64)
        self._index: SortedList[str] | None = SortedList()  # None: not read yet since a restore
        self.cursor = ""

    def measure(self, lent: Lent) -> Measured:
        """What lent ids hold and remember, and whether they are known."""
        count = len(lent.slots)
        out = Measured(np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64), np.empty(count, dtype=np.bool_))
        slabs = lent.slabs
        weigh(lent.slots, slabs[HOLDS], slabs[REMEMBERED] if self._plan.searched else _NOTHING, slabs[CONTEXT], self.by_level, out)
        return out

    def remembered(self, measured: Measured) -> Integers:
        """[n] bytes that measured ids remember."""
        bytes_n: Integers = measured.sizes - self.by_level[measured.levels]
        return bytes_n

    def account(self, lent: Lent, before: Measured) -> None:
        """Enters what has changed of lent ids.

        Args:
            lent: their records.
            before: what `measure` gave of them.
        """
        changes = np.empty(len(lent.slots), dtype=np.int8)
        self._payload += tally(before, self.measure(lent), self.holders, changes)
        if not changes.any():
            return
        for change, do in ((NEW, self._meet), (ENTERED, self._enter), (LEFT, self._leave)):
            do([lent.ids[k] for k in np.flatnonzero(changes & change).tolist()])

    def _meet(self, ids: Sequence[str]) -> None:
        self.ids += len(ids)
        self._id_bytes += sum(len(i.encode()) for i in ids)

    def _enter(self, ids: Sequence[str]) -> None:
        if self._plan.searched and self._index is not None:
            self._index.update(ids)

    def _leave(self, ids: Sequence[str]) -> None:
        if self._plan.searched and self._index is not None:
            for i in ids:
                self._index.discard(i)

    def forget(self, lent: Lent) -> None:
        """Takes out of the count lent ids that are about to be removed; they are known."""
        measured = self.measure(lent)
        self.ids -= len(lent.ids)
        self._id_bytes -= sum(len(i.encode()) for i in lent.ids)
        self._payload -= int(measured.sizes.sum())
        self.holders -= np.bincount(measured.levels, minlength=len(self.holders))
        self._leave(lent.ids)

    def next_visited(self, count: int) -> Sequence[str]:
        """The next ids, in their order, whose blocks and memory shall be judged; the turn of each that has any comes again and again."""
        if self._index is None:
            records = self._store.records(self._plan.name)
            self._index = SortedList(i for i, record in records if record[HOLDS].any() or record[REMEMBERED][:LENGTH_BYTES].any())
        visited = list(islice(self._index.irange(self.cursor, inclusive=(False, True)), count))
        self.cursor = visited[-1] if len(visited) == count else ""
        return visited

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """What is counted, and the last id visited; which ids have anything is in the store."""
        name = f"holdings/{self._plan.name}"
        counters = np.concatenate([[self.ids, self._id_bytes, self._payload], self.holders])
        return {f"{name}/counters": counters, **pack_strings(f"{name}/cursor", [self.cursor])}

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave. CheckpointError: an array is missing or of another shape."""
        name = f"holdings/{self._plan.name}"
        counters = restored(state, f"{name}/counters", np.concatenate([[0, 0, 0], self.holders]))
        self.ids, self._id_bytes, self._payload = counters[:3].tolist()
        self.holders = counters[3:]
        (self.cursor,) = unpack_strings(f"{name}/cursor", state)
        self._index = None

    @property
    def bytes(self) -> int:
        """Kept for embeddings."""
        return self.least_bytes + self._payload

    @property
    def least_bytes(self) -> int:
        """Bytes that the known ids take without any block and without memory: index, id, bias."""
        return self.ids * self.base + self._id_bytes

    @property
    def fixed_bytes(self) -> int:
        """Bytes of the known ids, had each the paper's fixed-size embedding in float32, with variance and bias."""
        return self.ids * (INDEX_ENTRY_BYTES + 4 * (FIXED_WIDTH + 3)) + self._id_bytes

    @property
    def context_bytes(self) -> int:
        """Bytes of the context rows of the known ids."""
        return self.ids * self._plan.context_bytes
