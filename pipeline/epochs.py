"""The passes of a run: its first reading up to the offline stage's end, that stage again, then the online stage. Pure, as `batching`.

A pass that reads again ends where the offline stage ended, at offsets known by then, and nothing in it is up to the clock: its mini-batches
are a function of the stage's first and last offsets and of the batch size. So, unlike those of a first reading, their boundaries need not
be read back after a crash.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TypeVar

from pipeline.batching import MAX_LOOSE_LETTERS, Batcher, Source
from pipeline.records import MiniBatch, RereadPosition, RunPosition

S = TypeVar("S", bound=Source)


class RereadBatcher(Batcher):
    """Cuts the offline stage into mini-batches once more; the last one ends with it.

    What is not to be trained on is passed over and not told again: late, duplicates and dead letters were in the first pass.

    Args:
        batch_size: interactions of a mini-batch.
        position: where the pass stands.
        step: last step done.
        end: partition -> offset where the offline stage ended.
        refused: as `RunPosition`: what the first pass refused by the clock, this one refuses too.
    """

    def __init__(
        self, *, batch_size: int, position: RereadPosition, step: int, end: Mapping[int, int], refused: Mapping[int, frozenset[int]]
    ) -> None:
        start = RunPosition(next_offsets=position.next_offsets, deliveries=position.deliveries, refused=refused)
        super().__init__(batch_size=batch_size, position=start, step=step)
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
        return None if batch is None else replace(batch, epoch=self.epoch, late=0, duplicates=0, dead_letters=())

    def reread_position(self) -> RereadPosition:
        """Where the pass stands after the last mini-batch closed."""
        position = self.position()
        return RereadPosition(epoch=self.epoch, next_offsets=position.next_offsets, deliveries=position.deliveries)

    def _is_due(self, *, exhausted: bool) -> bool:
        at_end = self._at_recorded_boundary(self._end, exhausted=exhausted)
        if self._opened is None:
            return False
        return at_end or len(self._records) >= self._batch_size or self._loose_letters >= MAX_LOOSE_LETTERS


class Epochs:
    """The batchers of all passes, and where the run stands among them.

    Args:
        first: of what is read for the first time, in both stages; it `pauses` where `epochs` is above 1 and `position` does not know
            the offline stage's end.
        position: where the run stands.
        epochs: passes over the offline stage.
        batch_size: interactions of a mini-batch.
    """

    def __init__(self, first: Batcher, position: RunPosition, *, epochs: int, batch_size: int) -> None:
        self._first = first
        self._epochs = epochs
        self._batch_size = batch_size
        self._end = position.offline_end
        self._reread: RereadBatcher | None = None
        if position.reread is not None:
            self._reread = self._batcher(position.reread)

    @property
    def step(self) -> int:
        """The last step closed, in whichever pass."""
        return self._first.step if self._reread is None else self._reread.step

    def position(self) -> RunPosition:
        """Where the run stands after the last mini-batch closed. The end of the last pass is the online stage's beginning."""
        reread = self._reread
        is_between = reread is not None and not (reread.finished and reread.epoch == self._epochs)
        return replace(
            self._first.position(),
            offline_end=self._end,
            reread=reread.reread_position() if reread is not None and is_between else None,
        )

    def start_from(self, offsets: Mapping[int, int]) -> None:
        """Takes up partitions that the first reading does not know yet; see `Batcher.start_from`."""
        self._first.start_from(offsets)

    def passes(self, source: S, read_again: Callable[[RunPosition], AbstractContextManager[S]]) -> Generator[tuple[S, Batcher], None, None]:
        """Each pass's source and batcher, in turn; ends where one was not finished: the stream has ended, or the run was told to stop.

        Args:
            source: of the first reading.
            read_again: opens a source that stands at a position and comes to an end.
        """
        if self._reread is None:
            yield source, self._first
            if not self._first.finished:
                return
            self._begin(2)
        while self._reread is not None:
            reread = self._reread
            if not reread.finished:
                with read_again(reread.position()) as again:
                    again.replay_to({reread.step: reread.ceilings})
                    yield again, reread
            if not reread.finished:
                return
            self._begin(reread.epoch + 1)
        yield source, self._first

    def _begin(self, epoch: int) -> None:
        """The pass of this number, or the online stage."""
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
        return RereadBatcher(batch_size=self._batch_size, position=position, step=self.step, end=end, refused=refused)
