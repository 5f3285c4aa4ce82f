"""RocksDB rows: nothing depends on the cache's size or on when a checkpoint's background work runs; limits hold; errors surface."""

import hashlib
import shutil
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from autoemb_pipeline.errors import CheckpointError, StateError
from autoemb_pipeline.rows import RecordSpec, RowStore, TableSpec, hashed_uniform
from autoemb_pipeline.state import files
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.state.options import RocksConfig
from autoemb_pipeline.state.readonly import ReadOnlyRows
from autoemb_pipeline.state.rocks import Capture, RocksRowStore
from tests.fastdisk import fast_directory

SPECS = [
    TableSpec(name="users", width=3, initial=lambda ids: hashed_uniform(ids, seed=1, table="users", width=3, std=0.1)),
    TableSpec(name="items", width=2, dtype="f8"),
]
WIDTHS = {spec.name: spec.width for spec in SPECS}
Contents = dict[str, list[tuple[str, bytes]]]


def contents(store: RowStore | ReadOnlyRows) -> Contents:
    return {table: [(i, row.tobytes()) for i, row in store.items(table)] for table in WIDTHS}


def hashes(directory: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(directory.iterdir())}


@contextmanager
def opened(directory: Path, *, source: Path | None = None, cache_bytes: int = 1 << 22) -> Iterator[RocksRowStore]:
    store = RocksRowStore(RocksConfig(directory=directory, source=source, cache_bytes=cache_bytes), SPECS)
    try:
        yield store
    finally:
        store.close()


class Persist:
    """A persist in a thread that starts when told to, or by itself after a while, as the store may be waiting for it."""

    def __init__(self, store: RocksRowStore, capture: Capture, directory: Path, *, patience: float) -> None:
        self.gate = threading.Event()
        self.patience = patience
        self.thread = threading.Thread(target=self._run, args=(store, capture, directory))
        self.thread.start()

    def _run(self, store: RocksRowStore, capture: Capture, directory: Path) -> None:
        self.gate.wait(self.patience)
        store.persist(capture, directory)

    def finish(self) -> None:
        self.gate.set()
        self.thread.join()


class AnyCacheAnyTiming(RuleBasedStateMachine):
    """The store over RocksDB gives the bits of the one in memory, and each checkpoint those of its moment."""

    tables = st.sampled_from(sorted(WIDTHS))
    ids = st.lists(st.integers(0, 40).map(str), unique=True, max_size=25)

    @initialize(cache_bytes=st.sampled_from([1, 3_000, 12_000, 60_000, 1 << 22]))
    def build(self, cache_bytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=fast_directory()))
        self.cache_bytes = cache_bytes
        self.memory = MemoryRowStore(SPECS)
        self.rocks = RocksRowStore(RocksConfig(directory=self.folder / "live", cache_bytes=cache_bytes), SPECS)
        self.persist: Persist | None = None
        self.saved: list[tuple[Path, Contents]] = []
        self.tick = 0

    @rule(table=tables, ids=ids)
    def gather(self, table: str, ids: list[str]) -> None:
        assert self.rocks.gather(table, ids).tobytes() == self.memory.gather(table, ids).tobytes()

    @rule(table=tables, ids=ids)
    def scatter(self, table: str, ids: list[str]) -> None:
        self.tick += 1
        rows = np.random.default_rng(self.tick).normal(size=(len(ids), WIDTHS[table]))
        self.rocks.scatter(table, ids, rows)
        self.memory.scatter(table, ids, rows)

    @rule(table=tables, ids=ids)
    def train(self, table: str, ids: list[str]) -> None:
        for store in (self.rocks, self.memory):
            store.scatter(table, ids, store.gather(table, ids) * 0.5 + 1)

    @rule(table=tables, ids=ids)
    def remove(self, table: str, ids: list[str]) -> None:
        for store in (self.rocks, self.memory):
            store.remove(table, ids)

    @rule(table=tables, after=st.none() | st.integers(0, 40).map(str), limit=st.integers(1, 50))
    def ids_after(self, table: str, after: str | None, limit: int) -> None:
        assert self.rocks.ids_after(table, after, limit) == self.memory.ids_after(table, after, limit)

    @rule()
    def begin_checkpoint(self) -> None:
        self.finish_checkpoint()
        self.saved.append((self.folder / f"checkpoint{len(self.saved)}", contents(self.memory)))
        self.persist = Persist(self.rocks, self.rocks.capture(), self.saved[-1][0], patience=0.01)

    @precondition(lambda self: self.persist is not None)
    @rule()
    def finish_checkpoint(self) -> None:
        if self.persist is not None:
            self.persist.finish()
        self.persist = None

    @rule()
    def restart_from_newest(self) -> None:
        self.finish_checkpoint()
        self.rocks.close()
        source, rows = self.saved[-1] if self.saved else (None, {table: [] for table in WIDTHS})
        config = RocksConfig(directory=self.folder / "live", source=source, cache_bytes=self.cache_bytes)
        self.rocks = RocksRowStore(config, SPECS)
        self.memory = MemoryRowStore(SPECS)
        for table, pairs in rows.items():
            dtype = {"users": "<f4", "items": "<f8"}[table]
            values = np.frombuffer(b"".join(row for _, row in pairs), dtype=dtype).reshape(-1, WIDTHS[table])
            self.memory.scatter(table, [i for i, _ in pairs], values)

    @rule(table=tables)
    def iterate(self, table: str) -> None:
        assert contents(self.rocks)[table] == contents(self.memory)[table]

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "rocks"):
            for table in WIDTHS:
                assert self.rocks.count(table) == self.memory.count(table)

    def teardown(self) -> None:
        if not hasattr(self, "rocks"):
            return
        self.finish_checkpoint()
        self.rocks.close()
        for directory, expected in self.saved:
            with ReadOnlyRows(directory, SPECS) as rows:
                assert contents(rows) == expected
                assert {table: rows.count(table) for table in WIDTHS} == {table: len(pairs) for table, pairs in expected.items()}
        shutil.rmtree(self.folder)


TestAnyCacheAnyTiming = AnyCacheAnyTiming.TestCase
TestAnyCacheAnyTiming.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


def test_a_full_buffer_waits_for_the_checkpoint_and_stays_out_of_it(tmp_path: Path) -> None:
    with opened(tmp_path / "live", cache_bytes=20_000) as store:
        store.scatter("users", ["a"], np.full((1, 3), 1.0))
        capture = store.capture()

        def train_on() -> None:
            for k in range(200):
                store.scatter("users", ["a", f"later {k}"], np.full((2, 3), 2.0))

        trainer = threading.Thread(target=train_on)
        trainer.start()
        trainer.join(0.3)
        assert trainer.is_alive()  # the limit on rows held back was reached
        store.persist(capture, tmp_path / "checkpoint")
        trainer.join(30)
        assert not trainer.is_alive()
        assert store.count("users") == 201
        with ReadOnlyRows(tmp_path / "checkpoint", SPECS) as rows:
            assert contents(rows)["users"] == [("a", np.full(3, 1.0, dtype="f4").tobytes())]
        assert len(contents(store)["users"]) == 201


def test_rows_that_leave_the_cache_between_capture_and_persist_are_not_lost(tmp_path: Path) -> None:
    captured, later = np.full((4, 3), 1.0), np.full((4, 3), 2.0)
    with opened(tmp_path / "live", cache_bytes=60_000) as store:  # 55 rows

        def push_out() -> None:
            store.gather("users", [f"other {k}" for k in range(100)])

        store.scatter("users", ["a", "b", "c", "d"], captured)
        capture = store.capture()
        push_out()
        np.testing.assert_array_equal(store.gather("users", ["a", "b", "c", "d"]), captured)
        store.scatter("users", ["e", "f", "c", "d"], later)
        push_out()
        np.testing.assert_array_equal(store.gather("users", ["e", "f", "c", "d"]), later)
        store.persist(capture, tmp_path / "checkpoint")
        push_out()
        np.testing.assert_array_equal(store.gather("users", ["e", "f", "c", "d"]), later)
        np.testing.assert_array_equal(store.gather("users", ["a", "b"]), captured[:2])
        assert store.count("users") == 6
    with ReadOnlyRows(tmp_path / "checkpoint", SPECS) as rows:
        assert contents(rows)["users"] == [(i, captured[0].astype("f4").tobytes()) for i in "abcd"]


def test_memory_is_bounded_by_the_cache_not_by_the_table(tmp_path: Path) -> None:
    spec = TableSpec(name="wide", width=250)
    cache_bytes = 2_000_000
    tracemalloc.start()
    store = RocksRowStore(RocksConfig(directory=tmp_path / "live", cache_bytes=cache_bytes), [spec])
    try:
        for start in range(0, 20_000, 100):  # 20 MB of rows
            ids = [str(k) for k in range(start, start + 100)]
            store.scatter("wide", ids, store.gather("wide", ids) + 1)
            if start % 5_000 == 0:
                store.persist(store.capture(), tmp_path / f"checkpoint{start}")
        assert tracemalloc.get_traced_memory()[1] < cache_bytes
    finally:
        tracemalloc.stop()
        store.close()


def test_one_capture_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path / "live") as store:
        capture = store.capture()
        with pytest.raises(RuntimeError, match="being persisted"):
            store.capture()
        store.persist(capture, tmp_path / "checkpoint")
        store.persist(store.capture(), tmp_path / "another")


def test_a_failed_persist_stops_the_store_at_its_next_call(tmp_path: Path) -> None:
    with opened(tmp_path / "live") as store:
        store.scatter("users", ["a"], np.ones((1, 3)))
        (tmp_path / "taken").mkdir()  # RocksDB makes checkpoints in new directories only
        with pytest.raises(CheckpointError, match="could not be written"):
            store.persist(store.capture(), tmp_path / "taken")
        for _ in range(2):
            with pytest.raises(CheckpointError, check=lambda error: "exist" in error.why.lower() and bool(error.remedy)):
                store.gather("users", ["a"])


def test_an_abandoned_capture_stops_the_store(tmp_path: Path) -> None:
    with opened(tmp_path / "live") as store:
        store.abandon(store.capture(), OSError("no room"))
        with pytest.raises(CheckpointError, check=lambda error: error.why == "no room"):
            store.scatter("users", ["a"], np.ones((1, 3)))


def test_training_on_from_a_checkpoint_changes_none_of_its_bytes(tmp_path: Path) -> None:
    with opened(tmp_path / "live") as store:
        store.scatter("users", [str(k) for k in range(500)], np.ones((500, 3)))
        store.persist(store.capture(), tmp_path / "one")
        before, expected = hashes(tmp_path / "one"), contents(store)
    with opened(tmp_path / "live", source=tmp_path / "one", cache_bytes=5_000) as store:
        assert contents(store) == expected
        for k in range(20):
            store.scatter("users", [str(j) for j in range(k, 500, 20)], np.full((25, 3), k))
            store.persist(store.capture(), tmp_path / f"later{k}")
    assert hashes(tmp_path / "one") == before


def test_sst_files_are_shared_between_checkpoints(tmp_path: Path) -> None:
    with opened(tmp_path / "live") as store:
        store.scatter("users", ["a"], np.ones((1, 3)))
        store.persist(store.capture(), tmp_path / "one")
        store.scatter("users", ["b"], np.ones((1, 3)))
        store.persist(store.capture(), tmp_path / "two")
    one, two = ({p.name: p.stat().st_ino for p in (tmp_path / name).glob("*.sst")} for name in ("one", "two"))
    assert one.items() & two.items()


def test_a_clone_works_where_hard_links_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "live") as store:
        store.scatter("users", ["a"], np.ones((1, 3)))
        store.persist(store.capture(), tmp_path / "one")
        expected = contents(store)

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(files.os, "link", refuse)
    with opened(tmp_path / "live", source=tmp_path / "one") as store:
        assert contents(store) == expected


def test_a_directory_with_foreign_files_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "thesis.tex").write_text("years of work")
    with pytest.raises(StateError, match=r"thesis\.tex"):
        RocksRowStore(RocksConfig(directory=tmp_path / "live"), SPECS)
    assert (tmp_path / "live" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("specs", "named"),
    [
        ([*SPECS, TableSpec(name="extra", width=1)], "extra"),
        (SPECS[:1], "items"),
        ([SPECS[0], TableSpec(name="items", width=9, dtype="f8")], "f8:9"),
        ([SPECS[0], TableSpec(name="items", width=2, dtype="f4")], "f4:2"),
    ],
)
def test_a_checkpoint_of_other_tables_is_refused(tmp_path: Path, specs: list[TableSpec], named: str) -> None:
    with opened(tmp_path / "live") as store:
        store.persist(store.capture(), tmp_path / "one")
    with pytest.raises(CheckpointError, match=named):
        RocksRowStore(RocksConfig(directory=tmp_path / "live", source=tmp_path / "one"), specs)
    with pytest.raises(CheckpointError, match=named):
        ReadOnlyRows(tmp_path / "one", specs)
    with opened(tmp_path / "live", source=tmp_path / "one") as store:  # a refusal leaves nothing locked
        assert store.count("items") == 0


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    with opened(tmp_path / "live") as store:
        pass
    with pytest.raises(StateError, match="closed"):
        store.gather("users", ["a"])
    store.close()


def test_a_missing_source_is_a_checkpoint_error(tmp_path: Path) -> None:
    config = RocksConfig(directory=tmp_path / "live", source=tmp_path / "nope")
    for build in (lambda: ReadOnlyRows(tmp_path / "nope", SPECS), lambda: RocksRowStore(config, SPECS)):
        with pytest.raises(CheckpointError, match="nope"):
            build()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    with opened(tmp_path / "live") as store:
        store.scatter("users", [str(k) for k in range(100)], np.arange(300).reshape(100, 3))
        store.scatter("items", ["a", "é"], np.ones((2, 2)))
        store.persist(store.capture(), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_reading_changes_no_byte_and_leaves_nothing_behind(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = hashes(checkpoint)
    with ReadOnlyRows(checkpoint, SPECS) as rows:
        assert any(temporary.iterdir())
        np.testing.assert_array_equal(rows.gather("users", ["7", "3"]), [[21, 22, 23], [9, 10, 11]])
        np.testing.assert_array_equal(rows.gather("users", ["new"]), SPECS[0].initial(["new"]))
        assert [i for i, _ in rows.items("items")] == ["a", "é"]
        assert rows.count("users") == 100
        with pytest.raises(ValueError, match="repeat"):
            rows.gather("users", ["a", "a"])
        with pytest.raises(StateError, match="reading only"):
            rows.scatter("users", ["a"], np.ones((1, 3)))
    assert hashes(checkpoint) == before
    assert not any(temporary.iterdir())
    with pytest.raises(StateError, match="closed"):
        rows.gather("users", ["7"])


def test_the_stored_format_is_enough_to_read_rows(checkpoint: Path) -> None:
    with ReadOnlyRows(checkpoint) as rows:
        assert [(s.name, s.width, s.dtype) for s in rows.specs] == [("items", 2, "f8"), ("users", 3, "f4")]
        np.testing.assert_array_equal(rows.gather("users", ["7"]), [[21, 22, 23]])


def test_the_stored_format_is_enough_to_read_records(tmp_path: Path) -> None:
    parts = (TableSpec(name="context", width=2, dtype="f8"), TableSpec(name="row", width=3), TableSpec(name="held", width=2, dtype="i1"))
    spec = RecordSpec(name="user", parts=parts, held=2, optional=1, blocks=((0,), (1, 2)))
    store = RocksRowStore(RocksConfig(directory=tmp_path / "live"), [spec])
    lent = store.lend("user", ["a"])
    for slab, values in zip(lent.slabs, ([1.0, 2.0], [3.0, 4.0, 5.0], [0, 1]), strict=True):
        slab[lent.slots] = values
    store.keep("user", lent)
    store.persist(store.capture(), tmp_path / "checkpoint")
    store.close()
    for specs in (None, [spec]):
        with ReadOnlyRows(tmp_path / "checkpoint", specs) as rows:
            assert [(s.held, s.optional, s.blocks) for s in rows.specs] == [(2, 1, ((0,), (1, 2)))]
            assert [part.tolist() for part in dict(rows.records("user"))["a"]] == [[1.0, 2.0], [0.0, 4.0, 5.0], [0, 1]]
            with pytest.raises(StateError, match="reading only"):
                rows.keep("user", rows.lend("user", ["a"]))
    with pytest.raises(CheckpointError, match="stored as"):
        ReadOnlyRows(tmp_path / "checkpoint", [replace(spec, blocks=((1,), (0, 2)))])


def test_a_reader_outlives_the_checkpoint_it_reads(checkpoint: Path) -> None:
    with ReadOnlyRows(checkpoint, SPECS) as rows:
        shutil.rmtree(checkpoint)
        np.testing.assert_array_equal(rows.gather("users", ["7", "99"]), [[21, 22, 23], [297, 298, 299]])
        assert len(list(rows.items("users"))) == 100


def test_what_is_removed_while_a_checkpoint_is_written_waits_for_nobody(tmp_path: Path) -> None:
    rows = np.arange(9, dtype="f4").reshape(3, 3)
    with opened(tmp_path / "live") as store:
        store.scatter("users", ["a", "b", "c"], rows)
        capture = store.capture()
        store.remove("users", ["a", "c"])  # nobody persists it yet
        assert list(store.ids_after("users", None, 5)) == ["b"]
        np.testing.assert_array_equal(store.gather("users", ["a"]), SPECS[0].initial(["a"]))
        store.scatter("users", ["c"], rows[:1])
        assert store.count("users") == 2
        store.persist(capture, tmp_path / "first")
        assert [i for i, _ in contents(store)["users"]] == ["b", "c"]
        store.persist(store.capture(), tmp_path / "second")
    for name, kept in (("first", {"a": rows[0], "b": rows[1], "c": rows[2]}), ("second", {"b": rows[1], "c": rows[0]})):
        with ReadOnlyRows(tmp_path / name, SPECS) as read:
            assert contents(read)["users"] == [(i, row.tobytes()) for i, row in kept.items()]
            assert (read.count("users"), list(read.ids_after("users", "a", 9))) == (len(kept), [i for i in kept if i > "a"])


def test_a_checkpoint_keeps_what_was_removed_after_it_and_the_next_one_does_not(tmp_path: Path) -> None:
    with opened(tmp_path / "live", cache_bytes=1 << 20) as store:
        store.scatter("users", ["a", "b", "c"], np.ones((3, 3)))
        store.persist(store.capture(), tmp_path / "first")
        store.remove("users", ["a", "c"])
        assert store.count("users") == 1
        store.persist(store.capture(), tmp_path / "second")
    for folder, expected in (("first", ["a", "b", "c"]), ("second", ["b"])):
        with ReadOnlyRows(tmp_path / folder, SPECS) as rows:
            assert [i for i, _ in rows.items("users")] == expected
            assert rows.count("users") == len(expected)
            with pytest.raises(StateError):
                rows.remove("users", ["b"])
