"""Which events were trained lately, by their own ids: what recognises re-deliveries in a stream whose events carry one. Pure.

An event is known by a number of 64 bits made of its id, so that a long id costs no more than a short one; of a million remembered events
a new one passes for one of them with a probability of 5e-14. The window holds the events trained last, in the order of training, so it is
the same however the records lie on partitions, and a resumed run that is given it decides the same.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.columns import NO_EVENT, Block

Integers = NDArray[np.int64]


class RecentEvents:
    """The newest events, at most so many: some 100 bytes each.

    Args:
        remembered: what `snapshot` gave: it goes on as if it had never stopped.
        limit: how many are remembered.
    """

    def __init__(self, remembered: bytes = b"", *, limit: int) -> None:
        self._limit = limit
        self._ring = np.zeros(limit, np.int64)
        self._size = self._next = 0
        self._known: set[int] = set()
        self.add(np.frombuffer(remembered, "<i8"))

    def known(self, events: Integers) -> NDArray[np.bool_]:
        """[n] which of these are in the window; `NO_EVENT` never is."""
        numbers = events.tolist()
        if self._known.isdisjoint(numbers):
            return np.zeros(len(numbers), np.bool_)
        return np.fromiter(map(self._known.__contains__, numbers), np.bool_, len(numbers))

    def add(self, events: Iterable[int] | Integers) -> None:
        """Events trained, in order; none of them in the window, none twice. The oldest go where there are too many."""
        new = np.asarray(events, np.int64)
        new = new[new != NO_EVENT][-self._limit :] if self._limit else new[:0]
        if len(new) == 0:
            return
        places = (self._next + np.arange(len(new))) % self._limit
        if self._size + len(new) > self._limit:
            # Places that the ring has filled once hold the oldest, in the very order in which they are overwritten.
            filled = places if self._size == self._limit else places[self._limit - self._size :]
            self._known.difference_update(self._ring[filled].tolist())
        self._ring[places] = new
        self._known.update(new.tolist())
        self._next = int(places[-1] + 1) % self._limit
        self._size = min(self._limit, self._size + len(new))

    def snapshot(self) -> bytes:
        """All that it knows, as a value: 8 bytes an event, oldest first."""
        if self._size < self._limit:
            return self._ring[: self._size].astype("<i8").tobytes()
        return np.roll(self._ring, -self._next).astype("<i8").tobytes()


def first_of_each(block: Block) -> tuple[Block, int]:
    """The rows without those of an event that an earlier row has, and how many these were."""
    if block.event is None:
        return block, 0
    _, firsts = np.unique(block.event, return_index=True)
    kept = block.event == NO_EVENT
    kept[firsts] = True
    return block.only(kept), len(block) - int(np.count_nonzero(kept))
