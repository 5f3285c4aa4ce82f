"""Mini-batches: where each ends, and the order inside it. Pure: items in, mini-batches out, the clock is given.

A mini-batch's content is the slice of every partition between two boundaries (`next_offsets`). Its order is the canonical one: the k-way
merge by head of these slices, a function of the slices alone. So whoever knows the boundaries gets the same mini-batch, however the
clock and the network played when it was first made (design, invariant 4).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import merge as heap_merge
from itertools import groupby, pairwise
from typing import Protocol

from pipeline.deliveries import PartitionDeliveries
from pipeline.errors import ConfigurationError, OffsetError
from pipeline.records import ConsumedRecord, DeadLetter, MiniBatch, OfflineStage, Remainder, RunPosition

Item = ConsumedRecord | Remainder
Boundaries = Mapping[int, Mapping[int, int]]  # step -> partition -> next offset
Triple = tuple[int, str, int]  # (timestamp, dataset, sequence)

# A mini-batch ends early at so many dead letters outside its records: a topic full of rubbish must not fill the memory.
MAX_LOOSE_LETTERS = 10_000


class Source(Protocol):
    """What mini-batches are made from."""

    @property
    def start_offsets(self) -> Mapping[int, int]:
        """Partition -> offset of the first record it will hand out."""
        ...

    @property
    def exhausted(self) -> bool:
        """Nothing will come any more."""
        ...

    def replay_to(self, recorded: Boundaries) -> None:
        """Announces the boundaries that will be given as ceilings."""
        ...

    def poll_many(self, limit: int, timeout: float, ceilings: Mapping[int, int] | None = None) -> Sequence[Item]:
        """Up to `limit` items in merged order, none of them beyond the ceilings."""
        ...


class Batcher:
    """Cuts merged items into mini-batches and keeps the run's position at the last boundary.

    Args:
        batch_size: interactions of a mini-batch, exactly, but for those that the clock or the end closes.
        position: where the run stands.
        step: last step done.
        recorded: boundaries of steps after `step`, from the metrics topic. While there is one for the next step it alone decides where
            that mini-batch ends; size and clock are not asked.
        batch_timeout: seconds after a mini-batch's first item that close it as it is; None never does.
        offline: the first stage of the stream; its end also ends a mini-batch, so that none belongs to both stages.
        examples: interactions in the steps done.
        pauses: whether to stop where the offline stage ends, so that it can be read again (`pipeline.epochs`), until `go_on`.
        paused_at: the step before the pause, where recorded steps lie behind it: they alone decide then.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        position: RunPosition,
        step: int = 0,
        recorded: Boundaries | None = None,
        batch_timeout: float | None = None,
        offline: OfflineStage | None = None,
        examples: int = 0,
        pauses: bool = False,
        paused_at: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"The batch size is {batch_size}", why="a mini-batch holds at least one", remedy="--batch-size 500")
        if batch_timeout is not None and batch_timeout <= 0:
            raise ConfigurationError(f"The batch timeout is {batch_timeout} s", why="it must be above 0", remedy="--batch-timeout 10")
        self.recorded: Boundaries = recorded or {}
        self._batch_size = batch_size
        self._batch_timeout = batch_timeout
        self._offline = offline
        self._examples = examples
        self._pauses = pauses
        self._paused_at = paused_at
        self._held: Sequence[Item] = ()
        self._clock = clock
        self._step = step
        self._offsets = dict(position.next_offsets)
        self._deliveries = {partition: PartitionDeliveries(known) for partition, known in position.deliveries.items()}
        self._refused = {partition: set(offsets) for partition, offsets in position.refused.items()}
        self._position = position
        self._records: list[ConsumedRecord] = []
        self._remainders: list[Remainder] = []
        self._loose_letters = 0
        self._opened: float | None = None

    @property
    def step(self) -> int:
        """The last step closed."""
        return self._step

    @property
    def is_full(self) -> bool:
        """Whether nothing may be added before `close` was asked."""
        return self.ceilings is None and len(self._records) >= self._batch_size

    @property
    def room(self) -> int:
        """How many items may be added before `close` must be asked."""
        room = self._batch_size - len(self._records)
        if self._offline is not None and self._offline.count is not None:
            seen = self._examples + len(self._records)
            if seen < self._offline.count:
                room = min(room, self._offline.count - seen)
        return max(1, room)

    @property
    def ceilings(self) -> Mapping[int, int] | None:
        """The recorded boundary of the mini-batch being filled; None when it is yet to be decided."""
        return self.recorded.get(self._step + 1)

    @property
    def finished(self) -> bool:
        """With `pauses`: nothing more belongs to the offline stage, and all of it was handed out."""
        offline = self._offline
        if not self._pauses or offline is None or self._opened is not None:
            return False
        if offline.until_ms is None and offline.count is not None and self._examples >= offline.count:
            return True
        if self._paused_at is not None:
            return self._step >= self._paused_at
        return self.ceilings is None and bool(self._held)

    def go_on(self, step: int) -> None:
        """Begins the online stage after a pause, in which the steps up to `step` were done."""
        self._step, self._pauses, self._offline = step, False, None
        held, self._held = self._held, ()
        self.add(held)

    def position(self) -> RunPosition:
        """Where the run stands after the last mini-batch closed; what is being filled does not count."""
        return replace(
            self._position,
            deliveries={partition: known.snapshot() for partition, known in self._deliveries.items()},
            refused={partition: frozenset(offsets) for partition, offsets in self._refused.items()},
        )

    def start_from(self, offsets: Mapping[int, int]) -> None:
        """Takes up partitions that the position does not know yet, at these offsets."""
        for partition, offset in offsets.items():
            self._offsets.setdefault(partition, offset)
        position = self._position
        new = {partition: offset for partition, offset in offsets.items() if partition not in position.next_offsets}
        self._position = replace(position, next_offsets={**position.next_offsets, **new}, first_offsets={**position.first_offsets, **new})

    def add(self, items: Iterable[Item]) -> None:
        """Takes the next items, at most `room` of them. Those behind the offline stage's end wait for the next mini-batch."""
        if self._offline is not None and self.ceilings is None:
            items = self._before_stages_part(list(items), self._offline)
        offsets, records = self._offsets, self._records
        for item in items:
            if isinstance(item, Remainder):
                offsets[item.partition] = item.next_offset
                self._remainders.append(item)
                self._loose_letters += len(item.dead_letters)
                continue
            offsets[item.partition] = item.offset + 1
            records.append(item)
        if self._opened is None and (self._records or self._remainders):
            self._opened = self._clock()

    def close(self, *, exhausted: bool = False) -> MiniBatch | None:
        """The mini-batch that is complete now; None when more must be added first.

        Args:
            exhausted: nothing more will come, so what there is makes the last one.

        Raises:
            OffsetError: the stream ended before a recorded boundary.
        """
        if not self._is_due(exhausted=exhausted):
            return None
        ordered, keys = _canonical(self._records)
        late, frontier = _late(keys, self._position.frontier)
        items: list[Item] = [*self._records, *self._remainders]
        letters = [letter for item in items if item.dead_letters for letter in item.dead_letters]
        letters.sort(key=lambda letter: (letter.partition, letter.offset))  # whichever item carried them was up to the clock
        batch = MiniBatch(
            step=self._step + 1,
            records=[record.interaction for record in ordered],
            next_offsets=dict(self._offsets),
            late=late,
            duplicates=sum(item.duplicates for item in items),
            dead_letters=tuple(letters),
        )
        self._step += 1
        self._position = replace(self._position, next_offsets=batch.next_offsets, frontier=frontier)
        self._remember(self._records, batch)
        self._examples += len(batch.records)
        self._records, self._remainders, self._loose_letters, self._opened = [], [], 0, None
        held, self._held = self._held, ()
        if held:
            self.add(held)
        return batch

    def _remember(self, records: Sequence[ConsumedRecord], batch: MiniBatch) -> None:
        """What must be known of a mini-batch's records when they come again: of re-deliveries, and of those that another pass reads."""
        for partition, slice_ in _slices(records).items():
            known = self._deliveries.setdefault(partition, PartitionDeliveries())
            for dataset, run in groupby((r.interaction for r in slice_ if r.interaction.sequence is not None), lambda i: i.dataset):
                if dataset is not None:
                    interactions = list(run)
                    known.admit_all(dataset, [i.sequence or 0 for i in interactions], [i.timestamp for i in interactions])
        if self._pauses:
            for partition, offsets in batch.refused.items():
                self._refused.setdefault(partition, set()).update(offsets)

    def _before_stages_part(self, items: list[Item], offline: OfflineStage) -> list[Item]:
        """The items that may join this mini-batch; the rest is held back."""
        count = len(self._records)
        is_over: bool | None = None if count == 0 else offline.is_over(self._examples, self._records[0].interaction.timestamp)
        if self._pauses:
            is_over = False
        for place, item in enumerate(items):
            if isinstance(item, Remainder):
                continue
            over = offline.is_over(self._examples + count, item.interaction.timestamp)
            if is_over is False and over:
                self._held = items[place:]
                return items[:place]
            is_over = over if is_over is None else is_over
            count += 1
        return items

    def _is_due(self, *, exhausted: bool) -> bool:
        ceilings = self.ceilings
        if ceilings is not None:
            return self._at_recorded_boundary(ceilings, exhausted=exhausted)
        if self._opened is None:
            return False
        if self._held or len(self._records) >= self._batch_size or self._ends_offline_stage or self._loose_letters >= MAX_LOOSE_LETTERS:
            return True
        return exhausted or (self._batch_timeout is not None and self._clock() - self._opened >= self._batch_timeout)

    @property
    def _ends_offline_stage(self) -> bool:
        """Whether the records fill the offline stage's number exactly."""
        seen, offline = self._examples + len(self._records), self._offline
        return bool(self._records) and offline is not None and offline.count == seen

    def _at_recorded_boundary(self, ceilings: Mapping[int, int], *, exhausted: bool) -> bool:
        short = {p: self._offsets.get(p, 0) for p, offset in ceilings.items() if self._offsets.get(p, 0) < offset}
        if short and exhausted:
            raise OffsetError(
                f"The stream ended before the recorded end of step {self._step + 1}: partition -> offset {short}, not {dict(ceilings)}",
                why="this run has trained on records that the topic no longer holds",
                remedy="start a new run: autoemb-pipeline train --new-run",
            )
        return not short


def batches(source: Source, batcher: Batcher, *, stop: Callable[[], bool] = lambda: False, patience: float = 0.1) -> Iterator[MiniBatch]:
    """Mini-batches until the pass is finished, the source exhausted, or `stop` says so; then what is not a whole one yet is left unread.

    Args:
        source: hands out items in merged order; must stand where `batcher` does.
        batcher: cuts them.
        stop: asked before each wait.
        patience: seconds of the longest wait.
    """
    batcher.start_from(source.start_offsets)
    if batcher.recorded:
        source.replay_to(batcher.recorded)
    while not batcher.finished and not stop():
        if not batcher.is_full:  # what a pause held back can be a whole mini-batch
            batcher.add(source.poll_many(batcher.room, patience, batcher.ceilings))
        batch = batcher.close(exhausted=source.exhausted)
        if batch is not None:
            yield batch
        elif source.exhausted:
            return


def _canonical(records: Sequence[ConsumedRecord]) -> tuple[Sequence[ConsumedRecord], Sequence[Triple]]:
    """The records in the k-way merge by head of their partitions' slices, and each one's (timestamp, dataset, sequence)."""
    keys = [record.merge_key for record in records]
    if all(a < b for a, b in pairwise(keys)):
        return records, [key[:3] for key in keys]
    ordered = list(heap_merge(*_slices(records).values(), key=lambda record: record.merge_key))
    return ordered, [record.merge_key[:3] for record in ordered]


def _slices(records: Sequence[ConsumedRecord]) -> Mapping[int, Sequence[ConsumedRecord]]:
    """Partition -> its records, in offset order."""
    slices: dict[int, list[ConsumedRecord]] = {}
    for record in records:
        slices.setdefault(record.partition, []).append(record)
    return slices


def _late(triples: Sequence[Triple], frontier: Triple | None) -> tuple[int, Triple | None]:
    """How many lie below the greatest one before them, and the greatest of all."""
    late = 0
    for triple in triples:
        if frontier is None or triple >= frontier:
            frontier = triple
        else:
            late += 1
    return late, frontier


__all__ = ["Batcher", "Boundaries", "DeadLetter", "Item", "Source", "batches"]
