"""The epochs of a run: its first reading up to the offline stage's end, that stage again, then the online stage. Pure, as `batching`.

An epoch that reads again ends where the offline stage ended, at offsets known by then, and nothing in it is up to the clock: its
mini-batches are a function of the stage's first and last offsets and of the batch size. So, unlike those of a first reading, their
boundaries need not be read back after a crash.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TypeVar

from autoemb_pipeline.batching import MAX_LOOSE_LETTERS, Batcher, Source, Waiting, read
from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.records import RereadPosition, RunPosition

S = TypeVar("S", bound=Source)


class RereadBatcher(Batcher):
    """Cuts the offline stage into mini-batches once more; the last one ends with it.

    What is not to be trained on is passed over and not told again: late, duplicates and dead letters were told in the first epoch.

    Args:
        batch_size: interactions of a mini-batch.
        position: where the epoch stands.
        step: last step done.
        end: partition -> offset where the offline stage ended.
        refused: as `RunPosition`: what the first epoch refused by the clock, this one refuses too.
        events_kept: as `Batcher`.
    """

    grows = False

    def __init__(
        self,
        *,
        batch_size: int,
        position: RereadPosition,
        step: int,
        end: Mapping[int, int],
        refused: Mapping[int, frozenset[int]],
        events_kept: int = 0,
    ) -> None:
        start = RunPosition(next_offsets=position.next_offsets, deliveries=position.deliveries, refused=refused, events=position.events)
        super().__init__(batch_size=batch_size, position=start, step=step, events_kept=events_kept)
        self.epoch = position.epoch
        self._end = end

    @property
    def ceilings(self) -> Mapping[int, int]:
        """The offline stage's end."""
        return self._end

    @property
    def finished(self) -> bool:
        """All of the offline stage was handed out in mini-batches."""
        return self._opened is None and all(self._offsets.get(partition, 0) >= offset for partition, offset in self._end.items())

    def start_from(self, offsets: Mapping[int, int]) -> None:
        """Nothing: the stage's partitions are known, and others are none of its."""

    def close(self, *, exhausted: bool = False) -> MiniBatch | None:
        """As `Batcher.close`."""
        batch = super().close(exhausted=exhausted)
        return None if batch is None else replace(batch, epoch=self.epoch, late=0, duplicates=0, dead_letters=(), skipped=0)

    def reread_position(self) -> RereadPosition:
        """Where the epoch stands after the last mini-batch closed."""
        position = self.position()
        return RereadPosition(epoch=self.epoch, next_offsets=position.next_offsets, deliveries=position.deliveries, events=position.events)

    def _is_due(self, *, exhausted: bool) -> bool:
        at_end = self._at_recorded_boundary(self._end, exhausted=exhausted)
        if self._opened is None:
            return False
        return at_end or self._count >= self._batch_size or self._loose >= MAX_LOOSE_LETTERS


class Epochs:
    """The batchers of all epochs, and where the run stands among them.

    Args:
        first: of what is read for the first time, in both stages; it `pauses` where `epochs` is above 1 and `position` does not know
            the offline stage's end.
        position: where the run stands.
        epochs: how often the offline stage is read.
        batch_size: interactions of a mini-batch.
        events_kept: as `Batcher`.
    """

    def __init__(self, first: Batcher, position: RunPosition, *, epochs: int, batch_size: int, events_kept: int = 0) -> None:
        self._first = first
        self._events_kept = events_kept
        self._epochs = epochs
        self._batch_size = batch_size
        self._end = position.offline_end
        self._reread: RereadBatcher | None = None
        if position.reread is not None:
            self._reread = self._batcher(position.reread)

    @property
    def step(self) -> int:
        """The last step closed, in whichever epoch."""
        return self._first.step if self._reread is None else self._reread.step

    @property
    def waiting(self) -> Waiting:
        """What the first reading has read and not handed out in a mini-batch; an epoch that reads again waits for nothing."""
        return self._first.waiting

    def position(self) -> RunPosition:
        """Where the run stands after the last mini-batch closed. The end of the last epoch is the online stage's beginning."""
        reread = self._reread
        is_between = reread is not None and not (reread.finished and reread.epoch == self._epochs)
        return replace(
            self._first.position(),
            offline_end=self._end,
            reread=reread.reread_position() if reread is not None and is_between else None,
        )

    def start_from(self, offsets: Mapping[int, int]) -> None:
        """Where the first reading begins, before anything was read; see `Batcher.start_from`."""
        self._first.start_from(offsets)

    def read(
        self, source: S, read_again: Callable[[RunPosition], AbstractContextManager[S]], *, patience: float = 0.1
    ) -> Generator[MiniBatch | None, None, None]:
        """The mini-batches of all readings in turn, and None after each wait without one (`autoemb_pipeline.batching.read`).

        Args:
            source: of the first reading.
            read_again: opens a source that stands at a position and comes to an end.
            patience: seconds of the longest wait.
        """
        if self._reread is None:
            yield from read(source, self._first, patience=patience)
            if not self._first.finished:
                return
            self._begin(2)
        while self._reread is not None:
            reread = self._reread
            if not reread.finished:
                with read_again(reread.position()) as again:
                    again.replay_to({reread.step: reread.ceilings})
                    yield from read(again, reread, patience=patience)
            if not reread.finished:
                return
            self._begin(reread.epoch + 1)
        yield from read(source, self._first, patience=patience)

    def _begin(self, epoch: int) -> None:
        """The epoch of this number, or the online stage."""
        if epoch > self._epochs:
            self._first.go_on(self.step)
            self._reread = None
            return
        position = self._first.position()
        if self._end is None:
            self._end = position.next_offsets
        self._reread = self._batcher(RereadPosition(epoch=epoch, next_offsets=position.first_offsets))

    def _batcher(self, position: RereadPosition) -> RereadBatcher:
        end = {} if self._end is None else self._end
        refused = self._first.position().refused
        return RereadBatcher(
            batch_size=self._batch_size,
            position=position,
            step=self.step,
            end=end,
            refused=refused,
            events_kept=self._events_kept,
        )
