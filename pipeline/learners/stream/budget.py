"""A bound on the bytes of the stream learner's rows: who may hold which block, who must give one up.

Admission: an id gets its next block when what it is worth, count · A_j · (largest block / block j)^(4/3), reaches a threshold that rises
with the pressure, τ0 / (1 - fill); so space is rationed before it is spent, because giving a block up forgets what it has learnt. Block 1
is given to everyone while there is room, from a tenth that the others may not touch. The fill is that before the mini-batch, and room is
given in the order of the interactions, so that no prediction depends on later ids. Shrinking and eviction: between mini-batches, while
the budget is nearly full, a clock hand goes through each side's blocks in the order of the ids and takes the last block of ids whose worth,
halved every `half_life` mini-batches since they were last seen, is far below the threshold. The bound is strict: without room nothing
is admitted.

Bytes are those of rows (means, variances, bookkeeping) and of the index, an entry of 16 bytes and the id's UTF-8 bytes per row.
Caches and the process around them have their own bound (`--cache-mb`).

Shape legend: n distinct ids of a mini-batch, N blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sortedcontainers import SortedList

from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.packing import pack_strings, unpack_strings
from autoemb_pipeline.learners.stream.rows import HOLDS, WORTH, SidePlan, take
from autoemb_pipeline.records import FloatArray
from autoemb_pipeline.rows import RowStore

INDEX_ENTRY_BYTES = 16
RESERVED = 0.1  # of the budget, for first blocks
SWEPT_ABOVE = 0.95  # of what is not reserved
SWEPT_AT_ONCE = 64  # ids per side, block and mini-batch
FAR_BELOW = 16.0  # times the threshold: below it a block is taken
SMALLEST_FREE = 0.02  # bounds that threshold, so that what is worth keeping is kept even when the budget is full
Held = NDArray[np.bool_]
Key = tuple[str, int]
"""Side and block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SideDemand:
    """What one side's ids of a mini-batch ask for.

    Attributes:
        ids: n distinct ids.
        first: [n] the interaction in which each occurs first.
        held: [n, N] what they hold.
        worth: [n, N] what each block is worth, as known at that interaction.
        asks: [n] False for ids some of whose labels wait from earlier mini-batches: what such an id was given at its next interaction, the
            labels before it would learn into.
    """

    ids: Sequence[str]
    first: NDArray[np.int64]
    held: Held
    worth: FloatArray
    asks: Held


class MemoryBudget:
    """Who holds what, and what it costs.

    Args:
        limit: bytes.
        threshold: τ0.
        half_life: mini-batches.
        plans: users' and items' rows; they keep bookkeeping columns.
        store: holds them; read once, to learn what a restored run holds.
    """

    def __init__(self, limit: int, threshold: float, half_life: float, plans: tuple[SidePlan, SidePlan], store: RowStore) -> None:
        self._limit, self._threshold, self._half_life = limit, threshold, half_life
        self._plans, self._store = plans, store
        self._index = self._held()
        self._cursor = dict.fromkeys(self._index, "")
        self._admitted: list[tuple[Key, str, int]] = []
        self.bytes = sum(
            self._cost(plan, block, i) for plan in plans for block in range(plan.spaces) for i in self._index[plan.name, block]
        )
        self.evicted = 0
        self.step = 1

    def _held(self) -> dict[Key, SortedList[str]]:
        """Per side and block the ids that hold it, by one pass over the records."""
        present: dict[Key, list[str]] = {(plan.name, block): [] for plan in self._plans for block in range(plan.spaces)}
        for plan in self._plans:
            for identifier, record in self._store.records(plan.name):
                for block in np.flatnonzero(record[HOLDS]).tolist():
                    present[plan.name, block].append(identifier)
        return {key: SortedList(ids) for key, ids in present.items()}

    @staticmethod
    def _cost(plan: SidePlan, block: int, identifier: str) -> int:
        return plan.row_bytes(block) + INDEX_ENTRY_BYTES + len(identifier.encode())

    def _pressure(self, used: int) -> float:
        """The threshold at this use of the budget; infinite when what is not reserved is full."""
        free = 1.0 - used / (self._limit * (1.0 - RESERVED))
        return self._threshold / free if free > 0 else float("inf")

    def worth(self, plan: SidePlan, counts: FloatArray, uses: FloatArray) -> FloatArray:
        """[n, N] what each block is worth to its id. counts: [n]; uses: [n, N] A."""
        sizes = plan.blocks.sizes
        worth: FloatArray = counts[:, None] * uses * (sizes.max() / sizes) ** (4.0 / 3.0)
        return worth

    def admit(self, sides: tuple[SideDemand, SideDemand]) -> list[Held]:
        """Decides which blocks the ids of a mini-batch hold. Changes nothing until `commit`.

        Ids come in the order of the interactions, a user before the item of the same one. The threshold is that before the mini-batch.
        So what an id gets depends on ids of interactions that are not later, and on nothing else of the mini-batch.

        Args:
            sides: users and items.

        Returns:
            For each side [n, N].
        """
        used, self._admitted = self.bytes, []
        pressure, unreserved = self._pressure(used), self._limit * (1.0 - RESERVED)
        result = [side.held.copy() for side in sides]
        asking = [side.worth >= pressure for side in sides]
        for k, row in _in_order(sides):
            plan, identifier = self._plans[k], sides[k].ids[row]
            for block in np.flatnonzero(~sides[k].held[row]).tolist():
                cost = self._cost(plan, block, identifier)
                enough = asking[k][row, block] and result[k][row, block - 1] if block else True
                if enough and used + cost <= (unreserved if block else self._limit):
                    result[k][row, block] = True
                    used += cost
                    self._admitted.append(((plan.name, block), identifier, cost))
        return result

    def commit(self) -> None:
        """Enters what the last `admit` decided, its records having been kept, and ends the mini-batch."""
        self.step += 1
        for key, identifier, cost in self._admitted:
            self._index[key].add(identifier)
            self.bytes += cost
        self._admitted = []

    def sweep(self) -> None:
        """Takes blocks from ids that are worth too little, a bounded number per mini-batch, while the budget is nearly full."""
        for plan in self._plans:
            for block in reversed(range(plan.spaces)):
                if self.bytes < SWEPT_ABOVE * (1.0 - RESERVED) * self._limit:
                    return
                self._sweep(plan, block)

    def _sweep(self, plan: SidePlan, block: int) -> None:
        key = (plan.name, block)
        index = self._index[key]
        visited = list(islice(index.irange(self._cursor[key], inclusive=(False, True)), SWEPT_AT_ONCE))
        self._cursor[key] = visited[-1] if len(visited) == SWEPT_AT_ONCE else ""
        if block + 1 < plan.spaces:
            visited = [i for i in visited if i not in self._index[plan.name, block + 1]]
        if not visited:
            return
        lent = self._store.lend(plan.name, visited)
        known = lent.slabs[WORTH][lent.slots].astype(np.float64)
        worth = known[:, block] * 0.5 ** ((self.step - known[:, -1]) / self._half_life)
        least = min(self._pressure(self.bytes), self._threshold / SMALLEST_FREE) / FAR_BELOW
        poor = [i for i, w in zip(visited, worth, strict=True) if w < least]
        if not poor:
            return
        lent = self._store.lend(plan.name, poor)
        take(plan, lent, block)
        self._store.keep(plan.name, lent)
        for identifier in poor:
            index.remove(identifier)
            self.bytes -= self._cost(plan, block, identifier)
        self.evicted += len(poor)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The clock hands and counters; what is held is in the store."""
        return {
            **pack_strings("budget/cursors", list(self._cursor.values())),
            "budget/counters": np.array([self.bytes, self.evicted, self.step], dtype=np.int64),
        }

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave; the store was read already."""
        self._index = self._held()
        self._cursor = dict(zip(self._index, unpack_strings("budget/cursors", state), strict=True))
        self.bytes, self.evicted, self.step = (int(n) for n in state["budget/counters"].tolist())
        self._admitted = []


def _in_order(sides: tuple[SideDemand, SideDemand]) -> list[tuple[int, int]]:
    """(side, row) of the ids that lack a block, by first interaction, users first."""
    lacking = [np.flatnonzero(side.asks & ~side.held.all(axis=1)) for side in sides]
    order = [(int(side.first[row]), k, int(row)) for k, side in enumerate(sides) for row in lacking[k]]
    return [(k, row) for _, k, row in sorted(order)]
