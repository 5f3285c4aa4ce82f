"""Mini-batches: where each ends, and the order inside it. Pure: rows in, mini-batches out, the clock is given.

A mini-batch's content is the slice of every partition between two boundaries (`next_offsets`). Its order is the canonical one: the k-way
merge by head of these slices, a function of the slices alone. So whoever knows the boundaries gets the same mini-batch, however the
clock and the network played when it was first made (docs/architecture.md, invariant 4).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.columns import NO_EVENT, RECORD, Block, MiniBatch, Place, Released, Unusable, concat
from autoemb_pipeline.deliveries import PartitionDeliveries
from autoemb_pipeline.errors import ConfigurationError, OffsetError
from autoemb_pipeline.ordering import canonical, late
from autoemb_pipeline.recent import RecentEvents, first_of_each
from autoemb_pipeline.records import OfflineStage, RunPosition

Boundaries = Mapping[int, Mapping[int, int]]  # step -> partition -> next offset

# A mini-batch ends early at so many dead letters outside its records, and records of events in it: neither may fill the memory.
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

    def add_partitions(self) -> Mapping[int, int]:
        """Takes up partitions added since; returns the offsets of their first records, from now on among what it hands out."""
        ...

    def replay_to(self, recorded: Boundaries) -> None:
        """Announces the boundaries that will be given as ceilings."""
        ...

    def poll_many(self, limit: int, timeout: float, ceilings: Mapping[int, int] | None = None) -> Released:
        """Up to `limit` rows in merged order, none of them beyond the ceilings."""
        ...


class Waiting(NamedTuple):
    """What was read and belongs to no mini-batch closed yet.

    Attributes:
        records: all of them, re-deliveries included: what lag counts.
        interactions, dead_letters: those to be trained, and those to be sent to the dead-letter topic.
        closes_in: seconds until the clock closes the mini-batch; None where nothing waits, or the clock closes none.
    """

    records: int
    interactions: int
    dead_letters: int
    closes_in: float | None


class Batcher:
    """Cuts merged rows into mini-batches and keeps the run's position at the last boundary.

    Args:
        batch_size: interactions of a mini-batch, exactly, but for those that the clock or the end closes.
        position: where the run stands.
        step: last step done.
        recorded: boundaries of steps after `step`, from the metrics topic. While there is one for the next step it alone decides where
            that mini-batch ends; size and clock are not asked.
        batch_timeout: seconds after a mini-batch's first row that close it as it is; None never does.
        offline: the first stage of the stream; its end also ends a mini-batch, so that none belongs to both stages.
        examples: interactions in the steps done.
        pauses: whether to stop where the offline stage ends, so that it can be read again (`autoemb_pipeline.epochs`), until `go_on`.
        paused_at: the step before the pause, where recorded steps lie behind it: they alone decide then.
        events_kept: so many events' ids are remembered, to recognise re-deliveries.
        clock: seconds, monotonic.
    """

    grows = True  # whether partitions may join

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
        events_kept: int = 0,
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
        self._held = Released()
        self._clock = clock
        self._step = step
        self._offsets = dict(position.next_offsets)
        self._deliveries = {partition: PartitionDeliveries(known) for partition, known in position.deliveries.items()}
        self._refused = {partition: set(offsets) for partition, offsets in position.refused.items()}
        self._joining: dict[int, int] = {}
        self._position = position
        self._blocks: list[Block] = []
        self._beside: dict[Place, Unusable] = {}
        self._count = 0
        self._first_time = 0
        self._loose = 0
        self._recent = RecentEvents(position.events, limit=events_kept)
        self._known = 0  # re-deliveries among what is being filled
        self._filling: set[int] = set()  # its events
        self._opened: float | None = None

    @property
    def step(self) -> int:
        """The last step closed."""
        return self._step

    @property
    def is_full(self) -> bool:
        """Whether nothing may be added before `close` was asked."""
        return self.ceilings is None and self._count >= self._batch_size

    @property
    def room(self) -> int:
        """How many rows may be added before `close` must be asked."""
        room = self._batch_size - self._count
        if self._offline is not None and self._offline.count is not None:
            seen = self._examples + self._count
            if seen < self._offline.count:
                room = min(room, self._offline.count - seen)
        return max(1, room)

    @property
    def ceilings(self) -> Mapping[int, int] | None:
        """The recorded boundary of the mini-batch being filled; None when it is yet to be decided."""
        return self.recorded.get(self._step + 1)

    @property
    def waiting(self) -> Waiting:
        """What the mini-batch being filled holds, and what a pause holds back."""
        interactions = self._count + _count_records(self._held.block)
        unusable = [*self._beside.values(), *self._held.beside.values()]
        letters = sum(len(piece.dead_letters) for piece in unusable)
        closes_in = None
        if self._opened is not None and self._batch_timeout is not None and self.ceilings is None:
            closes_in = max(0.0, self._opened + self._batch_timeout - self._clock())
        repeats = sum(map(len, self._blocks)) - self._count
        passed = self._known + repeats + sum(piece.duplicates + piece.skipped for piece in unusable)
        return Waiting(interactions + letters + passed, interactions, letters, closes_in)

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
        return self.ceilings is None and len(self._held.block) > 0

    def go_on(self, step: int) -> None:
        """Begins the online stage after a pause, in which the steps up to `step` were done."""
        self._step, self._pauses, self._offline = step, False, None
        self._add_held()

    def position(self) -> RunPosition:
        """Where the run stands after the last mini-batch closed; what is being filled does not count."""
        return replace(
            self._position,
            deliveries={partition: known.snapshot() for partition, known in self._deliveries.items()},
            refused={partition: frozenset(offsets) for partition, offsets in self._refused.items()},
            events=self._recent.snapshot(),
        )

    def start_from(self, offsets: Mapping[int, int]) -> None:
        """Takes up partitions that the position does not know yet, at these offsets. To be called, if with none, before items are added.

        While recorded steps are made again a partition joins in the step whose boundary names it first, as it did then.
        """
        ceilings, position = self.ceilings, self._position
        self._joining |= {partition: offset for partition, offset in offsets.items() if partition not in position.next_offsets}
        if not self._joining or (self.finished and position.next_offsets):
            return  # what would join when the offline stage is finished is none of what is about to be read again
        new = {partition: offset for partition, offset in self._joining.items() if ceilings is None or partition in ceilings}
        self._joining = {partition: offset for partition, offset in self._joining.items() if partition not in new}
        self._offsets = new | self._offsets
        self._position = replace(position, next_offsets={**position.next_offsets, **new}, first_offsets={**position.first_offsets, **new})

    def add(self, released: Released) -> None:
        """Takes the next rows, at most `room` of them. Those behind the offline stage's end wait for the next mini-batch."""
        if self._offline is not None and self.ceilings is None:
            released = self._before_stages_part(released, self._offline)
        block, beside = released
        if len(block) == 0:
            return
        self._offsets.update(_next_offsets(block))
        records = self._new_records(block)
        if self._count == 0 and records.any():
            self._first_time = int(block.time[np.argmax(records)])
        if not records.all():
            places = zip(block.partition[~records].tolist(), block.offset[~records].tolist(), strict=True)
            self._loose += sum(len(beside[place].dead_letters) for place in places if place in beside)
            block = block.only(records)
        repeats = self._repeats(block)
        self._loose += repeats
        self._blocks.append(block)
        self._beside.update(beside)
        self._count += len(block) - repeats
        if self._opened is None:
            self._opened = self._clock()

    def _new_records(self, block: Block) -> NDArray[np.bool_]:
        """[n] which rows are records, and of no event of an earlier mini-batch."""
        records: NDArray[np.bool_] = block.kind == RECORD
        if block.event is None:
            return records
        known = self._recent.known(block.event)
        self._known += int(np.count_nonzero(known))
        return records & ~known

    def _repeats(self, block: Block) -> int:
        """How many rows are of an event that the mini-batch being filled holds already.

        Which of them stays is decided by the canonical order when it is closed: the order in which they come here may be up to the clock.
        """
        if block.event is None:
            return 0
        named = block.event[block.event != NO_EVENT].tolist()
        before = len(self._filling)
        self._filling.update(named)
        return before + len(named) - len(self._filling)

    def _add_held(self) -> None:
        held, self._held = self._held, Released()
        self.add(held)

    def close(self, *, exhausted: bool = False) -> MiniBatch | None:
        """The mini-batch that is complete now; None when more must be added first.

        Args:
            exhausted: nothing more will come, so what there is makes the last one.

        Raises:
            OffsetError: the stream ended before a recorded boundary.
        """
        if not self._is_due(exhausted=exhausted):
            return None
        block, repeats = first_of_each(canonical(concat(self._blocks)))
        count_late, frontier = late(block, self._position.frontier)
        letters = [letter for unusable in self._beside.values() for letter in unusable.dead_letters]
        letters.sort(key=lambda letter: (letter.partition, letter.offset))  # whichever row carried them was up to the clock
        batch = MiniBatch(
            step=self._step + 1,
            block=block,
            next_offsets=dict(self._offsets),
            late=count_late,
            duplicates=repeats + self._known + sum(unusable.duplicates for unusable in self._beside.values()),
            dead_letters=tuple(letters),
            skipped=sum(unusable.skipped for unusable in self._beside.values()),
        )
        self._step += 1
        self._position = replace(self._position, next_offsets=batch.next_offsets, frontier=frontier)
        self._remember(batch)
        self._examples += len(batch)
        self._blocks, self._beside, self._count, self._loose, self._opened = [], {}, 0, 0, None
        self._known, self._filling = 0, set()
        self._add_held()
        return batch

    def _remember(self, batch: MiniBatch) -> None:
        """What must be known of a mini-batch's records when they come again: of re-deliveries, and of those that another pass reads."""
        partition_of = batch.block.partition
        for partition in np.unique(partition_of).tolist():
            self._deliveries.setdefault(partition, PartitionDeliveries()).admit_rows(batch.block.only(partition_of == partition))
        if batch.block.event is not None:
            self._recent.add(batch.block.event)
        if self._pauses:
            for partition, offsets in batch.refused.items():
                self._refused.setdefault(partition, set()).update(offsets)

    def _before_stages_part(self, released: Released, offline: OfflineStage) -> Released:
        """The rows that may join this mini-batch; the rest is held back."""
        places = np.flatnonzero(released.block.kind == RECORD)
        if len(places) == 0:
            return released
        past = np.ones(len(places), np.bool_)  # `OfflineStage.is_over`, of each record
        if offline.count is not None:
            past &= self._examples + self._count + np.arange(len(places)) >= offline.count
        if offline.until_ms is not None:
            past &= released.block.time[places] >= offline.until_ms
        begun_over = bool(past[0]) if self._count == 0 else offline.is_over(self._examples, self._first_time)
        if (begun_over and not self._pauses) or not past.any():
            return released
        released, self._held = _divided(released, int(places[np.argmax(past)]))
        return released

    def _is_due(self, *, exhausted: bool) -> bool:
        ceilings = self.ceilings
        if ceilings is not None:
            return self._at_recorded_boundary(ceilings, exhausted=exhausted)
        if self._opened is None:
            return False
        if len(self._held.block) or self._count >= self._batch_size or self._ends_offline_stage or self._loose >= MAX_LOOSE_LETTERS:
            return True
        return exhausted or (self._batch_timeout is not None and self._clock() - self._opened >= self._batch_timeout)

    @property
    def _ends_offline_stage(self) -> bool:
        """Whether the records fill the offline stage's number exactly."""
        seen, offline = self._examples + self._count, self._offline
        return self._count > 0 and offline is not None and offline.count == seen

    def _at_recorded_boundary(self, ceilings: Mapping[int, int], *, exhausted: bool) -> bool:
        short = {p: self._offsets.get(p, 0) for p, offset in ceilings.items() if self._offsets.get(p, 0) < offset}
        if short and exhausted:
            raise OffsetError(
                f"The stream ended before the recorded end of step {self._step + 1}: partition -> offset {short}, not {dict(ceilings)}",
                why="this run has trained on records that the topic no longer holds",
                remedy="start a new run: autoemb-pipeline train --new-run",
            )
        return not short


def read(source: Source, batcher: Batcher, *, patience: float = 0.1) -> Iterator[MiniBatch | None]:
    """Each mini-batch as it is closed, and None after each wait without one; ends with the reading, or where the source is exhausted.

    Args:
        source: hands out rows in merged order; must stand where `batcher` does.
        batcher: cuts them.
        patience: seconds of the longest wait.
    """
    batcher.start_from(source.start_offsets)
    if batcher.recorded:
        source.replay_to(batcher.recorded)
    while not batcher.finished:
        if batcher.grows:
            batcher.start_from(source.add_partitions())
        if not batcher.is_full:  # what a pause held back can be a whole mini-batch
            batcher.add(source.poll_many(batcher.room, patience, batcher.ceilings))
        batch = batcher.close(exhausted=source.exhausted)
        if batch is None and source.exhausted:
            return
        yield batch


def batches(source: Source, batcher: Batcher, *, patience: float = 0.1) -> Iterator[MiniBatch]:
    """As `read`, without what tells of waiting: for a source that comes to an end."""
    return (batch for batch in read(source, batcher, patience=patience) if batch is not None)


def _count_records(block: Block) -> int:
    return int(np.count_nonzero(block.kind == RECORD))


def _next_offsets(block: Block) -> Mapping[int, int]:
    """Partition -> offset after its last row; the offsets of a partition ascend."""
    if len(block) and (block.partition == block.partition[0]).all():
        return {int(block.partition[0]): int(block.offset[-1]) + 1}
    partitions, from_behind = np.unique(block.partition[::-1], return_index=True)
    return dict(zip(partitions.tolist(), (block.offset[::-1][from_behind] + 1).tolist(), strict=True))


def _divided(released: Released, row: int) -> tuple[Released, Released]:
    """The rows before this one, and from it on, each with what lies beside it."""
    before, remaining = released.block[:row], released.block[row:]
    ends = _next_offsets(before)
    first: dict[Place, Unusable] = {}
    rest: dict[Place, Unusable] = {}
    for place, unusable in released.beside.items():
        (first if place[1] < ends.get(place[0], 0) else rest)[place] = unusable
    return Released(before, first), Released(remaining, rest)
