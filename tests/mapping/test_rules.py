"""What a record says by a description: every way to be no interaction names its path."""

from typing import Any

import pytest

from autoemb_pipeline.errors import DecodeError
from autoemb_pipeline.mapping.description import LabelRule, RecordMapping
from autoemb_pipeline.mapping.rules import row_of

CLICK = RecordMapping(
    user=("user", "id"), item=("payload", "item"), label=LabelRule(field=("clicked",)), unit="ms", timestamp=("ts",), id=("event",)
)
GOOD: dict[str, Any] = {"user": {"id": "u1"}, "payload": {"item": 17}, "clicked": True, "ts": 1_700_000_000_123, "event": "e1", "more": [1]}


def verdict(mapping: RecordMapping, record: Any, time: int | None = None) -> Any:
    try:
        return row_of(mapping, record, time)
    except DecodeError as error:
        return error.reason, str(error)


def test_a_record_becomes_an_interaction() -> None:
    assert verdict(CLICK, GOOD) == (b"u1", b"17", 1.0, 1_700_000_000_123, -1, b"e1")


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"user": {}}, "missing-field", "user.id is missing"),
        ({"user": {"id": None}}, "missing-field", "user.id is null"),
        ({"user": None}, "missing-field", "user is null"),
        ({"user": "u1"}, "wrong-type", "user is a text, not an object with id"),
        ({"user": [{"id": "u1"}]}, "wrong-type", "user is a list, not an object with id"),
        ({"user": {"id": 1.0}}, "wrong-type", "user.id is a number, not an id: a text or an integer"),
        ({"user": {"id": True}}, "wrong-type", "user.id is true or false, not an id: a text or an integer"),
        ({"user": {"id": ""}}, "bad-value", "user.id is empty"),
        ({"user": {"id": "x" * 1025}}, "bad-value", "user.id has 1025 bytes; at most 1024 are allowed"),
        ({"user": {"id": "\ud800"}}, "bad-value", "user.id is no valid Unicode"),
        ({"user": {"id": 10**5000}}, "bad-value", "user.id has too many digits for an id"),
        ({"payload": {"item": {}}}, "wrong-type", "payload.item is an object, not an id: a text or an integer"),
        ({"clicked": "yes"}, "wrong-type", "clicked is a text, neither 0 nor 1, false nor true"),
        ({"clicked": 2}, "bad-value", "clicked is 2, neither 0 nor 1"),
        ({"clicked": float("nan")}, "bad-value", "clicked is nan, neither 0 nor 1"),
        ({"ts": "soon"}, "wrong-type", "ts is a text, not a number"),
        ({"ts": float("inf")}, "bad-value", "ts is not finite"),
        ({"ts": -1}, "bad-value", "ts is -1, with unit ms not between 1970 and the year 9999"),
        ({"ts": 1_700_000_000_123_456}, "bad-value", "ts is 1700000000123456, with unit ms not between 1970 and the year 9999"),
        ({"event": False}, "wrong-type", "event is true or false, not an id: a text or an integer"),
    ],
)
def test_what_is_none_names_the_path(change: dict[str, Any], reason: str, detail: str) -> None:
    assert verdict(CLICK, {**GOOD, **change}) == (reason, detail)


def test_a_record_that_is_no_object_is_none() -> None:
    assert verdict(CLICK, [GOOD]) == ("wrong-type", "the record is a list, not an object with clicked")


@pytest.mark.parametrize(
    ("unit", "value", "milliseconds"),
    [
        ("s", 1_700_000_000, 1_700_000_000_000),
        ("s", 1_700_000_000.123, 1_700_000_000_123),
        ("ms", 1_700_000_000_123.9, 1_700_000_000_123),
        ("us", 1_700_000_000_123_999, 1_700_000_000_123),
        ("iso8601", "2023-11-14T22:13:20.123Z", 1_700_000_000_123),
        ("iso8601", "2023-11-14T22:13:20.123456", 1_700_000_000_123),
        ("iso8601", "2023-11-14T23:13:20.123+01:00", 1_700_000_000_123),
        ("iso8601", "2023-11-14", 1_699_920_000_000),
    ],
)
def test_times_in_every_unit(unit: Any, value: Any, milliseconds: int) -> None:
    mapping = RecordMapping(user=("u",), item=("i",), label=LabelRule(field=("l",)), unit=unit, timestamp=("ts",))
    assert verdict(mapping, {"u": 1, "i": 2, "l": 0, "ts": value}) == (b"1", b"2", 0.0, milliseconds, -1, None)


def test_the_records_own_time() -> None:
    mapping = RecordMapping(user=("u",), item=("i",), label=LabelRule(field=("l",)), unit="record", sequence=("n",))
    record = {"u": 1, "i": 2, "l": 1.0, "n": 5}
    assert verdict(mapping, record, 77) == (b"1", b"2", 1.0, 77, 5, None)
    assert verdict(mapping, record, None) == ("bad-value", "the Kafka record has no timestamp")
    assert verdict(mapping, record, -1) == ("bad-value", "the Kafka record has no timestamp")
    assert verdict(mapping, {**record, "n": -1}, 77)[0] == "bad-value"
    assert verdict(mapping, {**record, "n": 1.0}, 77) == ("wrong-type", "n is a number, not an integer")


def test_a_number_keeps_its_value_and_has_a_threshold() -> None:
    rule = LabelRule(field=("stars",), positive_above=3.5)
    mapping = RecordMapping(user=("u",), item=("i",), label=rule, unit="record")
    assert rule.threshold == 3.5
    assert verdict(mapping, {"u": "a", "i": "b", "stars": 4}, 9) == (b"a", b"b", 4.0, 9, -1, None)
    assert verdict(mapping, {"u": "a", "i": "b", "stars": True}, 9) == ("wrong-type", "stars is true or false, not a number")
    assert verdict(mapping, {"u": "a", "i": "b", "stars": 10**400}, 9) == ("bad-value", "stars is not finite")


def test_types_of_events_and_what_is_left_out() -> None:
    rule = LabelRule(field=("type",), positive=("buy", "click"), negative=("view",))
    mapping = RecordMapping(user=("u",), item=("i",), label=rule, unit="record")
    ratings = [verdict(mapping, {"u": "a", "i": "b", "type": kind}, 9).rating for kind in ("buy", "click", "view")]
    assert ratings == [1.0, 1.0, 0.0]
    assert verdict(mapping, {"type": "search"}, 9) is None  # what is left out may lack all else
    strict = RecordMapping(user=("u",), item=("i",), label=LabelRule(**{**_fields(rule), "others": "dead-letter"}), unit="record")
    assert verdict(strict, {"type": "search"}, 9) == (
        "unlisted-event",
        "type is 'search', neither positive nor negative in the stream's description",
    )
    assert verdict(mapping, {"u": "a", "i": "b", "type": 3}, 9) == ("wrong-type", "type is a number, not a type of event")


def _fields(rule: LabelRule) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in rule.__dataclass_fields__}
