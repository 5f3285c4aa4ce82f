"""What is kept per id for embeddings, in bytes, and taking blocks back from ids for which they are no longer worth it.

Counted is what the store keeps of each known id: an index entry and the id itself, its bias and the variance of it, the flags of its
blocks, the numbers, scale and variance of each block that it holds, and what it remembers, partners' ids included. Context is counted
apart.

Shape legend: n ids, N blocks.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from sortedcontainers import SortedList

from autoemb_pipeline.kernels.layout import COUNT
from autoemb_pipeline.learners.stream.memory import LENGTH_BYTES, used_bytes
from autoemb_pipeline.learners.stream.rows import CONTEXT, FIXED_WIDTH, HOLDS, REMEMBERED, SidePlan
from autoemb_pipeline.rows import Lent, RowStore, stored_bytes

INDEX_ENTRY_BYTES = 16
VISITED_AT_ONCE = 64
Integers = NDArray[np.int64]
Measured = tuple[Integers, Integers, NDArray[np.bool_]]
"""Of n lent ids: blocks held, bytes of them and of what is remembered, and whether the id is known."""


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
        store: read once, to learn what a restored run holds.
    """

    def __init__(self, plan: SidePlan, store: RowStore) -> None:
        self._plan, self._store = plan, store
        self.base, blocks = id_bytes(plan)
        self.by_level: Integers = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
        self.bytes, self.ids, self._id_bytes = 0, 0, 0
        self.holders: Integers = np.zeros(plan.spaces + 1, dtype=np.int64)
        self._index: SortedList[str] = SortedList()
        self._cursor = ""

    def count_all(self) -> None:
        """Learns by one pass over the store what is held."""
        self.bytes, self.ids, self._id_bytes = 0, 0, 0
        self.holders[:] = 0
        holding = []
        for identifier, record in self._store.records(self._plan.name):
            level = int((record[HOLDS] != 0).sum())
            used = int(used_bytes(record[REMEMBERED][None, :], np.zeros(1, dtype=np.int64))[0]) if self._plan.searched else 0
            if record[CONTEXT][COUNT] == 0:
                continue
            self.ids += 1
            self.holders[level] += 1
            self._id_bytes += len(identifier.encode())
            self.bytes += self.base + len(identifier.encode()) + int(self.by_level[level]) + used
            if level or used:
                holding.append(identifier)
        self._index = SortedList(holding)

    def levels(self, lent: Lent) -> Integers:
        """[n] blocks that lent ids hold."""
        return np.asarray((lent.slabs[HOLDS][lent.slots] != 0).sum(axis=1), dtype=np.int64)

    def measure(self, lent: Lent) -> Measured:
        """[n] levels, bytes of blocks and memory, and whether each lent id is known."""
        levels = self.levels(lent)
        size = self.by_level[levels]
        if self._plan.searched:
            size = size + used_bytes(lent.slabs[REMEMBERED], lent.slots)
        return levels, size, lent.slabs[CONTEXT][lent.slots, COUNT] > 0

    def account(self, lent: Lent, before: Measured) -> None:
        """Enters what has changed of lent ids.

        Args:
            lent: their records.
            before: what `measure` gave of them.
        """
        levels, size, known = self.measure(lent)
        new = np.flatnonzero(known & ~before[2]).tolist()
        self.ids += len(new)
        named = sum(len(lent.ids[k].encode()) for k in new)
        self._id_bytes += named
        self.bytes += named + len(new) * self.base + int(size[known].sum() - before[1][before[2]].sum())
        self.holders += np.bincount(levels[known], minlength=len(self.holders))
        self.holders -= np.bincount(before[0][before[2]], minlength=len(self.holders))
        if self._plan.searched:
            self._index.update(lent.ids[k] for k in np.flatnonzero((size > 0) & (before[1] == 0)).tolist())
            for k in np.flatnonzero((size == 0) & (before[1] > 0)).tolist():
                self._index.discard(lent.ids[k])

    def next_visited(self) -> Sequence[str]:
        """The next ids, in their order, whose blocks and memory shall be judged; the turn of each that has any comes again and again."""
        visited = list(islice(self._index.irange(self._cursor, inclusive=(False, True)), VISITED_AT_ONCE))
        self._cursor = visited[-1] if len(visited) == VISITED_AT_ONCE else ""
        return visited

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

    @property
    def cursor(self) -> str:
        """The last id visited."""
        return self._cursor

    @cursor.setter
    def cursor(self, value: str) -> None:
        self._cursor = value
