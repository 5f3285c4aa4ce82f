"""What every row store promises, over the one in memory and over RocksDB with a large, a small and a one-row cache."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autoemb_pipeline.errors import CheckpointError, ConfigurationError
from autoemb_pipeline.rows import AnySpec, RecordSpec, RowStore, TableSpec, hashed_uniform
from autoemb_pipeline.state.codec import RowCodec
from autoemb_pipeline.state.options import RocksConfig, RocksOptions
from autoemb_pipeline.state.rocks import RocksRowStore

Make = Callable[[Sequence[AnySpec]], RowStore]


def hashed(ids: Sequence[str]) -> NDArray[np.float32]:
    return hashed_uniform(ids, seed=7, table="users", width=3, std=0.1)


USERS = TableSpec(name="users", width=3, initial=hashed)
ITEMS = TableSpec(name="items", width=2, dtype="f8")


@pytest.fixture
def store(make: Make) -> RowStore:
    return make([USERS, ITEMS])


def numbered(count: int, width: int, dtype: str = "f4") -> NDArray[np.floating]:
    return np.arange(count * width, dtype=dtype).reshape(count, width) + 0.5


def test_unknown_ids_get_their_initial_rows_and_are_not_stored(store: RowStore) -> None:
    np.testing.assert_array_equal(store.gather("users", ["a", "b"]), hashed(["a", "b"]))
    np.testing.assert_array_equal(store.gather("items", ["a"]), np.zeros((1, 2)))
    assert store.count("users") == 0
    assert list(store.items("users")) == []


def test_scattered_rows_come_back_in_the_order_asked_for(store: RowStore) -> None:
    rows = numbered(4, 3)
    store.scatter("users", ["a", "b", "c", "d"], rows)
    np.testing.assert_array_equal(store.gather("users", ["d", "new", "a"]), np.stack([rows[3], hashed(["new"])[0], rows[0]]))
    np.testing.assert_array_equal(store.gather("items", ["a"]), np.zeros((1, 2)))  # tables are apart


def test_the_last_scatter_wins(store: RowStore) -> None:
    for value in (1.0, 2.0, 3.0):
        store.scatter("items", ["a", "b"], np.full((2, 2), value))
    store.scatter("items", ["b"], np.full((1, 2), 9.0))
    np.testing.assert_array_equal(store.gather("items", ["a", "b"]), [[3, 3], [9, 9]])
    assert store.count("items") == 2


@pytest.mark.parametrize(("table", "dtype"), [("users", "f4"), ("items", "f8")])
def test_every_bit_survives(store: RowStore, table: str, dtype: str) -> None:
    width = {"users": 3, "items": 2}[table]
    rows = np.resize(np.array([np.nan, -0.0, np.inf, 5e-324, 1 / 3, -np.nan], dtype=dtype), (300, width)).copy()
    ids = [str(k) for k in range(300)]
    store.scatter(table, ids, rows)
    store.gather(table, [f"other{k}" for k in range(300)])
    back = store.gather(table, ids)
    assert back.dtype == np.dtype("<" + dtype)
    assert back.tobytes() == rows.tobytes()


def test_more_ids_than_the_cache_holds(store: RowStore) -> None:
    ids = [f"user {k}" for k in range(3000)]
    rows = numbered(3000, 3)
    store.scatter("users", ids, rows)
    np.testing.assert_array_equal(store.gather("users", ids[::-1]), rows[::-1])
    assert store.count("users") == 3000


def test_count_is_exact_with_and_without_a_gather_before(store: RowStore) -> None:
    store.scatter("users", ["a", "b"], numbered(2, 3))
    store.gather("users", ["b", "c"])
    store.scatter("users", ["b", "c", "d"], numbered(3, 3))
    store.gather("users", [str(k) for k in range(500)])  # pushes the small caches out
    store.scatter("users", ["a", "e"], numbered(2, 3))
    assert store.count("users") == 5
    assert store.count("items") == 0


def test_items_come_in_the_byte_order_of_the_ids(store: RowStore) -> None:
    ids = ["b", "a", "", "\U0001f600", "é", "z", "a\x00", "10", "9", "\uffff"]
    store.scatter("users", ids, numbered(len(ids), 3))
    found = list(store.items("users"))
    assert [i for i, _ in found] == sorted(ids, key=str.encode)
    for i, row in found:
        np.testing.assert_array_equal(row, numbered(len(ids), 3)[ids.index(i)])


def test_ids_come_in_their_byte_order_some_at_a_time(store: RowStore) -> None:
    ids = ["b", "a", "", "\U0001f600", "é", "z", "a\x00", "10", "9", "\uffff"]
    assert list(store.ids_after("users", None, 5)) == []
    store.scatter("users", ids[:4], numbered(4, 3))
    assert list(store.ids_after("users", None, 3)) == ["", "a", "b"]
    store.scatter("users", ids, numbered(len(ids), 3))
    ordered = sorted(ids, key=str.encode)
    assert list(store.ids_after("users", None, 100)) == ordered
    assert list(store.ids_after("users", "a", 2)) == ordered[ordered.index("a") + 1 :][:2]
    assert list(store.ids_after("users", "aa", 2)) == ["b", "z"]  # whether it is known or not
    assert list(store.ids_after("users", ordered[-1], 2)) == []
    assert list(store.ids_after("items", None, 5)) == []


def test_ids_in_order_follow_what_is_scattered_and_removed(store: RowStore) -> None:
    known: set[str] = set()
    for k in range(120):
        store.ids_after("users", None, 1)
        store.scatter("users", [str(k), str(3 * k % 7)], numbered(2, 3)) if 3 * k % 7 != k else None
        known |= {str(k), str(3 * k % 7)} if 3 * k % 7 != k else set()
        store.gather("users", ["never"])
        if k % 3 == 0:
            store.remove("users", [str(k // 2), "never"])
            known.discard(str(k // 2))
        assert list(store.ids_after("users", None, 1000)) == sorted(known)
        assert store.count("users") == len(known)


def test_gathered_and_scattered_arrays_belong_to_the_caller(store: RowStore) -> None:
    rows = numbered(2, 3)
    store.scatter("users", ["a", "b"], rows)
    rows[:] = -1
    store.gather("users", ["a", "b"])[:] = -2
    store.gather("users", ["new"])[:] = -3
    next(store.items("users"))[1][:] = -4
    np.testing.assert_array_equal(store.gather("users", ["a", "b"]), numbered(2, 3))
    np.testing.assert_array_equal(store.gather("users", ["new"]), hashed(["new"]))


def test_no_ids(store: RowStore) -> None:
    store.scatter("users", [], np.empty((0, 3), dtype="f4"))
    assert store.gather("users", []).shape == (0, 3)


def test_wider_floats_are_rounded_to_the_table(store: RowStore) -> None:
    store.scatter("users", ["a"], np.full((1, 3), 1 / 3, dtype="f8"))
    np.testing.assert_array_equal(store.gather("users", ["a"]), np.full((1, 3), np.float32(1 / 3)))


@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3,), (2, 3, 1)])
def test_rows_of_another_shape_are_refused(store: RowStore, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        store.scatter("users", ["a", "b"], np.zeros(shape, dtype="f4"))
    assert store.count("users") == 0


def test_repeated_ids_are_refused(store: RowStore) -> None:
    with pytest.raises(ValueError, match="repeat"):
        store.gather("users", ["a", "b", "a"])
    with pytest.raises(ValueError, match="repeat"):
        store.scatter("users", ["a", "a"], numbered(2, 3))


def test_rows_that_are_no_floats_are_refused(store: RowStore) -> None:
    with pytest.raises(TypeError):
        store.scatter("users", ["a"], np.zeros((1, 3), dtype="c8"))


def test_unknown_tables_are_refused(store: RowStore) -> None:
    for call in (lambda: store.gather("nope", ["a"]), lambda: store.items("nope"), lambda: store.count("nope")):
        with pytest.raises(KeyError, match="nope"):
            call()


def test_initial_rows_of_another_shape_are_refused(make: Make) -> None:
    store = make([TableSpec(name="users", width=3, initial=lambda ids: np.zeros((len(ids), 2), dtype="f4"))])
    with pytest.raises(ValueError, match="shape"):
        store.gather("users", ["a"])


@pytest.mark.parametrize(
    "specs",
    [
        [USERS, USERS],
        [TableSpec(name="default", width=1)],
        [TableSpec(name="", width=1)],
        [TableSpec(name="a", width=0)],
        [TableSpec(name="a", width=1, dtype="i4")],  # type: ignore[arg-type]
    ],
)
def test_unusable_tables_are_refused(make: Make, specs: list[TableSpec]) -> None:
    with pytest.raises(ConfigurationError):
        make(specs)


@pytest.mark.parametrize(
    "broken", [{"write_buffer_bytes": 0}, {"sst_bytes": 1}, {"bloom_bits": 0}, {"background_jobs": 0}, {"compression": "gzip"}]
)
def test_unusable_options_are_refused(broken: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        RocksOptions(**broken)


def test_a_cache_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        RocksConfig(directory=tmp_path, cache_bytes=0)


def test_removed_ids_are_as_never_scattered(store: RowStore) -> None:
    ids = [f"u{k}" for k in range(60)]
    store.scatter("users", ids, numbered(60, 3))
    store.remove("users", [*ids[:20], "never"])
    store.remove("users", ids[:3])
    assert store.count("users") == 40
    np.testing.assert_array_equal(store.gather("users", ids[:20]), hashed(ids[:20]))
    np.testing.assert_array_equal(store.gather("users", ids[20:]), numbered(60, 3)[20:])
    assert sorted(i for i, _ in store.items("users")) == sorted(ids[20:])
    store.scatter("users", ids[5:10], numbered(5, 3))
    assert store.count("users") == 45
    np.testing.assert_array_equal(store.gather("users", ids[5:10]), numbered(5, 3))
    assert store.count("items") == 0


def bytes_of(ids: Sequence[str]) -> NDArray[np.int8]:
    return np.zeros((len(ids), 2), dtype="i1")


RECORDS = RecordSpec(
    name="records",
    parts=(
        TableSpec(name="context", width=2, dtype="f8", initial=lambda ids: np.full((len(ids), 2), np.nan)),
        TableSpec(name="row", width=5, initial=lambda ids: hashed_uniform(ids, seed=7, table="row", width=5, std=1.0)),
        TableSpec(name="held", width=2, dtype="i1", initial=bytes_of),
    ),
    held=2,
    optional=1,
    blocks=((0, 3), (1, 2, 4)),
)


@pytest.mark.parametrize("ids", [3, 700], ids=["few", "more than a cache holds"])
def test_records_are_changed_where_they_lie(make: Make, ids: int) -> None:
    store, names = make([RECORDS, USERS]), [f"u{k}" for k in range(ids)]
    lent = store.lend("records", names)
    np.testing.assert_array_equal(lent.slabs[1][lent.slots], hashed_uniform(names, seed=7, table="row", width=5, std=1.0))
    assert np.isnan(lent.slabs[0][lent.slots]).all()
    lent.slabs[0][lent.slots] = numbered(ids, 2, "f8")
    lent.slabs[2][lent.slots] = 2
    lent.slabs[1][lent.slots] = numbered(ids, 5)
    store.keep("records", lent)
    store.lend("records", [f"other{k}" for k in range(500)])  # pushes the small caches out
    assert store.count("records") == ids
    back = store.lend("records", names[::-1])
    np.testing.assert_array_equal(back.slabs[0][back.slots], numbered(ids, 2, "f8")[::-1])
    np.testing.assert_array_equal(back.slabs[1][back.slots], numbered(ids, 5)[::-1])
    assert [i for i, _ in store.records("records")] == sorted(names)


def test_records_that_were_not_kept_are_new_ones(make: Make) -> None:
    store = make([RECORDS])
    for _ in range(3):
        store.lend("records", ["a", "b"])
    assert store.count("records") == 0
    lent = store.lend("records", ["a"])
    store.keep("records", lent)
    store.keep("records", lent)
    assert (store.count("records"), [i for i, _ in store.records("records")]) == (1, ["a"])


@pytest.mark.parametrize("held", [(0, 0), (1, 0), (0, 2), (1, 1)])
def test_of_the_optional_columns_only_held_ones_outlive_the_cache(tmp_path: Path, held: tuple[int, int]) -> None:
    store = RocksRowStore(RocksConfig(directory=tmp_path / "live", cache_bytes=2000), [RECORDS])
    lent = store.lend("records", ["a"])
    lent.slabs[2][lent.slots], lent.slabs[1][lent.slots] = held, 3.5
    lent.slabs[0][lent.slots] = 1.0
    store.keep("records", lent)
    store.lend("records", [f"other{k}" for k in range(500)])
    (_, (context, row, flags)), *rest = store.records("records")
    assert not rest
    expected = hashed_uniform(["a"], seed=7, table="row", width=5, std=1.0)[0]
    for block, columns in zip(held, ([0, 3], [1, 2, 4]), strict=True):
        expected[columns] = 3.5 if block else expected[columns]
    np.testing.assert_array_equal(row, expected)
    assert (context.tolist(), flags.tolist()) == ([1.0, 1.0], list(held))
    store.close()


def test_removed_records_are_new_ones(make: Make) -> None:
    store = make([RECORDS])
    lent = store.lend("records", ["a", "b"])
    lent.slabs[0][lent.slots] = 5.0
    store.keep("records", lent)
    store.remove("records", ["a"])
    again = store.lend("records", ["a", "b"])
    assert np.isnan(again.slabs[0][again.slots]).tolist() == [[True, True], [False, False]]
    assert store.count("records") == 1


def test_records_are_neither_gathered_nor_scattered(make: Make) -> None:
    store = make([RECORDS])
    for call in (
        lambda: store.gather("records", ["a"]),
        lambda: store.scatter("records", ["a"], np.zeros((1, 2))),
        lambda: store.items("records"),
    ):
        with pytest.raises(TypeError, match="records"):
            call()


def test_no_records_are_no_values() -> None:
    for spec in (RECORDS, USERS, RecordSpec(name="plain", parts=RECORDS.parts[:2])):
        codec = RowCodec(spec)
        assert codec.encode(codec.slabs(0)) == []


def test_records_without_optional_columns_survive(tmp_path: Path) -> None:
    spec = RecordSpec(name="records", parts=RECORDS.parts[:2])
    store = RocksRowStore(RocksConfig(directory=tmp_path / "live", cache_bytes=2000), [spec])
    names = [f"u{k}" for k in range(40)]
    lent = store.lend("records", names)
    lent.slabs[0][lent.slots] = numbered(40, 2, "f8")
    store.keep("records", lent)
    found = dict(store.records("records"))
    for k, i in enumerate(names):
        np.testing.assert_array_equal(found[i][0], numbered(40, 2, "f8")[k])
    store.close()


def test_a_record_of_another_version_is_refused() -> None:
    codec = RowCodec(RECORDS)
    slabs, slots = codec.slabs(1), np.zeros(1, dtype=np.int64)
    codec.fill_new(["a"], slabs, slots)
    (value,) = codec.encode(slabs)
    codec.decode(["a"], [value], slabs, slots)
    for broken in (b"\x07" + value[1:], value + b"\x00", b""):
        with pytest.raises(CheckpointError, match="format"):
            codec.decode(["a"], [broken], slabs, slots)


def test_of_lent_records_some_may_be_kept(make: Make) -> None:
    store = make([RecordSpec(name="user", parts=(USERS, ITEMS))])
    ids = ["a", "b", "c", "d"]
    lent = store.lend("user", ids)
    for slab in lent.slabs:
        slab[lent.slots] = np.arange(4)[:, None]
    store.keep("user", lent)
    lent = store.lend("user", ids)
    chosen = np.array([3, 1])
    some = lent._replace(slots=lent.slots[chosen], ids=[ids[k] for k in chosen])
    for slab in some.slabs:
        slab[some.slots] += 10
    store.keep("user", some)
    for part in range(2):
        assert [float(record[part][0]) for _, record in store.records("user")] == [0, 11, 2, 13]
