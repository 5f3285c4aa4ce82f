"""The interaction codec: round trips, hostile bytes, evolution, and the format against the specification's own algorithm."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline import schemas
from autoemb_pipeline.errors import DecodeError
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.avro import load_schema, schema_fingerprint
from autoemb_pipeline.schemas.codec import MAX_TIMESTAMP, InteractionCodec, decode_interaction, encode_interaction
from tests.strategies import interactions

REASONS = {"empty", "bad-magic", "unknown-schema", "bad-avro", "trailing-bytes", "bad-value"}
VALID = Interaction("7", "42", 3.5, 1_000, "ml", 9)


def crc_64_avro(data: bytes) -> int:
    """The specification's algorithm ("Schema Fingerprints"), bit by bit."""
    empty = 0xC15D213AA4D7A795
    fingerprint = empty
    for byte in data:
        fingerprint ^= byte
        for _ in range(8):
            fingerprint = (fingerprint >> 1) ^ (empty if fingerprint & 1 else 0)
    return fingerprint


CANONICAL = (
    '{"name":"autoemb.Interaction","type":"record","fields":[{"name":"user_id","type":"string"},{"name":"item_id","type":"string"},'
    '{"name":"rating","type":"double"},{"name":"timestamp","type":"long"},{"name":"dataset","type":["null","string"]},'
    '{"name":"sequence","type":["null","long"]},{"name":"features","type":["null",{"type":"map","values":"double"}]}]}'
)


def long(value: int) -> bytes:
    """The specification's zig-zag variable-length coding."""
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def string(value: str) -> bytes:
    return long(len(value.encode())) + value.encode()


def by_hand(interaction: Interaction) -> bytes:
    """The message as the specification spells it, without any Avro library."""
    i = interaction
    out = b"\xc3\x01" + crc_64_avro(CANONICAL.encode()).to_bytes(8, "little")
    out += string(i.user_id) + string(i.item_id) + struct.pack("<d", i.rating) + long(i.timestamp)
    out += long(0) if i.dataset is None else long(1) + string(i.dataset)
    out += long(0) if i.sequence is None else long(1) + long(i.sequence)
    if i.features is None:
        return out + long(0)
    entries = b"".join(string(name) + struct.pack("<d", value) for name, value in i.features.items())
    return out + long(1) + (long(len(i.features)) + entries if i.features else b"") + long(0)


@pytest.mark.parametrize(
    ("canonical", "answer"),
    [  # Apache Avro, share/test/data/schema-tests.txt
        ('"null"', 7195948357588979594),
        ('"boolean"', -6970731678124411036),
        ('"int"', 8247732601305521295),
        ('"string"', -8142146995180207161),
        ('{"name":"foo","type":"fixed","size":15}', 1756455273707447556),
    ],
)
def test_fingerprints_have_the_published_values(canonical: str, answer: int) -> None:
    assert crc_64_avro(canonical.encode()) == answer % 2**64
    assert schema_fingerprint(json.loads(canonical)) == (answer % 2**64).to_bytes(8, "little")


def test_the_interaction_schema_has_the_fingerprint_of_its_canonical_form() -> None:
    assert schema_fingerprint(load_schema("interaction")) == crc_64_avro(CANONICAL.encode()).to_bytes(8, "little")


@given(interactions)
def test_bytes_are_those_of_the_specification_and_come_back(interaction: Interaction) -> None:
    payload = encode_interaction(interaction)
    assert payload == by_hand(interaction)
    assert decode_interaction(payload) == interaction


def refused(payload: bytes | None) -> str:
    with pytest.raises(DecodeError) as caught:
        decode_interaction(payload)
    assert caught.value.reason in REASONS
    assert caught.value.what
    return caught.value.reason


def decodes_or_is_refused(payload: bytes) -> None:
    reason, decoded = None, None
    try:
        decoded = decode_interaction(payload)
    except DecodeError as error:
        reason = error.reason
    assert decoded is None or decode_interaction(encode_interaction(decoded)) == decoded
    assert decoded or reason in REASONS


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise_anything_else(payload: bytes) -> None:
    decodes_or_is_refused(payload)
    decodes_or_is_refused(encode_interaction(VALID)[:10] + payload)


@given(interactions, st.data())
def test_every_truncation_is_refused(interaction: Interaction, data: st.DataObject) -> None:
    payload = encode_interaction(interaction)
    length = data.draw(st.integers(0, len(payload) - 1))
    expected = {"empty"} if length == 0 else {"bad-magic"} if length < 10 else {"bad-avro"}
    assert refused(payload[:length]) in expected


@given(interactions, st.data())
def test_mutated_messages_decode_or_are_refused(interaction: Interaction, data: st.DataObject) -> None:
    payload = bytearray(encode_interaction(interaction))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_is_refused(bytes(payload))


@given(interactions, st.binary(min_size=1, max_size=5))
def test_trailing_bytes_are_refused(interaction: Interaction, tail: bytes) -> None:
    assert refused(encode_interaction(interaction) + tail) == "trailing-bytes"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"not avro at all", "bad-magic"),
        (b'{"user_id": "1"}', "bad-magic"),
        (b"\xc3\x01", "bad-magic"),
        (b"\xc3\x01" + bytes(8) + b"rest", "unknown-schema"),
        (by_hand(VALID)[:10] + long(2**62) + b"x", "bad-avro"),
        (by_hand(VALID)[:10] + long(-5) + b"x" * 40, "bad-avro"),
        (by_hand(VALID)[:10] + long(2) + b"\xff\xfe" + by_hand(VALID)[12:], "bad-avro"),
    ],
)
def test_reasons(payload: bytes | None, reason: str) -> None:
    assert refused(payload) == reason


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"rating": float("nan")}, "rating"),
        ({"rating": float("-inf")}, "rating"),
        ({"user_id": ""}, "user_id"),
        ({"item_id": ""}, "item_id"),
        ({"user_id": "x" * 1025}, "user_id"),
        ({"item_id": "\N{SNOWMAN}" * 342}, "item_id"),
        ({"dataset": "d" * 1025}, "dataset"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": MAX_TIMESTAMP + 1}, "timestamp"),
        ({"timestamp": 1_600_000_000_000_000}, "timestamp"),  # microseconds
        ({"sequence": -1}, "sequence"),
        ({"features": {"price": float("inf")}}, "price"),
    ],
)
def test_values_out_of_range_are_refused_both_ways(changed: dict, names: str) -> None:
    interaction = VALID._replace(**changed)
    with pytest.raises(DecodeError, match=names) as read:
        decode_interaction(by_hand(interaction))
    with pytest.raises(DecodeError, match=names) as written:
        encode_interaction(interaction)
    assert (read.value.reason, written.value.reason) == ("bad-value", "bad-value")


@pytest.mark.parametrize("changed", [{"user_id": "\ud800"}, {"user_id": None}, {"rating": "4"}, {"sequence": "1"}])
def test_what_is_no_interaction_is_not_written(changed: dict) -> None:
    with pytest.raises(DecodeError) as caught:
        encode_interaction(VALID._replace(**changed))
    assert caught.value.reason == "bad-value"


def test_ids_of_exactly_a_kibibyte_pass() -> None:
    for user_id in ("x" * 1024, "\N{SNOWMAN}" * 341 + "x"):
        assert decode_interaction(encode_interaction(VALID._replace(user_id=user_id))).user_id == user_id


def variant(**changes: object) -> dict:
    """interaction.avsc without the fields mapped to None, with the others added or replaced."""
    schema = json.loads(Path(schemas.__file__).with_name("interaction.avsc").read_text(encoding="utf-8"))
    fields = {field["name"]: field for field in schema["fields"]} | changes
    return schema | {"fields": [field for field in fields.values() if field]}


def single_object(schema: dict, body: bytes) -> bytes:
    return b"\xc3\x01" + schema_fingerprint(schema) + body


def test_older_and_newer_writers_resolve_to_the_current_schema() -> None:
    older = variant(features=None, sequence=None)
    newer = variant(rating={"name": "rating", "type": "float"}, device={"name": "device", "type": "string", "default": ""})
    codec = InteractionCodec(writers=[older, newer])
    head = string("7") + string("42")
    old = single_object(older, head + struct.pack("<d", 3.5) + long(1_000) + long(1) + string("ml"))
    new = single_object(
        newer, head + struct.pack("<f", 3.5) + long(1_000) + long(1) + string("ml") + long(1) + long(9) + long(0) + string("tv")
    )
    assert codec.decode(old) == VALID._replace(sequence=None)
    assert codec.decode(new) == VALID
    assert codec.decode(codec.encode(VALID)) == VALID
    for payload in (old, new):
        assert refused(payload) == "unknown-schema"


def test_a_writer_that_lacks_a_required_field_is_refused() -> None:
    foreign = variant(rating=None)
    with pytest.raises(DecodeError) as caught:
        InteractionCodec(writers=[foreign]).decode(single_object(foreign, string("7") + string("42") + long(1_000) + long(0) * 3))
    assert caught.value.reason == "unknown-schema"
