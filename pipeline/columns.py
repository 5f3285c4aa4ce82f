"""Records in columns: what travels between the stages in place of one object per record. A leaf, as `autoemb_pipeline.records`.

A `Block` is a struct of arrays, one row per record of a partition (or of a mini-batch, where the rows are of several). How a block goes
through the pipeline, and with which function:

1. `autoemb_pipeline.schemas.columnar.ColumnDecoder.decode(values)` makes a block of a chunk's values, and names the values that are none.
2. `source.reader.ColumnReader.read(chunk)` places the rows, takes re-deliveries out, and puts rows of another `kind` in for
   unusable records that no usable one carries. What unusable records leave behind (`Unusable`: how many duplicates, which dead letters)
   lies beside the block, under the (partition, offset) of the row that carries it. In a clean stream there is none.
3. `autoemb_pipeline.source.merge.ColumnMerge.push` and `.release` merge the partitions' blocks by event time.
4. `ordering.canonical(block)` is the order of a mini-batch, `ordering.late` its late records and the frontier behind it.
5. `distinct(block.user_ids)` gives the mini-batch's distinct ids, to be looked up once each, and every row's place among them.
6. `schemas.columnar.encode_block(block)` goes the other way, for a replay; `kernels.texts.partitions_of` says
   where each key belongs.

Slicing a block copies nothing; `take` and `concat` copy the rows taken. Columns are not to be written to.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.order import AT_ONCE, LAST
from autoemb_pipeline.kernels.texts import distinct_texts, take_texts
from autoemb_pipeline.records import AHEAD, DeadLetter, FloatArray, Interaction

Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

RECORD, REMAINDER, TRAILING = 0, 1, 2  # kinds of rows: an interaction; unusable records only; the same at a partition's frozen end
NONE = -1  # a dataset or a sequence that the record does not have
NO_EVENT = 0  # of a record without an id of its own
ABSENT = -2  # rank of an absent dataset: below -1, which is that of a name before all names of the table

NO_VALUE = "the record has no value (a tombstone)"

Place = tuple[int, int]  # partition, offset


class Unusable(NamedTuple):
    """The unusable records directly before a row of their partition: re-deliveries, dead letters, and what the description leaves out."""

    duplicates: int = 0
    dead_letters: tuple[DeadLetter, ...] = ()
    skipped: int = 0


Beside = Mapping[Place, Unusable]


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """A column of byte strings.

    Attributes:
        data: uint8, the values one behind the other.
        bounds: [n + 1] value i is ``data[bounds[i]:bounds[i + 1]]``. Need not begin at 0.
    """

    data: Bytes
    bounds: Integers

    @classmethod
    def of(cls, values: Sequence[bytes]) -> "Texts":
        """The column of these values."""
        bounds = np.zeros(len(values) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=bounds[1:])
        return cls(np.frombuffer(bytearray(b"".join(values)), np.uint8), bounds)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, rows: slice) -> "Texts":
        start, stop, _ = rows.indices(len(self))
        return Texts(self.data, self.bounds[start : max(start, stop) + 1])

    def __eq__(self, other: object) -> bool:
        """Whether these are the same values."""
        return isinstance(other, Texts) and self.to_list() == other.to_list()

    __hash__ = None  # type: ignore[assignment]

    def take(self, index: Integers) -> "Texts":
        """The values at these places, laid out anew."""
        return Texts(*take_texts(self.data, self.bounds, index))

    def to_list(self) -> list[bytes]:
        """The values as objects, for what is not on the hot path."""
        first = int(self.bounds[0])
        data, places = self.data[first : self.bounds[-1]].tobytes(), (self.bounds - first).tolist()
        return [data[start:stop] for start, stop in pairwise(places)]

    def to_strings(self) -> list[str]:
        """The values as strings; they are UTF-8."""
        first = int(self.bounds[0])
        data = self.data[first : self.bounds[-1]].tobytes()
        text = data.decode()
        if len(text) != len(data):  # not all of it is ASCII
            return [value.decode() for value in self.to_list()]
        return [text[start:stop] for start, stop in pairwise((self.bounds - first).tolist())]

    @staticmethod
    def concat(columns: Sequence["Texts"]) -> "Texts":
        """All values, one column behind the other."""
        bounds = np.zeros(sum(map(len, columns)) + 1, np.int64)
        spot, pieces = 0, []
        for column in columns:
            first, length = column.bounds[0], len(column)
            np.add(column.bounds[1:], bounds[spot] - first, out=bounds[spot + 1 : spot + 1 + length])
            pieces.append(column.data[first : column.bounds[-1]])
            spot += length
        return Texts(np.concatenate(pieces) if pieces else np.zeros(0, np.uint8), bounds)


class Distinct(NamedTuple):
    """A column's distinct values.

    Attributes:
        values: [m] in the order of their first occurrence.
        firsts: [m] row of the first occurrence.
        inverse: [n] each row's place among the values.
    """

    values: Texts
    firsts: Integers
    inverse: Integers


def distinct(column: Texts) -> Distinct:
    """Local ids: numbers 0..m-1 in first-occurrence order, and which row has which."""
    firsts, inverse = distinct_texts(column.data, column.bounds)
    return Distinct(column.take(firsts), firsts, inverse)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows in columns.

    Attributes:
        ids: UTF-8 of the fields that name something embedded; user and item are the first two.
        rating: [n] as sent.
        time: [n] event time, ms since the epoch.
        sequence: [n] position in the dataset; `NONE` for none.
        dataset: [n] place in ``datasets``; `NONE` for none.
        datasets: names, ascending and distinct: so their places compare as the names do.
        partition, offset: [n] where the record stands in the topic. Of a row that is no record: the offset of the last unusable one.
        kind: [n] int8: `RECORD`, `REMAINDER` or `TRAILING`. A row that is no record has a place, and the time `AT_ONCE` or `LAST`, which
            merges it before all records or behind them.
        event: [n] number of the event's own id, by which a re-delivery is recognised (`autoemb_pipeline.recent`); `NO_EVENT` for none. None
            where no record of the block has one.
    """

    ids: tuple[Texts, ...]
    rating: FloatArray
    time: Integers
    sequence: Integers
    dataset: Integers
    datasets: tuple[str, ...]
    partition: Integers
    offset: Integers
    kind: NDArray[np.int8]
    event: Integers | None = None

    @property
    def user_ids(self) -> Texts:
        """The users' ids."""
        return self.ids[0]

    @property
    def item_ids(self) -> Texts:
        """The items' ids."""
        return self.ids[1]

    @property
    def rank(self) -> Integers:
        """[n] compares as the merge key's dataset: an absent name is the empty one there. Each name's rank is twice its place."""
        if self.datasets[:1] == ("",):
            return np.maximum(self.dataset, 0) * 2
        return np.where(self.dataset < 0, np.int64(ABSENT), self.dataset * 2)

    def __len__(self) -> int:
        return len(self.time)

    def __eq__(self, other: object) -> bool:
        """Whether these are the same rows."""
        if not isinstance(other, Block) or len(self) != len(other) or self.ids != other.ids:
            return False
        _, (code, other_code) = common_datasets((self, other))
        columns = [(code, other_code), (self.rating.view(np.int64), other.rating.view(np.int64)), (self.time, other.time)]
        columns += [(self.sequence, other.sequence), (self.partition, other.partition), (self.offset, other.offset)]
        columns += [(events(self), events(other))]
        return all(map(np.array_equal, *zip(*columns, strict=True))) and np.array_equal(self.kind, other.kind)

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, rows: slice) -> "Block":
        return self._with([column[rows] for column in self.ids], lambda column: column[rows])

    def take(self, index: Integers) -> "Block":
        """The rows at these places, in this order."""
        return self._with([column.take(index) for column in self.ids], lambda column: column[index])

    def only(self, kept: NDArray[np.bool_]) -> "Block":
        """The rows where ``kept`` is true."""
        return self if kept.all() else self.take(np.flatnonzero(kept))

    def at(self, partition: int, offset: Integers) -> "Block":
        """The same rows, placed in the topic."""
        return replace(self, partition=np.full(len(self), partition, np.int64), offset=offset)

    def _with(self, ids: Sequence[Texts], change: Callable[[NDArray], NDArray]) -> "Block":  # type: ignore[type-arg]
        return Block(
            tuple(ids),
            change(self.rating),
            change(self.time),
            change(self.sequence),
            change(self.dataset),
            self.datasets,
            change(self.partition),
            change(self.offset),
            change(self.kind),
            None if self.event is None else change(self.event),
        )

    def interactions(self) -> list[Interaction]:
        """The records as objects, without further features: for tests and for what is not on the hot path."""
        users, items = (column.to_strings() for column in self.ids[:2])
        columns = (self.rating.tolist(), self.time.tolist(), self.dataset.tolist(), self.sequence.tolist())
        return [
            Interaction(user, item, rating, time, None if code < 0 else self.datasets[code], None if sequence < 0 else sequence)
            for user, item, rating, time, code, sequence in zip(users, items, *columns, strict=True)
        ]

    @classmethod
    def of(cls, interactions: Sequence[Interaction], partition: int = 0, offsets: Iterable[int] = ()) -> "Block":
        """The block of records that were decoded one by one: the way back from the slow path. Further features are not kept.

        Args:
            interactions: valid ones.
            partition: their partition.
            offsets: theirs; 0, 1, ... where there are none.
        """
        names = tuple(sorted({i.dataset for i in interactions if i.dataset is not None}))
        code = {name: place for place, name in enumerate(names)}
        count = len(interactions)
        return cls(
            (Texts.of([i.user_id.encode() for i in interactions]), Texts.of([i.item_id.encode() for i in interactions])),
            np.array([i.rating for i in interactions], np.float64),
            np.array([i.timestamp for i in interactions], np.int64),
            np.array([NONE if i.sequence is None else i.sequence for i in interactions], np.int64),
            np.array([NONE if i.dataset is None else code[i.dataset] for i in interactions], np.int64),
            names,
            np.full(count, partition, np.int64),
            np.array([*offsets], np.int64) if offsets else np.arange(count, dtype=np.int64),
            np.zeros(count, np.int8),
        )

    @classmethod
    def unusable(cls, partition: int, next_offset: int, *, trailing: bool = False, fields: int = 2) -> "Block":
        """One row for unusable records up to ``next_offset`` that no record carries."""
        one = np.array([NONE], np.int64)
        empty = Texts(np.zeros(0, np.uint8), np.zeros(2, np.int64))
        kind = np.array([TRAILING if trailing else REMAINDER], np.int8)
        place = np.array([partition], np.int64), np.array([next_offset - 1], np.int64)
        time = np.array([LAST if trailing else AT_ONCE], np.int64)
        return cls((empty,) * fields, np.array([np.nan]), time, one, one, (), *place, kind)


EMPTY = Block.of([])


def common_datasets(blocks: Sequence[Block]) -> tuple[tuple[str, ...], list[Integers]]:
    """One table of names for several blocks, and each block's dataset column as places in it."""
    first = blocks[0].datasets
    if all(block.datasets == first for block in blocks):
        return first, [block.dataset for block in blocks]
    names = tuple(sorted(set[str]().union(*(block.datasets for block in blocks))))
    place = {name: spot for spot, name in enumerate(names)}
    # The last entry stands for NONE, which is the index -1.
    tables = (np.array([*(place[name] for name in block.datasets), NONE], np.int64) for block in blocks)
    return names, [table[block.dataset] for table, block in zip(tables, blocks, strict=True)]


def concat(blocks: Sequence[Block]) -> Block:
    """All rows, one block behind the other."""
    if len(blocks) < 2:  # noqa: PLR2004 - one or none
        return blocks[0] if blocks else EMPTY
    names, codes = common_datasets(blocks)
    return Block(
        tuple(Texts.concat(columns) for columns in zip(*(block.ids for block in blocks), strict=True)),
        np.concatenate([block.rating for block in blocks]),
        np.concatenate([block.time for block in blocks]),
        np.concatenate([block.sequence for block in blocks]),
        np.concatenate(codes),
        names,
        np.concatenate([block.partition for block in blocks]),
        np.concatenate([block.offset for block in blocks]),
        np.concatenate([block.kind for block in blocks]),
        None if all(block.event is None for block in blocks) else np.concatenate([events(block) for block in blocks]),
    )


def events(block: Block) -> Integers:
    """[n] the event column, also of a block without one."""
    return np.full(len(block), NO_EVENT, np.int64) if block.event is None else block.event


class Released(NamedTuple):
    """Rows in merged order, and what the unusable records before them leave behind, by the place of the row that carries it."""

    block: Block = EMPTY
    beside: Beside = MappingProxyType({})


class Refused(NamedTuple):
    """A value that is no interaction: its place in the chunk, and why. ``no-value`` for a tombstone; `SKIPPED` makes no dead letter."""

    row: int
    reason: str
    detail: str


class Decoded(NamedTuple):
    """A chunk's values.

    Attributes:
        block: the interactions among them, in their order. Partition and offsets are not set (`Block.at`).
        rows: [len(block)] place of each in the chunk; None where all n are interactions.
        refused: the others, in their order.
    """

    block: Block
    rows: Integers | None = None
    refused: Sequence[Refused] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniBatch:
    """Interactions in merged order, and where every partition stands after them.

    Attributes:
        step: 1 for the first mini-batch of a run.
        block: the interactions, in the canonical merged order; may be empty when only dead letters or duplicates advanced.
        next_offsets: partition -> offset of the first record not in this or an earlier batch.
        late: interactions whose event time lies before the merge frontier.
        duplicates: records skipped as re-deliveries.
        dead_letters: undecodable records passed in this batch.
        skipped: records that the stream's description leaves out.
        epoch: 1 when its interactions are read for the first time; e in the e-th pass over the offline stage.
    """

    step: int
    block: Block
    next_offsets: Mapping[int, int]
    late: int = 0
    duplicates: int = 0
    dead_letters: tuple[DeadLetter, ...] = ()
    skipped: int = 0
    epoch: int = 1

    @classmethod
    def of(cls, *, records: Sequence[Interaction], **rest: Any) -> "MiniBatch":
        """Of interactions as objects, and the other attributes: for what is not on the hot path."""
        return cls(block=Block.of(records), **rest)

    def __len__(self) -> int:
        """How many interactions."""
        return len(self.block)

    @property
    def records(self) -> Sequence[Interaction]:
        """The interactions as objects, made anew: for what is not on the hot path."""
        return self.block.interactions()

    @property
    def refused(self) -> Mapping[int, Sequence[int]]:
        """Partition -> offsets of the dead letters that the clock decided (`AHEAD`), ascending."""
        refused: dict[int, list[int]] = {}
        for letter in self.dead_letters:
            if letter.reason == AHEAD:
                refused.setdefault(letter.partition, []).append(letter.offset)
        return refused
