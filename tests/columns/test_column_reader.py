"""One partition's records in columns against the reader of one record at a time."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.columns import Block, Integers, Released, Unusable
from autoemb_pipeline.deliveries import PartitionDeliveries
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.codec import decode_interaction, encode_interaction
from autoemb_pipeline.schemas.columnar import ColumnDecoder
from autoemb_pipeline.source.reader import MAX_PREFIX_BYTES, MAX_PREFIX_LETTERS, Chunk, ColumnReader, Read
from tests.source.oracle.items import Item, items_of
from tests.source.oracle.reader import PartitionReader
from tests.strategies import remembered_up_to

Raw = tuple[int, bytes | None, bytes | None]


def encoded(sequence: int | None, dataset: str | None = "set", time: int = 1000) -> bytes:
    return encode_interaction(Interaction("u", "i", 3.5, time, dataset, sequence))


def chunk_of(records: Sequence[Raw]) -> Chunk:
    keys = [key for _, key, _ in records]
    return Chunk(np.array([offset for offset, _, _ in records], np.int64), [value for _, _, value in records], keys.__getitem__)


def items(read: Read) -> list[Item]:
    return items_of(Released(read.block, {(3, offset): beside for offset, beside in read.beside.items()}))


values = st.one_of(
    st.builds(encoded, st.none() | st.integers(0, 9), st.sampled_from(["set", "set", "other", None]), st.integers(998, 1003)),
    st.sampled_from([None, b"", b"rubbish", encode_interaction(Interaction("u", "i", 1.0, 5, "set", 4, {"a": 1.0}))]),
)


def without_features(item: Item) -> Item:
    return item if not hasattr(item, "interaction") else item._replace(interaction=item.interaction._replace(features=None))


@settings(deadline=None, max_examples=300)
@given(st.data(), st.lists(st.tuples(st.integers(-1, 2), st.none() | st.just(b"key"), values), max_size=40), st.integers(0, 3))
def test_any_records_in_any_chunks_give_the_same_rows(data: st.DataObject, drawn: list[Raw], start: int) -> None:
    at, records = 0, []
    for step, key, value in drawn:  # a step of 0 or back: delivered again by the client
        at = max(0, at + step)
        records.append((at, key, value))
    cuts = data.draw(st.sets(st.integers(0, at + 1)))
    latest = data.draw(st.sampled_from([math.inf, 1001.5]))
    known = {
        "next_offset": start,
        "deliveries": [
            remembered_up_to(name, data.draw(st.integers(0, 5)), 1000) for name in data.draw(st.sets(st.sampled_from(["set", "other"])))
        ],
        "refused": data.draw(st.frozensets(st.integers(0, at), max_size=3)),
        "latest": lambda: latest,
    }
    one = PartitionReader(topic="t", partition=3, decoder=decode_interaction, **known)
    many = ColumnReader(topic="t", partition=3, decode=ColumnDecoder(decode_interaction).decode, **known)
    one.cut_at(cuts)
    many.cut_at(cuts)
    while records:
        size = data.draw(st.integers(1, 12))
        piece, records = records[:size], records[size:]
        assert items(many.read(chunk_of(piece))) == [without_features(item) for item in one.read(piece)]
        assert (many.next_offset, many.pending, many.forgotten) == (one.next_offset, one.pending, one.forgotten)
        assert many._deliveries.snapshot() == one._deliveries.snapshot()
        if data.draw(st.integers(0, 4)) == 0:
            trailing = data.draw(st.booleans())
            flushed, expected = many.flush(trailing=trailing), one.flush(trailing=trailing)
            assert (flushed and items(flushed)) == (expected and [expected])


@pytest.mark.parametrize("value", [b"x", b"x" * (MAX_PREFIX_BYTES // 2)])
def test_long_runs_of_unusable_records_are_handed_on_in_parts(value: bytes) -> None:
    records = [(offset, None, value) for offset in range(2 * MAX_PREFIX_LETTERS + 1 if len(value) == 1 else 5)]
    one = PartitionReader(topic="t", partition=3, next_offset=0, decoder=decode_interaction)
    many = ColumnReader(topic="t", partition=3, next_offset=0, decode=ColumnDecoder(decode_interaction).decode)
    expected = one.read(records)
    assert items(many.read(chunk_of(records))) == expected
    assert len(expected) == 2


class Watched(PartitionDeliveries):
    """Counts what is asked per record by the one who calls it."""

    asked, inside = 0, False

    def admit(self, dataset: str, sequence: int, timestamp: int) -> bool:
        self.asked += not self.inside
        return super().admit(dataset, sequence, timestamp)

    def admit_all(self, dataset: str, sequences: Integers, timestamps: Integers) -> None:
        self.inside = True
        super().admit_all(dataset, sequences, timestamps)
        self.inside = False


records_ = st.tuples(st.none() | st.integers(0, 9), st.sampled_from(["set", "set", "other", None]), st.integers(0, 4))


@settings(deadline=None)
@given(st.lists(records_))
def test_records_are_admitted_in_runs_as_one_by_one(drawn: list[tuple[int | None, str | None, int]]) -> None:
    block = Block.of([Interaction("u", "i", 1.0, time, dataset, sequence) for sequence, dataset, time in drawn])
    alone, runs = PartitionDeliveries(), Watched()
    expected = [s is None or d is None or alone.admit(d, s, t) for s, d, t in drawn]
    new = runs.admit_rows(block)
    assert (expected if new is None else new.tolist()) == expected
    assert runs.snapshot() == alone.snapshot()


def test_a_clean_chunk_asks_nothing_per_record() -> None:
    deliveries = Watched([remembered_up_to("set", 4, 0)])
    assert deliveries.admit_rows(Block.of([Interaction("u", "i", 1.0, 5, "set", 5 + k) for k in range(100)])) is None
    assert (deliveries.asked, deliveries.highest("set")) == (0, 104)


def test_an_empty_chunk_reads_nothing() -> None:
    many = ColumnReader(topic="t", partition=3, next_offset=7, decode=ColumnDecoder(decode_interaction).decode)
    assert items(many.read(chunk_of([]))) == []
    assert many.next_offset == 7
    assert many.flush() is None
    assert many.read(chunk_of([(7, b"k", None), (8, None, encoded(0))])).beside.keys() == {8}
    assert Unusable() == (0, (), 0)
