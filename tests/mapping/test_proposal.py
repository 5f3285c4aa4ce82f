"""What is proposed for a topic, and what a survey says of a description."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.mapping.decoder import stream_decoder
from autoemb_pipeline.mapping.proposal import propose
from autoemb_pipeline.mapping.reading import parse_stream
from autoemb_pipeline.mapping.sample import Sampled
from autoemb_pipeline.mapping.survey import report, survey
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.codec import encode_interaction

NOW = 1_700_000_100_000


def values_of(record: Callable[[int], dict[str, Any]], count: int = 300) -> list[bytes | None]:
    return [json.dumps(record(n)).encode() for n in range(count)]


USUAL: dict[str, tuple[Callable[[int], dict[str, Any]], tuple[Any, ...]]] = {
    "nested clicks": (
        lambda n: {
            "ts": 1_700_000_000_000 + n,
            "user": {"id": n % 9},
            "payload": {"item": f"i{n % 7}"},
            "clicked": n % 3 == 0,
            "id": f"e{n}",
        },
        (("user", "id"), ("payload", "item"), ("ts",), "ms", ("id",), 0.5),
    ),
    "snake case in seconds": (
        lambda n: {"user_id": f"u{n % 9}", "item_id": n % 7, "event_time": 1_700_000_000 + n / 2, "label": n % 2},
        (("user_id",), ("item_id",), ("event_time",), "s", None, 0.5),
    ),
    "camel case in ISO 8601": (
        lambda n: {"userId": n % 9, "movieId": n % 7, "rating": n % 11 / 2, "createdAt": f"2024-01-01T00:{n % 60:02}:00Z"},
        (("userId",), ("movieId",), ("createdAt",), "iso8601", None, 3.5),
    ),
    "microseconds in a wrapper": (
        lambda n: {"event": {"User-Id": n % 9, "ProductID": n % 7, "Timestamp": 1_700_000_000_000_000 + n, "converted": n % 2}},
        (("event", "User-Id"), ("event", "ProductID"), ("event", "Timestamp"), "us", None, 0.5),
    ),
    "no time": (lambda n: {"uid": n % 9, "sku": f"s{n % 7}", "stars": n % 6}, (("uid",), ("sku",), None, "record", None, 3.5)),
    "types of events, of which others lack the item": (
        lambda n: (
            {"visitorid": n % 9, "timestamp": 10**12 + n, "event": ["view", "transaction", "search"][n % 3]}
            | ({} if n % 3 == 2 else {"itemid": n % 7})
        ),
        (("visitorid",), ("itemid",), ("timestamp",), "ms", None, 0.5),
    ),
}


@pytest.mark.parametrize("name", USUAL)
def test_usual_names_need_no_edit(name: str) -> None:
    record, (user, item, time, unit, event, threshold) = USUAL[name]
    found = propose(["t"], values_of(record))
    assert found.missing == ()
    stream = parse_stream(found.text)
    mapping = stream.record
    assert mapping is not None
    assert (mapping.user, mapping.item, mapping.timestamp, mapping.unit, mapping.id) == (user, item, time, unit, event)
    assert mapping.label.threshold == threshold
    values = values_of(record)
    looked = survey(stream, stream_decoder(stream, None), [Sampled("t", 0, values, [NOW] * len(values))], now=NOW)
    assert looked.refused == {}
    assert len(looked.block) + looked.skipped == len(values)


def test_what_is_not_recognised_is_left_to_the_user() -> None:
    found = propose(["t"], values_of(lambda n: {"who": n % 9, "what": "x", "ts": 10**12 + n}))
    assert found.missing == ("fields.user", "fields.item", "label.field")
    assert '"who", "what"' in found.text
    with pytest.raises(ConfigurationError, match=r"\[fields\] lacks user"):
        parse_stream(found.text)


def test_the_weakest_of_positive_types_is_the_negative_one_where_none_is_written() -> None:
    found = propose(["t"], values_of(lambda n: {"uid": n % 9, "item": 1, "type": ["click", "buy"][n % 2]}))
    label = parse_stream(found.text).record.label
    assert (label.positive, label.negative) == (("buy",), ("click",))
    alone = propose(["t"], values_of(lambda n: {"uid": n % 9, "item": 1, "type": "buy"}))
    assert alone.missing == ("label.field",)


def test_this_projects_own_records_are_told_apart() -> None:
    values = [encode_interaction(Interaction(f"u{n}", "i", 4.0, 10**12 + n)) for n in range(50)]
    assert parse_stream(propose(["t"], values).text).format == "autoemb"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([b"a,b,c"] * 9, "cannot be read as JSON objects"),
        ([b"\x00\x00\x00\x00\x07abc"] * 9, "registry's wire format"),
        ([b"\xc3\x01" + bytes(20)] * 9, "Avro of a schema that is not known"),
        ([None, b"", None], "The newest records of t hold no value"),
    ],
)
def test_what_cannot_be_described_is_said(values: list[bytes | None], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        propose(["t"], values)


def test_a_topic_is_looked_at_as_train_reads_it() -> None:
    values = values_of(lambda n: {"uid": n % 9, "item": 1, "clicked": n % 2, "price": float("nan")})
    assert propose(["t"], values).missing == ()


@pytest.mark.parametrize("rating", [float("inf"), float("nan"), 10**400], ids=["infinity", "NaN", "more than a double holds"])
def test_numbers_that_no_label_can_be_do_not_make_the_threshold(rating: float) -> None:
    few = propose(["t"], values_of(lambda n: {"uid": n % 9, "item": 1, "rating": rating if n % 20 == 0 else n % 6}))
    assert parse_stream(few.text).record.label.threshold == 3.5
    assert propose(["t"], values_of(lambda _: {"uid": 1, "item": 1, "rating": rating})).missing == ("label.field",)


def test_a_threshold_is_written_as_it_is() -> None:
    found = propose(["t"], values_of(lambda n: {"uid": n % 9, "item": 1, "score": 1_234_567.25 * (n % 4)}))
    assert parse_stream(found.text).record.label.threshold == 2_469_134.5


def test_a_field_that_no_path_can_name_is_not_proposed() -> None:
    found = propose(["t"], values_of(lambda n: {"": {"user_id": n % 9}, "item": 1, "clicked": n % 2}))
    assert found.missing == ("fields.user",)
    assert ".user_id" not in found.text


@given(st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=4) | st.integers() | st.none(), max_size=4), min_size=1, max_size=5))
def test_whatever_records_hold_the_proposal_is_toml(records: list[dict[str, Any]]) -> None:
    values: list[bytes | None] = [json.dumps({"uid": 1, "item": 2, "clicked": n % 2, **r}).encode() for n, r in enumerate(records)]
    found = propose(["t"], values)
    if not found.missing:
        parse_stream(found.text.encode(errors="replace").decode())


def test_a_survey_says_what_is_wrong_and_what_mends_it() -> None:
    stream = parse_stream('[input]\ntopics = "t"\nformat = "json"\n[fields]\nuser = "u"\nitem = "i"\nid = "e"\n[timestamp]\nfield = "ts"\nunit = "ms"\n[label]\nfield = "l"')  # fmt: skip

    def value(n: int, **changes: Any) -> bytes:
        return json.dumps({"u": n, "i": n % 5, "e": n % 150, "ts": NOW - 1000 * (n % 100), "l": 1, **changes}).encode()

    values: list[bytes | None] = [value(n) for n in range(200)]
    values += [value(1, i=None), value(2, i=None), b"nope", value(3, ts=NOW + 7_200_000)]
    looked = survey(stream, stream_decoder(stream, None), [Sampled("t", 0, values, [0] * len(values))], now=NOW)
    lines = "\n".join(report(looked))
    assert lines.startswith("204 records: 201 usable (98.5%), 0 left out by the description\n  2 missing-field: i is null\n    → ")
    assert "1 bad-json: not JSON" in lines
    assert "100.0% positive\n    → nothing can be learnt from one class" in lines
    assert "→ nearly every record has a user of its own" in lines
    assert "51 events were sent again" in lines
    assert "lie before an earlier one of their partition, by 99.0 s at most" in lines
    assert "1 records lie more than an hour ahead of the clock" in lines


def test_a_survey_of_nothing_usable() -> None:
    stream = parse_stream('[input]\ntopics = "t"\nformat = "json"\n[fields]\nuser = "u"\nitem = "i"\n[timestamp]\nunit = "record"\n[label]\nfield = "l"')  # fmt: skip
    looked = survey(stream, stream_decoder(stream, None), [Sampled("t", 0, [b"{}"], [0])], now=NOW)
    assert [*report(looked)][-1].startswith("nothing to train on")
