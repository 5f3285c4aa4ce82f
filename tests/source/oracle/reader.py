"""The reader's oracle, one object per record. One partition: bytes to interactions, duplicates and undecodable records set aside as a prefix of the next usable record."""

import math
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from autoemb_pipeline.deliveries import PartitionDeliveries
from autoemb_pipeline.errors import DecodeError
from autoemb_pipeline.records import AHEAD, DeadLetter, Interaction
from autoemb_pipeline.remembered import Remembered
from autoemb_pipeline.source.reader import MAX_PREFIX_BYTES, MAX_PREFIX_LETTERS, ahead_text
from tests.source.oracle.items import ConsumedRecord, Item, Remainder

V = TypeVar("V")
Raw = tuple[int, bytes | None, V | None]  # offset, key, value


class PartitionReader(Generic[V]):
    """Turns the raw records of one partition into items. A pure function of their content, of the start, and of `latest` where it is given.

    Args:
        topic: named in dead letters.
        partition: the partition.
        next_offset: offset of the first record to read; records below it are ignored.
        decoder: value to interaction; raises DecodeError, and nothing else, for a value that is none.
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
        decoder: Callable[[V], Interaction],
        deliveries: Iterable[Remembered] = (),
        refused: frozenset[int] = frozenset(),
        latest: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self.partition = partition
        self.next_offset = next_offset
        self._topic = topic
        self._decode = decoder
        self._deliveries = PartitionDeliveries(deliveries)
        self._refused = refused
        self._latest = latest
        self._cuts: frozenset[int] = frozenset()
        self._decided = 0
        self._duplicates = 0
        self._letters: list[DeadLetter] = []
        self._letter_bytes = 0

    @property
    def pending(self) -> bool:
        """Whether unusable records wait for a usable one to carry them."""
        return self._duplicates > 0 or bool(self._letters)

    @property
    def forgotten(self) -> int:
        """Datasets whose re-deliveries are no longer recognised, because there were too many."""
        return self._deliveries.forgotten

    def cut_at(self, offsets: Iterable[int]) -> None:
        """Offsets where a recorded mini-batch ended: unusable records never wait across one of them."""
        self._cuts = frozenset(offsets)
        self._decided = max(self._cuts, default=0)

    def read(self, records: Iterable[Raw[V]]) -> list[Item]:
        """The items completed by these records, in offset order. Unusable records behind the last usable one stay pending."""
        items: list[Item] = []
        decode, admit, partition = self._decode, self._deliveries.admit, self.partition
        refused, decided, latest = self._refused, self._decided, self._latest()
        for offset, key, value in records:
            if offset < self.next_offset:
                continue  # delivered again by the client after a seek or a resume
            self.next_offset = offset + 1
            if value is None:
                self._set_aside(items, self._letter(offset, key, None, "no-value", "the record has no value (a tombstone)"))
                continue
            try:
                interaction = decode(value)
            except DecodeError as error:
                self._set_aside(items, self._letter(offset, key, value, error.reason, str(error)))
                continue
            timestamp = interaction.timestamp
            if (timestamp > latest and offset >= decided) or offset in refused:
                self._set_aside(items, self._letter(offset, key, value, AHEAD, ahead_text(timestamp)))
                continue
            dataset, sequence = interaction.dataset, interaction.sequence
            if dataset is not None and sequence is not None and not admit(dataset, sequence, timestamp):
                self._set_aside(items, None)
                continue
            if self._duplicates or self._letters:
                duplicates, letters = self._take_prefix()
                items.append(ConsumedRecord(interaction, partition, offset, duplicates, letters))
            else:
                items.append(ConsumedRecord(interaction, partition, offset))
        return items

    def flush(self, *, trailing: bool = False) -> Remainder | None:
        """The pending records as a remainder of their own; None when there are none."""
        if not self.pending:
            return None
        duplicates, letters = self._take_prefix()
        return Remainder(self.partition, self.next_offset, duplicates, letters, trailing)

    def _set_aside(self, items: list[Item], letter: DeadLetter | None) -> None:
        """Adds one record to the prefix: a dead letter, or (None) a duplicate."""
        if letter is None:
            self._duplicates += 1
        else:
            self._letters.append(letter)
            self._letter_bytes += len(letter.value or b"") + len(letter.key or b"")
        full = len(self._letters) >= MAX_PREFIX_LETTERS or self._letter_bytes >= MAX_PREFIX_BYTES
        if full or self.next_offset in self._cuts:
            remainder = self.flush()
            if remainder is not None:
                items.append(remainder)

    def _letter(self, offset: int, key: bytes | None, value: V | None, reason: str, detail: str) -> DeadLetter:
        original = value if value is None or isinstance(value, bytes) else repr(value).encode()
        return DeadLetter(self._topic, self.partition, offset, reason, detail, key, original)

    def _take_prefix(self) -> tuple[int, tuple[DeadLetter, ...]]:
        prefix = self._duplicates, tuple(self._letters)
        self._duplicates, self._letters, self._letter_bytes = 0, [], 0
        return prefix
