"""Parts of which a value holds less than the row: numbers of 16 bits, and bytes that begin with their length."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autoemb_pipeline.errors import CheckpointError, ConfigurationError
from autoemb_pipeline.kernels import HELD, compile_all, round_rows, values
from autoemb_pipeline.rows import AnySpec, Record, RecordSpec, RowStore, TableSpec, hashed_uniform, joined, stored_bytes
from autoemb_pipeline.state.codec import VERSION, RowCodec, format_of, spec_of
from autoemb_pipeline.state.options import RocksConfig
from autoemb_pipeline.state.readonly import ReadOnlyRows
from autoemb_pipeline.state.rocks import RocksRowStore
from autoemb_pipeline.state.validation import checked_specs

Make = Callable[[Sequence[AnySpec]], RowStore]


def new_rows(ids: Sequence[str]) -> NDArray[np.float32]:
    return hashed_uniform(ids, seed=3, table="row", width=10, std=1.0)


# 7 numbers in blocks of 2 and 5, a bias, the blocks' variances; the bias is every id's.
ROW = TableSpec(name="row", width=10, initial=new_rows, stored="int16")
EVENTS = TableSpec(name="events", width=12, dtype="i1", stored="sized")
NUMBERS = ((0, 2), (2, 7))
SPEC = RecordSpec(
    name="user",
    parts=(
        TableSpec(name="context", width=1, dtype="f8"),
        EVENTS,
        ROW,
        TableSpec(name="held", width=2, dtype="i1"),
        TableSpec(name="names", width=5, dtype="i1", stored="sized"),
    ),
    held=3,
    optional=2,
    blocks=((0, 1, 8), (2, 3, 4, 5, 6, 9)),
    numbers=NUMBERS,
)
NAMES = [f"u{k}" for k in range(300)]


def sized(width: int, content: Sequence[bytes]) -> NDArray[np.int8]:
    rows = np.zeros((len(content), width), dtype=np.int8)
    for row, own in zip(rows, content, strict=True):
        data = len(own).to_bytes(2, "little") + own
        row[: len(data)] = np.frombuffer(data, np.int8)
    return rows


def records(count: int, seed: int) -> Record:
    """Gridded rows of many magnitudes, any blocks held, contents of any length; of blocks that are not held, numbers as in a new row."""
    rng = np.random.default_rng(seed)
    rows = np.ldexp(rng.normal(size=(count, 10)), rng.integers(-150, 120, (count, 1))).astype(np.float32)
    rows[rng.random((count, 10)) < 0.1] = 0.0
    held = rng.choice(np.array([0, HELD], dtype=np.int8), (count, 2))
    slots, keys = np.arange(count), rng.integers(0, 2**64, count, dtype=np.uint64)
    round_rows(rows, held, slots, *np.array(NUMBERS).T.copy(), keys)
    for block, columns in enumerate(SPEC.blocks):
        new = np.flatnonzero(held[:, block] == 0)
        rows[new[:, None], columns] = new_rows([NAMES[k] for k in new])[:, columns]
    events = sized(12, [rng.bytes(rng.integers(0, 11)) for _ in range(count)])
    names = sized(5, [rng.bytes(rng.integers(0, 4)) for _ in range(count)])
    return rng.normal(size=(count, 1)), events, rows, held, names


def fill(store: RowStore, ids: Sequence[str], parts: Record) -> None:
    lent = store.lend("user", ids)
    for slab, part in zip(lent.slabs, parts, strict=True):
        slab[lent.slots] = part
    store.keep("user", lent)


def assert_holds(store: RowStore | ReadOnlyRows, ids: Sequence[str], parts: Record) -> None:
    lent = store.lend("user", ids)
    for slab, part in zip(lent.slabs, parts, strict=True):
        assert slab[lent.slots].tobytes() == part.tobytes()


def test_records_come_back_in_every_bit(make: Make) -> None:
    store = make([SPEC])
    fill(store, NAMES, records(300, 0))
    store.lend("user", [f"other{k}" for k in range(500)])  # pushes the small caches out
    assert_holds(store, NAMES, records(300, 0))
    some, changed = NAMES[40:90], tuple(part[40:90] for part in records(300, 1))
    for block, columns in enumerate(SPEC.blocks):  # `changed` was made for ids from the first on
        new = np.flatnonzero(changed[3][:, block] == 0)
        changed[2][new[:, None], columns] = new_rows([some[k] for k in new])[:, columns]
    fill(store, some, changed)
    store.lend("user", [f"other{k}" for k in range(500)])
    assert_holds(store, some, changed)
    assert_holds(store, NAMES[90:], tuple(part[90:] for part in records(300, 0)))
    found = dict(store.records("user"))
    assert [found[i][1].tobytes() for i in some] == [row.tobytes() for row in changed[1]]


def test_a_checkpoint_holds_every_bit_and_says_how(tmp_path: Path) -> None:
    store = RocksRowStore(RocksConfig(directory=tmp_path / "live"), [SPEC])
    fill(store, NAMES, records(300, 2))
    assert_holds(store, NAMES, records(300, 2))  # from the cache alone
    store.persist(store.capture(), tmp_path / "one")
    store.close()
    with ReadOnlyRows(tmp_path / "one", [SPEC]) as rows:
        assert_holds(rows, NAMES, records(300, 2))
    with ReadOnlyRows(tmp_path / "one") as rows:
        (spec,) = rows.specs
        assert [part.stored for part in spec.parts] == [part.stored for part in SPEC.parts]
        assert spec.numbers == NUMBERS
    whole = replace(SPEC, parts=(*SPEC.parts[:2], replace(ROW, stored="whole"), *SPEC.parts[3:]))
    with pytest.raises(CheckpointError, match="stored as"):
        ReadOnlyRows(tmp_path / "one", [whole])


def test_new_rows_have_no_content(make: Make) -> None:
    store = make([SPEC, TableSpec(name="started", width=4, dtype="i1", stored="sized", initial=lambda ids: sized(4, [b"a"] * len(ids)))])
    lent = store.lend("user", ["a"])
    assert not lent.slabs[1][lent.slots].any()
    assert store.gather("started", ["a", "b"]).tobytes() == b"\x01\x00a\x00" * 2


def test_what_is_behind_the_content_is_not_kept(make: Make) -> None:
    plain = TableSpec(name="plain", width=6, dtype="i1", stored="sized")
    store = make([SPEC, plain])
    lent = store.lend("user", ["a"])
    lent.slabs[1][lent.slots] = [2, 0, *range(1, 11)]
    store.keep("user", lent)
    again = store.lend("user", ["a"])
    assert again.slabs[1][again.slots].tolist() == [[2, 0, 1, 2] + [0] * 8]
    given = np.array([[1, 0, 7, 8, 9, 9], [4, 0, -1, -2, -3, -4]], dtype=np.int8)
    store.scatter("plain", ["a", "b"], given)
    store.gather("plain", [f"other{k}" for k in range(300)])
    assert store.gather("plain", ["b", "a"]).tolist() == [[4, 0, -1, -2, -3, -4], [1, 0, 7, 0, 0, 0]]
    assert given[0].tolist() == [1, 0, 7, 8, 9, 9]


def test_content_longer_than_the_row_is_refused(make: Make) -> None:
    store = make([SPEC, replace(EVENTS, name="plain")])
    lent = store.lend("user", ["a"])
    lent.slabs[1][lent.slots, 0] = 11
    with pytest.raises(ValueError, match="longer than 12 bytes"):
        store.keep("user", lent)
    for length in ([11, 0], [0, -1]):
        with pytest.raises(ValueError, match="longer than 12 bytes"):
            store.scatter("plain", ["a"], np.array([length + [0] * 10], dtype=np.int8))
        with pytest.raises(ValueError, match="longer than 12 bytes"):
            RowCodec(EVENTS).encode((np.array([length + [0] * 10], dtype=np.int8),))
    assert (store.count("user"), store.count("plain")) == (0, 0)


GRID = st.tuples(
    st.lists(st.sampled_from([0, 1, -1, 32767, -32767]) | st.integers(-32767, 32767), min_size=10, max_size=10), st.integers(-128, 113)
)
CONTENT = st.binary(max_size=10)
HOLDS = st.tuples(*[st.sampled_from([0, HELD])] * 2)


@given(st.lists(st.tuples(GRID, HOLDS, CONTENT, st.binary(max_size=3)), min_size=1, max_size=6))
def test_encoding_and_decoding_changes_no_bit(drawn: list[tuple[tuple[list[int], int], tuple[int, int], bytes, bytes]]) -> None:
    count, codec = len(drawn), RowCodec(SPEC)
    rows = np.stack([np.ldexp(np.array(q, dtype=np.float32), k) for (q, k), *_ in drawn])
    held = np.array([holds for _, holds, *_ in drawn], dtype=np.int8)
    ids = NAMES[:count]
    for block, columns in enumerate(SPEC.blocks):
        new = np.flatnonzero(held[:, block] == 0)
        rows[new[:, None], columns] = new_rows([ids[k] for k in new])[:, columns]
    parts = (np.zeros((count, 1)), sized(12, [own for *_, own, _ in drawn]), rows, held, sized(5, [own for *_, own in drawn]))
    values = codec.encode(parts)
    common, blocks = stored_bytes(SPEC)
    for value, holds, (*_, events, names) in zip(values, held, drawn, strict=True):
        assert len(value) == 1 + 2 + 8 + common + int((holds != 0) @ blocks) + 2 + len(events) + 2 + len(names)
    slabs = codec.slabs(count)
    codec.decode(ids, values, slabs, np.arange(count)[::-1].copy())
    for slab, part in zip(slabs, parts, strict=True):
        assert slab[::-1].tobytes() == part.tobytes()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=7, max_size=7))
def test_numbers_on_no_grid_are_rounded_to_the_nearest(numbers: list[float]) -> None:
    codec, parts = RowCodec(SPEC), [part[:1] for part in records(1, 0)]
    parts[3] = np.full((1, 2), HELD, dtype=np.int8)
    parts[2] = np.array([[*numbers, 0.1, 0.2, 0.3]], dtype=np.float32)
    back = codec.one("u0", codec.encode(tuple(parts))[0])[2].astype(np.float64)
    assert back[7:].tolist() == parts[2][0, 7:].tolist()
    for first, end in NUMBERS:
        block = parts[2][0, first:end].astype(np.float64)
        largest = np.abs(block).max()
        step = max(2.0**-128, largest and 2.0 ** np.ceil(np.log2(largest / 32767)))
        at_the_end = largest > 32767 * 2.0**113  # where rounding up is no float32
        assert (np.abs(back[first:end] - block) <= step * (1 if at_the_end else 0.5)).all()


def test_a_block_that_is_not_finite_stays_so() -> None:
    codec, parts = RowCodec(SPEC), [part[:1] for part in records(1, 0)]
    parts[3] = np.full((1, 2), HELD, dtype=np.int8)
    parts[2] = np.ones((1, 10), dtype=np.float32)
    parts[2][0, 1] = np.nan
    assert np.isnan(codec.one("u0", codec.encode(tuple(parts))[0])[2]).tolist() == [True, True] + [False] * 8


def test_blocks_of_nothing_but_numbers() -> None:
    spec = RecordSpec(
        name="bare",
        parts=(TableSpec(name="row", width=3, stored="int16"), TableSpec(name="held", width=2, dtype="i1")),
        held=1,
        blocks=((0,), (1, 2)),
        numbers=((0, 1), (1, 3)),
    )
    assert stored_bytes(spec) == (0, (3, 5))
    codec, held = RowCodec(spec), np.array([[2, 2], [0, 2], [0, 0]], dtype=np.int8)
    values = codec.encode((np.full((3, 3), 0.75, dtype=np.float32), held))
    assert [len(value) for value in values] == [11, 8, 3]
    back = np.array([codec.one("a", value)[0] for value in values])
    assert back.tolist() == [[0.75] * 3, [0, 0.75, 0.75], [0] * 3]


@pytest.mark.parametrize("spec", [SPEC, RecordSpec(name="events", parts=(EVENTS,)), EVENTS], ids=["record", "sized alone", "plain"])
def test_values_that_do_not_end_where_their_content_ends_are_refused(spec: AnySpec) -> None:
    codec = RowCodec(spec)
    slabs, slots = codec.slabs(2), np.arange(2)
    codec.fill_new(["a", "b"], slabs, slots)
    first, second = codec.encode(slabs)
    codec.decode(["a", "b"], [first, second], slabs, slots)
    too_long = first[:-2] + (20).to_bytes(2, "little") + bytes(20)
    for broken in (first + b"\x00", first[:-1], first[:-2] + b"\x01\x00", too_long, b""):
        for pair in ([broken, second], [second, broken]):
            with pytest.raises(CheckpointError, match="format"):
                codec.decode(["a", "b"], pair, slabs, slots)
    if isinstance(spec, RecordSpec):
        with pytest.raises(CheckpointError, match="format"):
            codec.decode(["a"], [bytes([VERSION - 1]) + first[1:]], slabs, slots[:1])


def test_the_meta_record_names_what_is_stored() -> None:
    bare = replace(SPEC, parts=tuple(replace(part, name="user", initial=None) for part in SPEC.parts))
    assert spec_of("user", format_of(SPEC)) == bare
    assert format_of(EVENTS) == b"i1:12:sized"
    assert spec_of("events", b"i1:12:sized") == EVENTS
    assert spec_of("row", b"f4:3") == TableSpec(name="row", width=3)
    for broken in (b"i1:12:packed", format_of(SPEC).replace(b'"record": 2', b'"record": 1')):
        with pytest.raises((ValueError, KeyError)):
            spec_of("user", broken)


def test_joined_tables_keep_what_is_stored() -> None:
    (spec,) = joined([RecordSpec(name="user", parts=SPEC.parts[:1]), replace(SPEC, parts=SPEC.parts[1:], held=2, optional=1)])
    assert spec == SPEC


def test_bytes_as_stored() -> None:
    assert stored_bytes(SPEC) == (4, (2 * 2 + 1 + 4, 2 * 5 + 1 + 4))
    whole = replace(SPEC, parts=(*SPEC.parts[:2], replace(ROW, stored="whole"), *SPEC.parts[3:]))
    assert stored_bytes(whole) == (4, (4 * 2 + 4, 4 * 5 + 4))
    wide = replace(SPEC, parts=(*SPEC.parts[:2], replace(ROW, stored="whole", dtype="f8"), *SPEC.parts[3:]), numbers=())
    assert stored_bytes(wide) == (8, (8 * 3, 8 * 6))


@pytest.mark.parametrize(
    "spec",
    [
        replace(EVENTS, dtype="f4"),
        replace(EVENTS, width=1),
        replace(EVENTS, width=65538),
        replace(EVENTS, stored="packed"),  # type: ignore[arg-type]
        replace(ROW, name="plain"),
        replace(SPEC, held=None),
        replace(SPEC, numbers=()),
        replace(SPEC, numbers=((0, 2), (2, 8))),
        replace(SPEC, numbers=((0, 2), (4, 4))),
        replace(SPEC, numbers=((2, 7), (0, 2))),
        replace(SPEC, parts=(*SPEC.parts[:2], replace(ROW, dtype="f8"), *SPEC.parts[3:])),
        replace(SPEC, parts=(*SPEC.parts[:3], replace(SPEC.parts[3], stored="sized"), SPEC.parts[4])),
        replace(SPEC, optional=0),
    ],
)
def test_parts_that_cannot_be_stored_so_are_refused(spec: AnySpec) -> None:
    with pytest.raises(ConfigurationError, match="cannot be stored"):
        checked_specs([spec])
    checked_specs([SPEC, EVENTS])


def test_the_store_calls_kernels_with_the_types_compiled_ahead_alone(make: Make) -> None:
    compile_all(lambda *_: None)
    store = make([SPEC, replace(EVENTS, name="plain")])
    fill(store, NAMES, records(300, 0))
    fill(store, NAMES[:1], tuple(part[:1] for part in records(300, 0)))
    store.scatter("plain", NAMES, np.zeros((300, 12), dtype=np.int8))
    store.gather("plain", NAMES)
    assert len(list(store.records("user"))) == 300
    kernels = (round_rows, values.pack_int16, values.unpack_int16, values.trim_sized, values.read_sized)
    assert [len(kernel.overloads) for kernel in kernels] == [1] * 5  # type: ignore[attr-defined]
