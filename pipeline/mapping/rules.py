"""One record, field by field: what is an interaction, and why another is none. `mapping.columns` agrees with it to the bit."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from autoemb_pipeline.errors import DecodeError
from autoemb_pipeline.mapping.description import LabelRule, Path, RecordMapping, Unit, dotted
from autoemb_pipeline.schemas.codec import MAX_ID_BYTES, MAX_SEQUENCE, MAX_TIMESTAMP

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
NUMBERS = frozenset((int, float))
NO_TIME = "the Kafka record has no timestamp"


class Row(NamedTuple):
    """An interaction as a description finds it. Ids are UTF-8; time is in ms since the epoch; sequence is -1 for none."""

    user: bytes
    item: bytes
    rating: float
    time: int
    sequence: int
    event: bytes | None


def row_of(mapping: RecordMapping, record: Any, time: int | None) -> Row | None:
    """The interaction that a record holds; None where the description leaves it out.

    Args:
        mapping: where its fields stand.
        record: objects as dicts.
        time: of the Kafka record, ms since the epoch; None or negative where it has none.

    Raises:
        DecodeError: ``missing-field``, ``wrong-type``, ``bad-value`` or ``unlisted-event``; the text names the path.
    """
    rating = rating_of(mapping.label, value_at(record, mapping.label.field))
    if rating is None:  # first: what is left out may lack all else
        return None
    user, item = (id_of(value_at(record, path), path) for path in (mapping.user, mapping.item))
    if mapping.timestamp is not None:
        event_time = time_of(value_at(record, mapping.timestamp), mapping.unit, mapping.timestamp)
    elif time is None or not 0 <= time <= MAX_TIMESTAMP:
        raise DecodeError("bad-value", NO_TIME)
    else:
        event_time = time
    sequence = -1 if mapping.sequence is None else sequence_of(value_at(record, mapping.sequence), mapping.sequence)
    event = None if mapping.id is None else id_of(value_at(record, mapping.id), mapping.id)
    return Row(user, item, rating, event_time, sequence, event)


def value_at(record: Any, path: Path) -> Any:
    """The value at a path.

    Raises:
        DecodeError: ``missing-field`` where it is not there or null, ``wrong-type`` where the path leads through what is no object.
    """
    for depth, key in enumerate(path):
        if not isinstance(record, Mapping):
            raise DecodeError("wrong-type", f"{dotted(path[:depth]) or 'the record'} is {kind_of(record)}, not an object with {key}")
        if key not in record:
            raise DecodeError("missing-field", f"{dotted(path[: depth + 1])} is missing")
        record = record[key]
        if record is None:
            raise DecodeError("missing-field", f"{dotted(path[: depth + 1])} is null")
    return record


def id_of(value: Any, path: Path) -> bytes:
    """An id's UTF-8; an integer's is that of its decimal digits. Raises DecodeError."""
    if type(value) is int:
        try:
            value = str(value)
        except ValueError as error:  # Python refuses to write thousands of digits
            raise DecodeError("bad-value", f"{dotted(path)} has too many digits for an id") from error
    elif not isinstance(value, str):
        raise DecodeError("wrong-type", f"{dotted(path)} is {kind_of(value)}, not an id: a text or an integer")
    try:
        encoded: bytes = value.encode()
    except UnicodeEncodeError as error:
        raise DecodeError("bad-value", f"{dotted(path)} is no valid Unicode") from error
    if not encoded:
        raise DecodeError("bad-value", f"{dotted(path)} is empty")
    if len(encoded) > MAX_ID_BYTES:
        raise DecodeError("bad-value", f"{dotted(path)} has {len(encoded)} bytes; at most {MAX_ID_BYTES} are allowed")
    return encoded


def time_of(value: Any, unit: Unit, path: Path) -> int:
    """An event time in ms since the epoch. Raises DecodeError."""
    if unit == "iso8601":
        if not isinstance(value, str):
            raise DecodeError("wrong-type", f"{dotted(path)} is {kind_of(value)}, not an ISO 8601 time")
        try:
            milliseconds = iso_milliseconds(value)
        except (ValueError, OverflowError) as error:
            raise DecodeError("bad-value", f"{dotted(path)} is {value[:64]!r}, not an ISO 8601 time") from error
    else:
        number = _number(value, path)
        milliseconds = milliseconds_of(number, unit)
    if not 0 <= milliseconds <= MAX_TIMESTAMP:
        raise DecodeError("bad-value", f"{dotted(path)} is {str(value)[:64]}, with unit {unit} not between 1970 and the year 9999")
    return milliseconds


def iso_milliseconds(text: str) -> int:
    """Milliseconds since the epoch; a time without an offset is UTC. Raises ValueError or OverflowError."""
    moment = datetime.fromisoformat(text)
    return (moment - _EPOCH if moment.tzinfo else moment.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND


def milliseconds_of(number: float, unit: Unit) -> int:
    """The same of a number of ms, s or µs. Seconds are rounded, since no double is exactly a number of ms; the others cut off."""
    if unit == "s":
        return number * 1000 if isinstance(number, int) else round(number * 1000) if abs(number) < MAX_TIMESTAMP else -1
    if unit == "us":
        return number // 1000 if isinstance(number, int) else math.floor(number / 1000)
    return math.floor(number)


def rating_of(rule: LabelRule, value: Any) -> float | None:
    """The label's number: 0 or 1, or that of a numeric label; None for an event that is skipped. Raises DecodeError."""
    path = rule.field
    if rule.positive:
        if not isinstance(value, str):
            raise DecodeError("wrong-type", f"{dotted(path)} is {kind_of(value)}, not a type of event")
        if value in rule.positive or value in rule.negative:
            return float(value in rule.positive)
        if rule.others == "skip":
            return None
        raise DecodeError("unlisted-event", f"{dotted(path)} is {value[:64]!r}, neither positive nor negative in the stream's description")
    if rule.is_number:
        return float(_number(value, path))
    if type(value) is not bool and type(value) not in NUMBERS:
        raise DecodeError("wrong-type", f"{dotted(path)} is {kind_of(value)}, neither 0 nor 1, false nor true")
    if value not in (0, 1):
        raise DecodeError("bad-value", f"{dotted(path)} is {str(value)[:64]}, neither 0 nor 1")
    return float(value)


def sequence_of(value: Any, path: Path) -> int:
    """A position in the stream. Raises DecodeError."""
    if type(value) is not int:
        raise DecodeError("wrong-type", f"{dotted(path)} is {kind_of(value)}, not an integer")
    if not 0 <= value <= MAX_SEQUENCE:
        raise DecodeError("bad-value", f"{dotted(path)} is no position: an integer from 0 on, of 63 bits")
    return value


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, Mapping):
        return "an object"
    return "bytes" if isinstance(value, bytes) else "a list"


def _number(value: Any, path: Path) -> float:
    if type(value) not in NUMBERS:
        raise DecodeError("wrong-type", f"{dotted(path)} is {kind_of(value)}, not a number")
    if not is_finite(value):
        raise DecodeError("bad-value", f"{dotted(path)} is not finite")
    return value  # type: ignore[no-any-return]  # an int or a float


def is_finite(number: float) -> bool:
    """Whether a double can hold it: false for NaN, for infinity, and for an integer beyond all doubles."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
