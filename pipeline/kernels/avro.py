"""Kernels that read and write the Avro body of ``schemas/interaction.avsc`` (Avro 1.12 specification, "Binary Encoding").

Reading is strict and small: a record that is not of the plain shape is only named as such, and the caller asks the general decoder for its
verdict. So whatever is read here must be what the general decoder reads; what is not read here costs time and nothing else.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import helper, kernel
from autoemb_pipeline.kernels.texts import is_utf8, same

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Bits = NDArray[np.uint64]

MAX_DATASETS = 64  # distinct dataset names in one call; a record with a further one is not plain

_ONE, _SEVEN = np.uint64(1), np.uint64(7)
_LOW_SEVEN = np.uint64(0x7F)
_MOST_SHIFT = np.uint64(63)  # the tenth byte of a variable-length integer holds one bit
_BYTE = np.uint64(8)
_FRACTION_BITS = np.uint64(52)
_EXPONENT = np.uint64(0x7FF)  # all ones: infinite or not a number
_NULL, _VALUE = np.uint64(0), np.uint64(2)  # zig-zag branches 0 and 1 of a nullable field


@helper
def _read(data: Bytes, place: int, stop: int) -> tuple[Any, int]:
    """(the zig-zag number, unsigned; the place behind it, -1 where it is cut off or over 64 bits)."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while place < stop:
        byte = np.uint64(data[place])
        place += 1
        if shift == _MOST_SHIFT and byte > _ONE:
            return value, -1
        value |= (byte & _LOW_SEVEN) << shift
        if byte <= _LOW_SEVEN:
            return value, place
        shift += _SEVEN
    return value, -1


@helper
def _read_text(data: Bytes, place: int, stop: int, most: int) -> tuple[int, Any]:
    """(start, stop) of a string of at most ``most`` bytes of UTF-8; stop is -1 where there is none."""
    raw, place = _read(data, place, stop)
    if place < 0 or raw & _ONE or raw >> _ONE > np.uint64(most):
        return place, -1
    end: Any = place + np.int64(raw >> _ONE)
    if end > stop or not is_utf8(data, place, end):
        return place, -1
    return place, end


@helper
def _body(data: Bytes, bounds: Integers, row: int, headers: Bytes, header_bounds: Integers) -> Any:
    """The place behind the record's header; -1 where it has none of the headers."""
    start, length = bounds[row], bounds[row + 1] - bounds[row]
    for k in range(len(header_bounds) - 1):
        size = header_bounds[k + 1] - header_bounds[k]
        if size <= length and same(data, start, size, headers, header_bounds[k]):
            return start + size
    return -1


@helper
def _dataset_code(data: Bytes, start: int, length: int, starts: Integers, lengths: Integers, known: int, guess: int) -> int:
    """The number of a name among those known, ``known`` for a new one."""
    if guess >= 0 and lengths[guess] == length and same(data, start, length, data, starts[guess]):
        return guess
    for code in range(known):
        if lengths[code] == length and same(data, start, length, data, starts[code]):
            return code
    return known


@helper
def _read_nullable_text(data: Bytes, place: int, stop: int, most: int) -> tuple[int, int, int]:
    """(start, stop, place behind) of a nullable string: stop is -1 for null, the place behind is -1 for no such thing."""
    branch, place = _read(data, place, stop)
    if place < 0 or branch == _NULL:
        return place, -1, place
    if branch != _VALUE:
        return place, -1, -1
    start, end = _read_text(data, place, stop, most)
    return start, end, end


@helper
def _read_nullable_position(data: Bytes, place: int, stop: int) -> tuple[Any, int]:
    """(a nullable long of at least 0, -1 for null; place behind or -1)."""
    branch, place = _read(data, place, stop)
    if place < 0 or branch == _NULL:
        return -1, place
    number, place = _read(data, place, stop)
    if branch != _VALUE or number & _ONE:
        return -1, -1
    return np.int64(number >> _ONE), place


@helper
def _read_rating(data: Bytes, place: int, stop: int) -> tuple[Any, int]:
    """(the bits of a finite double; place behind or -1)."""
    bits = np.uint64(0)
    if place + 8 > stop:
        return bits, -1
    for k in range(8):
        bits |= np.uint64(data[place + k]) << (_BYTE * np.uint64(k))
    if bits >> _FRACTION_BITS & _EXPONENT == _EXPONENT:
        return bits, -1
    return bits, place + 8


@kernel
def decode_interactions(
    data: Bytes, bounds: Integers, headers: Bytes, header_bounds: Integers, max_id_bytes: int, max_timestamp: int
) -> tuple[Any, ...]:
    """The plain records among ``data[bounds[i]:bounds[i + 1]]``, in columns.

    Plain: one of the headers, then a valid record of the schema without features, and nothing behind it.

    Args:
        data, bounds: n values one behind the other.
        headers, header_bounds: what a record of this very schema begins with, one behind the other.
        max_id_bytes: of an id and of a dataset's name.
        max_timestamp: greatest valid event time, ms.

    Returns:
        plain: bool [n]. The other columns have one row per plain record:
        users, user_bounds, items, item_bounds: the ids' UTF-8.
        rating: the bits of a float64 (uint64). time: ms. sequence: -1 for none.
        dataset: number of the name in the next two, by first occurrence; -1 for none.
        dataset_starts, dataset_stops: the distinct names, as places in ``data``.
    """
    count = len(bounds) - 1
    plain = np.zeros(count, np.bool_)
    users, items = np.empty(len(data), np.uint8), np.empty(len(data), np.uint8)
    user_bounds, item_bounds = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    rating = np.empty(count, np.uint64)
    time, sequence, dataset = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    starts, lengths = np.empty(MAX_DATASETS, np.int64), np.empty(MAX_DATASETS, np.int64)
    known, code, rows = 0, -1, 0
    for row in range(count):
        stop = bounds[row + 1]
        place = _body(data, bounds, row, headers, header_bounds)
        if place < 0:
            continue
        user, user_end = _read_text(data, place, stop, max_id_bytes)
        if user_end <= user:
            continue
        item, item_end = _read_text(data, user_end, stop, max_id_bytes)
        if item_end <= item:
            continue
        rating[rows], place = _read_rating(data, item_end, stop)
        if place < 0:
            continue
        raw, place = _read(data, place, stop)
        if place < 0 or raw & _ONE or raw >> _ONE > np.uint64(max_timestamp):
            continue
        name, name_end, place = _read_nullable_text(data, place, stop, max_id_bytes)
        if place < 0:
            continue
        position, place = _read_nullable_position(data, place, stop)
        if place < 0:
            continue
        features, place = _read(data, place, stop)
        if place != stop or features != _NULL:
            continue
        dataset[rows] = -1
        if name_end >= 0:
            present = _dataset_code(data, name, name_end - name, starts, lengths, known, code)
            if present == MAX_DATASETS:
                continue
            if present == known:
                starts[known], lengths[known] = name, name_end - name
                known += 1
            code = dataset[rows] = present
        plain[row] = True
        time[rows], sequence[rows] = np.int64(raw >> _ONE), position
        user_bounds[rows + 1] = _copy(data, user, user_end, users, user_bounds[rows])
        item_bounds[rows + 1] = _copy(data, item, item_end, items, item_bounds[rows])
        rows += 1
    return (
        plain,
        users[: user_bounds[rows]].copy(),
        user_bounds[: rows + 1],
        items[: item_bounds[rows]].copy(),
        item_bounds[: rows + 1],
        rating[:rows],
        time[:rows],
        sequence[:rows],
        dataset[:rows],
        starts[:known],
        starts[:known] + lengths[:known],
    )


@helper
def _copy(data: Bytes, start: int, stop: int, out: Bytes, place: int) -> int:
    """Copies ``data[start:stop]`` to ``out[at:]``; returns the place behind."""
    for k in range(stop - start):
        out[place + k] = data[start + k]
    return place + stop - start


@helper
def _write(out: Bytes, place: int, value: int) -> int:
    """Writes a number of at least 0; returns the place behind it."""
    rest = np.uint64(value) << _ONE
    while rest > _LOW_SEVEN:
        out[place] = np.uint8(rest & _LOW_SEVEN | np.uint64(0x80))
        rest >>= _SEVEN
        place += 1
    out[place] = np.uint8(rest)
    return place + 1


@helper
def _write_text(out: Bytes, place: int, data: Bytes, start: int, stop: int) -> int:
    return _copy(data, start, stop, out, _write(out, place, stop - start))


@helper
def _is_id(data: Bytes, start: int, stop: int, most: int) -> bool:
    return 0 < stop - start <= most and is_utf8(data, start, stop)


@kernel
def encode_interactions(
    header: Bytes,
    users: Bytes,
    user_bounds: Integers,
    items: Bytes,
    item_bounds: Integers,
    rating: Bits,
    time: Integers,
    sequence: Integers,
    dataset: Integers,
    names: Bytes,
    name_bounds: Integers,
    max_id_bytes: int,
    max_timestamp: int,
) -> tuple[Bytes, Integers, int]:
    """The records' values, one behind the other: (data, bounds [n + 1], first row that is not valid or n).

    Nothing is written from the first row on that a reader would refuse.

    Args:
        header: uint8, what every value begins with.
        users, user_bounds, items, item_bounds: the ids.
        rating: the bits of a float64 (uint64). time: ms. sequence: -1 for none. dataset: number of a name; -1 for none.
        names, name_bounds: the datasets' names.
        max_id_bytes, max_timestamp: as in `decode_interactions`.
    """
    count = len(time)
    room = user_bounds[count] - user_bounds[0] + item_bounds[count] - item_bounds[0] + count * (len(header) + 2 + 2 + 8 + 8 + 3 + 11 + 1)
    for row in range(count):
        if dataset[row] >= 0:
            room += name_bounds[dataset[row] + 1] - name_bounds[dataset[row]]
    out = np.empty(room, np.uint8)
    bounds = np.zeros(count + 1, np.int64)
    place = 0
    for row in range(count):
        if not (
            _is_id(users, user_bounds[row], user_bounds[row + 1], max_id_bytes)
            and _is_id(items, item_bounds[row], item_bounds[row + 1], max_id_bytes)
            and rating[row] >> _FRACTION_BITS & _EXPONENT != _EXPONENT
            and 0 <= time[row] <= max_timestamp
        ):
            return out[:place], bounds[: row + 1], row
        for byte in header:
            out[place] = byte
            place += 1
        place = _write_text(out, place, users, user_bounds[row], user_bounds[row + 1])
        place = _write_text(out, place, items, item_bounds[row], item_bounds[row + 1])
        for k in range(8):
            out[place + k] = np.uint8(rating[row] >> (_BYTE * np.uint64(k)) & np.uint64(0xFF))
        place = _write(out, place + 8, time[row])
        code = dataset[row]
        if code < 0:
            place = _write(out, place, 0)
        else:
            place = _write(out, place, 1)
            place = _write_text(out, place, names, name_bounds[code], name_bounds[code + 1])
        if sequence[row] < 0:
            place = _write(out, place, 0)
        else:
            place = _write(out, place, 1)
            place = _write(out, place, sequence[row])
        out[place] = 0  # no features
        place += 1
        bounds[row + 1] = place
    return out[:place], bounds, count
