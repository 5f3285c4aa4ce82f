"""Chunks of values: the columns agree with the rules of one record, whatever stands beside it."""

import json
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline.columns import Decoded
from autoemb_pipeline.errors import ConfigurationError, DecodeError
from autoemb_pipeline.mapping.columns import block_of
from autoemb_pipeline.mapping.decoder import MappedDecoder, stream_decoder
from autoemb_pipeline.mapping.description import LabelRule, RecordMapping, StreamDescription
from autoemb_pipeline.mapping.formats import JsonFormat
from autoemb_pipeline.mapping.rules import row_of
from autoemb_pipeline.records import SKIPPED
from autoemb_pipeline.schemas.avro import MAGIC, schema_fingerprint, write_body

numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
times = st.integers(0, 2 * 10**12) | st.floats(0, 2e12) | st.sampled_from(["2024-02-29T01:02:03.5Z", "2024-02-30", "2024"])
anything = st.none() | st.booleans() | numbers | st.text(max_size=3) | st.just([]) | st.just({"id": "x"})
ids = st.sampled_from(["u1", "ü", "", "x" * 1025]) | st.integers(0, 9)
labels = st.sampled_from([0, 1, True, False, 0.0, 1.0, 3, "buy", "view", "search"])


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that may lack any of these fields."""
    return st.fixed_dictionaries({}, optional={**fields, "other": anything})


records = objects(
    user=objects(id=ids | anything) | anything,
    item=ids | anything,
    label=labels | anything,
    ts=times | anything,
    event=ids | anything,
    n=st.integers(0, 9) | anything,
)
RULES = (
    LabelRule(field=("label",)),
    LabelRule(field=("label",), positive_above=0.5),
    LabelRule(field=("label",), positive=("buy",), negative=("view",)),
    LabelRule(field=("label",), positive=("buy",), negative=("view",), others="dead-letter"),
)
mappings = st.builds(
    lambda rule, unit, event, sequence: RecordMapping(
        user=("user", "id"),
        item=("item",),
        label=rule,
        unit=unit,
        timestamp=None if unit == "record" else ("ts",),
        id=("event",) if event else None,
        sequence=("n",) if sequence else None,
    ),
    st.sampled_from(RULES),
    st.sampled_from(["ms", "s", "us", "iso8601", "record"]),
    st.booleans(),
    st.booleans(),
)


def one_by_one(mapping: RecordMapping, found: list[Any], own_times: list[int]) -> Decoded:
    """What the rules of one record say of each."""
    rows, places, refused = [], [], []
    for place, (record, time) in enumerate(zip(found, own_times, strict=True)):
        try:
            row = row_of(mapping, record, time)
        except DecodeError as error:
            refused.append((place, error.reason, str(error)))
            continue
        if row is None:
            refused.append((place, SKIPPED, ""))
        else:
            rows.append(row)
            places.append(place)
    return Decoded(block_of(rows), np.array(places, np.int64), refused)


@given(mapping=mappings, found=st.lists(records, max_size=6), data=st.data())
def test_a_chunk_is_read_as_each_of_its_records(mapping: RecordMapping, found: list[Any], data: st.DataObject) -> None:
    own_times = data.draw(st.lists(st.integers(-1, 9), min_size=len(found), max_size=len(found)))
    wanted = one_by_one(mapping, json.loads(json.dumps(found)), own_times)
    values = [json.dumps(record).encode() for record in found]
    decoded = MappedDecoder(mapping, JsonFormat(mapping)).decode(values, lambda: np.array(own_times, np.int64))
    rows = range(len(decoded.block)) if decoded.rows is None else decoded.rows.tolist()
    assert list(rows) == wanted.rows.tolist()
    assert [tuple(r) for r in decoded.refused] == wanted.refused
    assert len(decoded.block) == 0 or decoded.block == wanted.block


CLICK = RecordMapping(user=("u",), item=("i",), label=LabelRule(field=("clicked",)), unit="ms", timestamp=("ts",))


@given(junk=st.lists(st.binary(max_size=12) | st.none(), max_size=5))
def test_any_bytes_give_a_verdict_and_disturb_nobody(junk: list[bytes | None]) -> None:
    good = b'{"u": "a", "i": 1, "clicked": 1, "ts": 5}'
    decoded = MappedDecoder(CLICK, JsonFormat(CLICK)).decode([*junk, good, *junk])
    assert len(decoded.block) == 1
    assert len(decoded.refused) == 2 * len(junk)
    assert {r.reason for r in decoded.refused} <= {"bad-json", "no-value", "wrong-type", "missing-field"}


def test_what_python_writes_for_nan_matters_only_where_it_is_read() -> None:
    values = [
        b'{"u": "a", "i": 1, "clicked": 1, "ts": 5, "other": NaN}',
        b'{"u": "a", "i": 1, "clicked": 1, "ts": NaN}',
        b'{"u": "a", "i": 1, "clicked": 1, "ts": 1e999}',
        b'{"u": "a", "i": 1, "clicked": 1, "ts": 5',
        b"[" * 100_000,
    ]
    decoded = MappedDecoder(CLICK, JsonFormat(CLICK)).decode(values)
    assert decoded.rows.tolist() == [0]
    assert [(r.row, r.reason) for r in decoded.refused] == [(1, "bad-value"), (2, "bad-value"), (3, "bad-json"), (4, "bad-json")]
    assert [r.detail for r in decoded.refused[:2]] == ["ts is not finite"] * 2


def test_names_that_are_no_identifiers_and_points_in_names() -> None:
    mapping = RecordMapping(
        user=("usér-id",), item=("a.b", "class"), label=LabelRule(field=("a.b", "f_0")), unit="s", timestamp=("a", "b", "from")
    )
    value = {"usér-id": 1, "a.b": {"class": "x", "f_0": 1}, "a": {"b": {"from": 2}}}
    decoded = MappedDecoder(mapping, JsonFormat(mapping)).decode([json.dumps(value).encode()])
    (interaction,) = decoded.block.interactions()
    assert interaction == ("1", "x", 1.0, 2000, None, None, None)


@pytest.mark.parametrize("key", ['a"b', "a\\b", "a\nb", "\x7f", "é b"])
def test_any_key_can_be_described(key: str) -> None:
    mapping = RecordMapping(user=(key, "id"), item=("i",), label=LabelRule(field=("l",)), unit="ms", timestamp=("ts",))
    found = [{key: {"id": "u"}, "i": 1, "l": 1, "ts": 5}, {"i": 1, "l": 1, "ts": 5}, {key: [], "i": 1, "l": 1, "ts": 5}]
    decoded = MappedDecoder(mapping, JsonFormat(mapping)).decode([*(json.dumps(record).encode() for record in found), None, b"{"])
    assert decoded.block.interactions() == [("u", "1", 1.0, 5, None, None, None)]
    assert [r.reason for r in decoded.refused] == ["missing-field", "wrong-type", "no-value", "bad-json"]


SCHEMA = {
    "type": "record",
    "name": "Click",
    "fields": [
        {"name": "user", "type": {"type": "record", "name": "User", "fields": [{"name": "id", "type": ["null", "long"]}]}},
        {"name": "item", "type": "string"},
        {"name": "clicked", "type": "boolean"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    ],
}
AVRO = RecordMapping(
    user=("user", "id"), item=("item",), label=LabelRule(field=("clicked",)), unit="us", timestamp=("at",), schema=json.dumps(SCHEMA)
)


def test_any_avro_record_by_its_schema() -> None:
    def encoded(prefix: bytes, user: int | None, clicked: bool) -> bytes:
        record = {"user": {"id": user}, "item": "x", "clicked": clicked, "at": 5_001}
        return write_body(prefix, fastavro.parse_schema(SCHEMA), record)

    values = [encoded(b"", 7, True), encoded(MAGIC + schema_fingerprint(SCHEMA), 8, False), encoded(b"", None, True), b"\x07", None]
    decoded = stream_decoder(StreamDescription(topics=("t",), format="avro", record=AVRO), None).decode(values)
    assert decoded.block.interactions() == [("7", "x", 1.0, 5, None, None, None), ("8", "x", 0.0, 5, None, None, None)]
    assert [(r.row, r.reason) for r in decoded.refused] == [(2, "missing-field"), (3, "bad-avro"), (4, "no-value")]
    assert decoded.refused[0].detail == "user.id is null"


def test_avro_without_schema_or_registry_is_refused_at_once() -> None:
    mapping = RecordMapping(user=("u",), item=("i",), label=LabelRule(field=("l",)), unit="record")
    with pytest.raises(ConfigurationError, match="needs to know the schema"):
        stream_decoder(StreamDescription(topics=("t",), format="avro", record=mapping), None)
