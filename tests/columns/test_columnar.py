"""Many records at once against one record at a time: the same verdicts, values and bytes, whatever comes."""

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoemb_pipeline.columns import Block, concat
from autoemb_pipeline.errors import DecodeError
from autoemb_pipeline.kernels.avro import MAX_DATASETS
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.codec import MAX_SEQUENCE, MAX_TIMESTAMP, encode_interaction
from autoemb_pipeline.schemas.columnar import HEADER, ColumnDecoder, encode_block
from autoemb_pipeline.schemas.registry import InteractionDecoder
from tests.strategies import interactions

VALID = Interaction("7", "42", 3.5, 1_000, "ml", 9)
one_by_one = InteractionDecoder()


def never(value: bytes) -> Interaction:
    raise AssertionError(f"not plain: {value!r}")


def without_features(interaction: Interaction) -> Interaction:
    return interaction._replace(features=None)


def check(values: Sequence[bytes | None], decoder: InteractionDecoder = one_by_one) -> None:
    """The decoder of columns says of each value what the decoder of one says."""
    records, rows, refused = [], [], []
    for row, value in enumerate(values):
        if value is None:
            refused.append((row, "no-value", "the record has no value (a tombstone)"))
            continue
        try:
            records.append(without_features(decoder(value)))
            rows.append(row)
        except DecodeError as error:
            refused.append((row, error.reason, str(error)))
    decoded = ColumnDecoder(decoder).decode(values)
    assert decoded.block.interactions() == records
    assert [struct.pack("<d", i.rating) for i in records] == [struct.pack("<d", r) for r in decoded.block.rating.tolist()]
    assert (list(range(len(values))) if decoded.rows is None else decoded.rows.tolist()) == rows
    assert [tuple(r) for r in decoded.refused] == refused


@settings(deadline=None)
@given(st.lists(interactions, max_size=8))
@example([VALID._replace(timestamp=MAX_TIMESTAMP, sequence=MAX_SEQUENCE, rating=-0.0, dataset="")])
def test_valid_records_are_decoded_as_one_by_one(records: list[Interaction]) -> None:
    check([encode_interaction(record) for record in records])


@settings(deadline=None)
@given(st.lists(interactions.map(without_features), max_size=8))
def test_every_valid_record_without_features_is_read_by_the_kernel(records: list[Interaction]) -> None:
    decoded = ColumnDecoder(never).decode([encode_interaction(record) for record in records])
    assert (decoded.block.interactions(), decoded.rows, decoded.refused) == (records, None, ())


values = st.lists(interactions.map(encode_interaction) | st.none() | st.binary(max_size=40) | st.binary(max_size=40).map(HEADER.__add__))


@settings(deadline=None)
@given(values)
@example([None, b"", HEADER, b"\x00\x00\x00\x00\x01x", b"{}"])
def test_whatever_is_between_them(drawn: list[bytes | None]) -> None:
    check(drawn)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A record's bytes after a few flips, cuts and insertions."""
    value = bytearray(encode_interaction(draw(interactions | st.just(VALID))))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(value)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "remove"]))
        if kind == "flip" and at < len(value):
            value[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and at < len(value):
            value[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del value[at:]
        elif kind == "insert":
            value[at:at] = draw(st.binary(min_size=1, max_size=4) | st.sampled_from([b"\x80\x00", b"\xff" * 10, b"\x80" * 9 + b"\x01"]))
        else:
            del value[at : at + draw(st.integers(1, 4))]
    return bytes(value)


@settings(deadline=None, max_examples=500)
@given(st.lists(mutated(), min_size=1, max_size=8))
def test_mutated_records_get_the_same_verdict(drawn: list[bytes]) -> None:
    check(drawn)


def test_every_single_byte_changed_gets_the_same_verdict() -> None:
    value = encode_interaction(VALID._replace(user_id="é☃", timestamp=1_500_000_000_000, sequence=300))
    for at in range(len(value)):
        check([value[:at] + bytes([byte]) + value[at + 1 :] for byte in range(256)])


@pytest.mark.parametrize(
    "number",
    [b"\x80" * k + b"\x00" for k in range(12)] + [b"\xff" * 9 + bytes([last]) for last in range(8)] + [b"\xfe" + b"\xff" * 8 + b"\x01"],
)
@pytest.mark.parametrize("field", ["length", "time", "sequence", "branch", "features"])
def test_long_and_overflowing_numbers(number: bytes, field: str) -> None:
    parts = {"length": b"\x02", "time": b"\x10", "branch": b"\x02", "sequence": b"\x12", "features": b"\x00"} | {field: number}
    body = parts["length"] + b"7" + b"\x0442" + struct.pack("<d", 3.5) + parts["time"] + b"\x02\x04ml"
    check([HEADER + body + parts["branch"] + parts["sequence"] + parts["features"]])


def test_more_datasets_than_the_kernel_has_room_for() -> None:
    records = [VALID._replace(dataset=f"set {k % (2 * MAX_DATASETS)}", sequence=k) for k in range(4 * MAX_DATASETS)]
    assert ColumnDecoder(one_by_one).decode([encode_interaction(r) for r in records]).block.interactions() == records


def test_a_registrys_header_is_refused_where_none_is_configured() -> None:
    value = b"\x00\x00\x00\x00\x07" + encode_interaction(VALID)[len(HEADER) :]
    assert [r.reason for r in ColumnDecoder(one_by_one).decode([value]).refused] == ["registry-needed"]


def test_errors_other_than_decode_errors_stop_the_run() -> None:
    def broken(_: bytes) -> Interaction:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ColumnDecoder(broken).decode([b"x"])


@settings(deadline=None)
@given(st.lists(interactions.map(without_features), max_size=8))
def test_encoded_bytes_are_those_of_one_by_one(records: list[Interaction]) -> None:
    assert encode_block(Block.of(records)).values() == [encode_interaction(record) for record in records]


@settings(deadline=None)
@given(st.lists(interactions.map(without_features), max_size=8), st.data())
def test_a_part_of_a_block_is_encoded_as_the_part(records: list[Interaction], data: st.DataObject) -> None:
    rows = data.draw(st.slices(len(records)).filter(lambda s: s.step in (None, 1)))
    header = b"\x00\x00\x00\x00\x07"
    block = concat([Block.of(records), Block.of([VALID])])[: len(records)][rows]
    assert encode_block(block, header).values() == [header + encode_interaction(r)[len(HEADER) :] for r in records[rows]]


@pytest.mark.parametrize(
    "changed",
    [
        {"rating": float("nan")},
        {"rating": float("-inf")},
        {"user_id": ""},
        {"item_id": ""},
        {"user_id": "x" * 1025},
        {"item_id": "\N{SNOWMAN}" * 342},
        {"dataset": "d" * 1025},
        {"timestamp": -1},
        {"timestamp": MAX_TIMESTAMP + 1},
    ],
)
def test_nothing_is_written_that_would_be_refused(changed: dict) -> None:
    bad = VALID._replace(**changed)
    with pytest.raises(DecodeError) as alone:
        encode_interaction(bad)
    with pytest.raises(DecodeError) as caught:
        encode_block(Block.of([VALID, bad, VALID]))
    assert (caught.value.reason, str(caught.value)) == (alone.value.reason, str(alone.value))


def test_ids_that_are_not_utf8_are_not_written() -> None:
    block = Block.of([VALID._replace(user_id="abc")])
    block.user_ids.data[0] = 0xFF
    with pytest.raises(DecodeError, match="utf-8"):
        encode_block(block)


def test_columns_are_contiguous_and_typed() -> None:
    block = ColumnDecoder(never).decode([encode_interaction(VALID)] * 3).block
    assert (block.rating.dtype, block.time.dtype, block.kind.dtype) == (np.float64, np.int64, np.int8)
    assert all(column.flags.c_contiguous for column in (block.rating, block.time, block.sequence, block.dataset))
