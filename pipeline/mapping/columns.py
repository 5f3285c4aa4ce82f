"""A chunk's fields in columns, checked all at once; what is not plain is left to `mapping.rules`, row by row.

Every function gives a column and which of its rows are plain: the others hold a filler. A row is plain or not whatever stands beside it,
and of a plain one the value is that of `mapping.rules`, to the bit; a test holds the two to each other.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.columns import NONE, Block, Integers, Texts
from autoemb_pipeline.kernels.texts import hashes_of
from autoemb_pipeline.mapping.description import LabelRule, RecordMapping, Unit
from autoemb_pipeline.mapping.rules import NUMBERS, Row, iso_milliseconds
from autoemb_pipeline.records import FloatArray
from autoemb_pipeline.schemas.codec import MAX_ID_BYTES, MAX_SEQUENCE, MAX_TIMESTAMP

Flags = NDArray[np.bool_]
Column = Sequence[Any]
_IDS = frozenset((str, int))
_FLAGS = frozenset((bool, int, float))


class Fields(NamedTuple):
    """The described fields of n records, as they were found; None for one that the description does not have."""

    user: Column
    item: Column
    label: Column
    time: Column | None
    id: Column | None
    sequence: Column | None


class Columns(NamedTuple):
    """The same, checked.

    Attributes:
        block: n rows; of those that are not plain, fillers.
        plain: [n] which are interactions as they stand.
        skipped: [n] which the description leaves out.
    """

    block: Block
    plain: Flags
    skipped: Flags


def columns_of(mapping: RecordMapping, fields: Fields, times: Integers | None) -> Columns:
    """The columns of n records.

    Args:
        mapping: the description.
        fields: n values each; a value that is not there may be anything that is no value of the field's type.
        times: [n] of the Kafka records, where these are the event times.
    """
    rating, plain, skipped = _ratings(mapping.label, fields.label)
    user, user_plain = _ids(fields.user)
    item, item_plain = _ids(fields.item)
    if fields.time is None:
        time, time_plain = _in_range(np.full(len(rating), -1, np.int64) if times is None else times, plain)
    else:
        time, time_plain = _times(fields.time, mapping.unit)
    plain &= user_plain & item_plain & time_plain
    sequence = np.full(len(rating), NONE, np.int64)
    if fields.sequence is not None:
        sequence, sequence_plain = _in_range(*_integers(fields.sequence), most=MAX_SEQUENCE)
        plain &= sequence_plain
    event = None
    if fields.id is not None:
        ids, ids_plain = _ids(fields.id)
        event = hashes_of(ids.data, ids.bounds)
        plain &= ids_plain
    return Columns(_block(user, item, rating, time, sequence, event), plain & ~skipped, skipped)


def block_of(rows: Sequence[Row]) -> Block:
    """The block of rows that were read one by one."""
    user, item, rating, time, sequence, event = zip(*rows, strict=True) if rows else ((),) * len(Row._fields)
    events = None
    if rows and event[0] is not None:
        ids = Texts.of(event)
        events = hashes_of(ids.data, ids.bounds)
    return _block(
        Texts.of(user),
        Texts.of(item),
        np.array(rating, np.float64),
        np.array(time, np.int64),
        np.array(sequence, np.int64),
        events,
    )


def _block(user: Texts, item: Texts, rating: FloatArray, time: Integers, sequence: Integers, event: Integers | None) -> Block:
    count = len(rating)
    nowhere = np.zeros(count, np.int64)
    dataset = np.full(count, NONE, np.int64)
    return Block((user, item), rating, time, sequence, dataset, (), nowhere, nowhere, np.zeros(count, np.int8), event)


def _of_types(column: Column, types: AbstractSet[type], filler: Any) -> tuple[Column, Flags]:
    """Values of other types replaced."""
    if set(map(type, column)) <= types:
        return column, np.ones(len(column), np.bool_)
    plain = np.fromiter((type(value) in types for value in column), np.bool_, len(column))
    return [value if good else filler for value, good in zip(column, plain.tolist(), strict=True)], plain


def _each(column: Column, change: Callable[[Any], Any], filler: Any) -> tuple[list[Any], Flags]:
    """``change`` of every value; the filler where it raises ValueError or OverflowError."""
    try:
        return list(map(change, column)), np.ones(len(column), np.bool_)
    except (ValueError, OverflowError):
        changed, plain = [], np.ones(len(column), np.bool_)
        for place, value in enumerate(column):
            try:
                changed.append(change(value))
            except (ValueError, OverflowError):
                changed.append(filler)
                plain[place] = False
        return changed, plain


def _ids(column: Column) -> tuple[Texts, Flags]:
    sound, plain = _of_types(column, _IDS, "")
    if set(map(type, sound)) != {str}:
        sound, written = _each(sound, str, "")
        plain &= written
    encoded, valid = _each(sound, str.encode, b"")
    texts = Texts.of(encoded)
    lengths = np.diff(texts.bounds)
    return texts, plain & valid & (lengths > 0) & (lengths <= MAX_ID_BYTES)


def _in_range(column: Integers, plain: Flags, *, most: int = MAX_TIMESTAMP) -> tuple[Integers, Flags]:
    fits = (column >= 0) & (column <= most)
    return np.where(fits, column, 0), fits & plain


def _integers(column: Column) -> tuple[Integers, Flags]:
    """-1 for what is no integer of 64 bits."""
    sound, plain = _of_types(column, {int}, -1)
    try:
        return np.array(sound, np.int64), plain
    except OverflowError:
        fits = [value if -(2**63) <= value < 2**63 else -1 for value in sound]
        return np.array(fits, np.int64), plain & (np.array(fits, object) == np.array(sound, object)).astype(np.bool_)


def _times(column: Column, unit: Unit) -> tuple[Integers, Flags]:
    if unit == "iso8601":
        sound, typed = _of_types(column, {str}, "")
        milliseconds, valid = _each(sound, iso_milliseconds, -1)
        return _in_range(np.array(milliseconds, np.int64), typed & valid)
    kinds = set(map(type, column))
    if kinds == {int}:
        return _in_range(*_milliseconds(*_integers(column), unit))
    if kinds == {float}:
        return _float_times(np.array(column, np.float64), unit)
    # An integer is exact and a double is not: each is read as what it is, whatever stands beside it.
    plain = np.fromiter((type(value) in NUMBERS for value in column), np.bool_, len(column))
    is_float = np.fromiter((type(value) is float for value in column), np.bool_, len(column))
    whole, whole_plain = _in_range(*_milliseconds(*_integers([v if type(v) is int else 0 for v in column]), unit))
    parts, part_plain = _float_times(np.array([v if type(v) is float else 0.0 for v in column], np.float64), unit)
    return np.where(is_float, parts, whole), plain & np.where(is_float, part_plain, whole_plain)


def _milliseconds(column: Integers, plain: Flags, unit: Unit) -> tuple[Integers, Flags]:
    if unit == "s":
        fits = (column >= 0) & (column <= MAX_TIMESTAMP // 1000)
        return np.where(fits, column, 0) * 1000, plain & fits
    return column // 1000 if unit == "us" else column, plain


def _float_times(column: FloatArray, unit: Unit) -> tuple[Integers, Flags]:
    limit = {"s": MAX_TIMESTAMP / 1000, "ms": MAX_TIMESTAMP, "us": MAX_TIMESTAMP * 1000}[unit]
    fits = (column >= 0) & (column <= limit)  # false for NaN
    sound = np.where(fits, column, 0.0)
    milliseconds = np.rint(sound * 1000) if unit == "s" else np.floor(sound / 1000 if unit == "us" else sound)
    return _in_range(milliseconds.astype(np.int64), fits)


def _ratings(rule: LabelRule, column: Column) -> tuple[FloatArray, Flags, Flags]:
    """Ratings, which are plain, which are skipped."""
    none_skipped = np.zeros(len(column), np.bool_)
    if rule.positive:
        sound, plain = _of_types(column, {str}, rule.positive[0])
        known = dict.fromkeys(rule.positive, 1.0) | dict.fromkeys(rule.negative, 0.0)
        rating = np.array([known.get(value, np.nan) for value in sound])
        unlisted = np.isnan(rating)
        return rating, plain & ~unlisted, unlisted if rule.others == "skip" else none_skipped
    sound, plain = _of_types(column, NUMBERS if rule.is_number else _FLAGS, 0)
    numbers, fits = _each(sound, float, 0.0)
    rating = np.array(numbers, np.float64)
    allowed = np.isfinite(rating) if rule.is_number else (rating == 0) | (rating == 1)
    return rating, plain & fits & allowed, none_skipped
