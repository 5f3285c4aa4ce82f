"""One partition: bytes to interactions, duplicates and undecodable records set aside as a prefix of the next usable record."""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from pipeline.errors import DecodeError
from pipeline.records import ConsumedRecord, DeadLetter, Interaction, Remainder

V = TypeVar("V")
Item = ConsumedRecord | Remainder
Raw = tuple[int, bytes | None, V | None]  # offset, key, value

# A longer run of unusable records is handed on in parts, so that a topic full of them needs no more memory than a good one.
MAX_PREFIX_LETTERS = 100
MAX_PREFIX_BYTES = 1 << 20


class Fetched(NamedTuple, Generic[V]):
    """Consecutive records of one partition, and, if its end was reached behind them, the offset of that end."""

    partition: int
    records: list[Raw[V]]
    end: int | None = None


class PartitionReader(Generic[V]):
    """Turns the raw records of one partition into items. A pure function of their content and of the start.

    Args:
        topic: named in dead letters.
        partition: the partition.
        next_offset: offset of the first record to read; records below it are ignored.
        decoder: value to interaction; raises DecodeError, and nothing else, for a value that is none.
        highest: dataset -> highest sequence that this partition released before `next_offset`.
    """

    def __init__(
        self, *, topic: str, partition: int, next_offset: int, decoder: Callable[[V], Interaction], highest: Mapping[str, int]
    ) -> None:
        self.partition = partition
        self.next_offset = next_offset
        self._topic = topic
        self._decode = decoder
        self._highest = dict(highest)
        self._cuts: frozenset[int] = frozenset()
        self._duplicates = 0
        self._letters: list[DeadLetter] = []
        self._letter_bytes = 0

    @property
    def pending(self) -> bool:
        """Whether unusable records wait for a usable one to carry them."""
        return self._duplicates > 0 or bool(self._letters)

    def cut_at(self, offsets: Iterable[int]) -> None:
        """Offsets where a recorded mini-batch ended: unusable records never wait across one of them."""
        self._cuts = frozenset(offsets)

    def read(self, records: Iterable[Raw[V]]) -> list[Item]:
        """The items completed by these records, in offset order. Unusable records behind the last usable one stay pending."""
        items: list[Item] = []
        decode, highest, partition = self._decode, self._highest, self.partition
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
            dataset, sequence = interaction.dataset, interaction.sequence
            if dataset is not None and sequence is not None:
                seen = highest.get(dataset)
                if seen is not None and sequence <= seen:
                    self._set_aside(items, None)
                    continue
                highest[dataset] = sequence
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
