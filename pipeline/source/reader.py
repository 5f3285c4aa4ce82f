"""One partition: values to columns a chunk at a time, unusable records set aside as a prefix of the next usable one.

A chunk without unusable records costs no Python per record. What is unusable (a dead letter, a re-delivery) costs some per unusable record.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.columns import EMPTY, Block, Decoded, Integers, Unusable, concat
from autoemb_pipeline.deliveries import PartitionDeliveries
from autoemb_pipeline.records import AHEAD, SKIPPED, DeadLetter
from autoemb_pipeline.remembered import Remembered

# A longer run of unusable records is handed on in parts, so that a topic full of them needs no more memory than a good one.
MAX_PREFIX_LETTERS = 100
MAX_PREFIX_BYTES = 1 << 20


class Chunk(NamedTuple):
    """Consecutive records of one partition.

    Attributes:
        offsets: [n].
        values: n of them, as the source's decoder takes them; None for a tombstone.
        key: place in the chunk -> the record's key; only asked for dead letters.
        times: -> [n] the records' own times in Kafka, ms since the epoch; only asked where they are the event times.
    """

    offsets: Integers
    values: Any
    key: Callable[[int], bytes | None] = lambda _: None
    times: Callable[[], Integers] | None = None


@runtime_checkable
class ChunkDecoder(Protocol):
    """Decodes the values of a chunk at once."""

    def decode(self, values: Sequence[bytes | None], times: Callable[[], Integers] | None = None) -> Decoded:
        """The interactions in these values, and the values that are none.

        Args:
            values: n of them.
            times: as `Chunk.times`.
        """
        ...


class Fetched(NamedTuple):
    """Consecutive records of one partition, if any, and, if its end was reached behind them, the offset of that end."""

    partition: int
    chunk: Chunk | None = None
    end: int | None = None


class Read(NamedTuple):
    """Rows of a partition, ascending by offset, and, by the offset of the row that carries them, the unusable records before it."""

    block: Block
    beside: Mapping[int, Unusable]


class ColumnReader:
    """Turns the raw records of one partition into rows. A pure function of their content and of the start.

    Args:
        topic: named in dead letters.
        partition: the partition.
        next_offset: offset of the first record to read; records below it are ignored.
        decode: the values of a chunk to columns: `ChunkDecoder.decode`.
        deliveries: what this partition released before `next_offset`.
        refused: offsets of records that an earlier life, or pass, of the run refused as too far ahead of the clock.
        latest: -> the latest event time (ms) that is not too far ahead. Not asked below the recorded boundaries (`cut_at`): there `refused`
            has all that was refused.
    """

    def __init__(
        self,
        *,
        topic: str,
        partition: int,
        next_offset: int,
        decode: Callable[..., Decoded],
        deliveries: Iterable[Remembered] = (),
        refused: frozenset[int] = frozenset(),
        latest: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self.partition = partition
        self.next_offset = next_offset
        self._topic = topic
        self._decode = decode
        self._deliveries = PartitionDeliveries(deliveries)
        self._refused = np.array(sorted(refused), np.int64)
        self._latest = latest
        self._cuts: frozenset[int] = frozenset()
        self._decided = 0
        self._duplicates = 0
        self._skipped = 0
        self._letters: list[DeadLetter] = []
        self._letter_bytes = 0

    @property
    def pending(self) -> bool:
        """Whether unusable records wait for a usable one to carry them."""
        return self._duplicates > 0 or self._skipped > 0 or bool(self._letters)

    @property
    def forgotten(self) -> int:
        """Datasets whose re-deliveries are no longer recognised, because there were too many."""
        return self._deliveries.forgotten

    def cut_at(self, offsets: Iterable[int]) -> None:
        """Offsets where a recorded mini-batch ended: unusable records never wait across one of them."""
        self._cuts = frozenset(offsets)
        self._decided = max(self._cuts, default=0)

    def read(self, chunk: Chunk) -> Read:
        """The rows completed by these records. Unusable records behind the last usable one stay pending."""
        chunk = self._not_read_before(chunk)
        if len(chunk.offsets) == 0:
            return Read(EMPTY, {})
        decoded = self._decode(chunk.values, chunk.times)
        rows = np.arange(len(chunk.offsets)) if decoded.rows is None else decoded.rows
        block = decoded.block.at(self.partition, chunk.offsets if decoded.rows is None else chunk.offsets[rows])
        unusable: dict[int, DeadLetter | _Passed] = {
            r.row: _Passed.SKIPPED if r.reason == SKIPPED else self._letter(chunk, r.row, r.reason, r.detail) for r in decoded.refused
        }
        ahead = self._lies_ahead(block)
        if ahead.any():
            times = zip(rows[ahead].tolist(), block.time[ahead].tolist(), strict=True)
            unusable |= {row: self._letter(chunk, row, AHEAD, ahead_text(time)) for row, time in times}
            block, rows = block.only(~ahead), rows[~ahead]
        new = self._deliveries.admit_rows(block)
        if new is not None:
            unusable |= dict.fromkeys(rows[~new].tolist(), _Passed.DUPLICATE)
            block = block.only(new)
        if not unusable and not self.pending:
            self.next_offset = int(chunk.offsets[-1]) + 1
            return Read(block, {})
        return self._with_unusable(block, chunk.offsets, dict(sorted(unusable.items())))

    def flush(self, *, trailing: bool = False) -> Read | None:
        """The pending records as a row of their own; None when there are none."""
        if not self.pending:
            return None
        return Read(Block.unusable(self.partition, self.next_offset, trailing=trailing), {self.next_offset - 1: self._take_pending()})

    def _lies_ahead(self, block: Block) -> NDArray[np.bool_]:
        """[n] which event times are too far ahead of the clock, or were found to be when they were read for the first time."""
        ahead = (block.time > self._latest()) & (block.offset >= self._decided)
        return ahead | np.isin(block.offset, self._refused) if len(self._refused) else ahead

    def _not_read_before(self, chunk: Chunk) -> Chunk:
        """Without what the client delivers again after a seek or a resume."""
        offsets = chunk.offsets
        before = np.maximum.accumulate(np.concatenate([[self.next_offset - 1], offsets[:-1]])) if len(offsets) else offsets
        fresh = offsets > before
        if fresh.all():
            return chunk
        places: list[int] = np.flatnonzero(fresh).tolist()
        values = chunk.values
        kept = values.take(np.flatnonzero(fresh)) if isinstance(values, Block) else [values[place] for place in places]
        times = chunk.times
        return Chunk(offsets[fresh], kept, lambda row: chunk.key(places[row]), None if times is None else lambda: times()[fresh])

    def _with_unusable(self, block: Block, offsets: Integers, unusable: "Mapping[int, DeadLetter | _Passed]") -> Read:
        """The rows with what the unusable records at these places of the chunk leave behind."""
        pieces: list[Block] = []
        beside: dict[int, Unusable] = {}
        ends = np.searchsorted(block.offset, offsets[list(unusable)]).tolist() if unusable else []
        index = 0
        for (row, letter), end in zip(unusable.items(), ends, strict=True):
            self._carry(block, index, end, pieces, beside)
            index = end
            self.next_offset = int(offsets[row]) + 1
            self._set_aside(letter)
            full = len(self._letters) >= MAX_PREFIX_LETTERS or self._letter_bytes >= MAX_PREFIX_BYTES
            if (full or self.next_offset in self._cuts) and (flushed := self.flush()):
                pieces.append(flushed.block)
                beside.update(flushed.beside)
        self._carry(block, index, len(block), pieces, beside)
        self.next_offset = int(offsets[-1]) + 1
        return Read(concat(pieces) if pieces else block, beside)

    def _carry(self, block: Block, start: int, stop: int, pieces: list[Block], beside: dict[int, Unusable]) -> None:
        """Adds usable rows; the first of them carries what is pending."""
        if start == stop:
            return
        if self.pending:
            beside[int(block.offset[start])] = self._take_pending()
        pieces.append(block[start:stop])

    def _set_aside(self, letter: "DeadLetter | _Passed") -> None:
        if isinstance(letter, DeadLetter):
            self._letters.append(letter)
            self._letter_bytes += len(letter.value or b"") + len(letter.key or b"")
        elif letter is _Passed.DUPLICATE:
            self._duplicates += 1
        else:
            self._skipped += 1

    def _letter(self, chunk: Chunk, row: int, reason: str, detail: str) -> DeadLetter:
        value = chunk.values[row : row + 1].interactions()[0] if isinstance(chunk.values, Block) else chunk.values[row]
        original = value if value is None or isinstance(value, bytes) else repr(value).encode()
        return DeadLetter(self._topic, self.partition, int(chunk.offsets[row]), reason, detail, chunk.key(row), original)

    def _take_pending(self) -> Unusable:
        pending = Unusable(self._duplicates, tuple(self._letters), self._skipped)
        self._duplicates, self._skipped, self._letters, self._letter_bytes = 0, 0, [], 0
        return pending


class _Passed(Enum):
    """What becomes of a record that is neither trained nor a dead letter."""

    DUPLICATE = 1
    SKIPPED = 2


def ahead_text(timestamp: int) -> str:
    """A dead letter's detail, without the clock's own time: written again after a crash it is the same."""
    try:
        when = datetime.fromtimestamp(timestamp / 1000, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        when = f"{timestamp} ms since the epoch"
    return f"the event time, {when}, lay further ahead of the clock than --max-ahead allows"
