"""Checkpoint directories: written whole, damage of every kind named and refused, the last few kept, one trainer at a time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoemb_pipeline.checkpoint.lock import state_lock
from autoemb_pipeline.checkpoint.reading import open_newest
from autoemb_pipeline.checkpoint.store import CheckpointStore, NewestValid
from autoemb_pipeline.checkpoint.writer import CheckpointWriter
from autoemb_pipeline.errors import CheckpointError, ConfigurationError, StateError
from autoemb_pipeline.rows import TableSpec
from autoemb_pipeline.state.options import RocksConfig
from autoemb_pipeline.state.rocks import RocksRowStore
from tests.checkpoint.storage_run import digest, run

SPECS = [TableSpec(name="users", width=2)]
TENSORS = {
    "b": np.arange(6.0).reshape(2, 3),
    "a": np.array([True, False]),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "nothing": np.zeros((0, 3), dtype=np.float32),
}
PAYLOAD = {"topic": {"id": "abc", "offsets": {"0": 12, "1": 2**62}}, "frontier": [1, "ml", 2], "nothing": None}


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    store = RocksRowStore(RocksConfig(directory=tmp_path / "live"), SPECS)
    yield store
    store.close()


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, keep=2)


@pytest.fixture
def write(checkpoints: CheckpointStore, rows: RocksRowStore) -> Callable[[int], int | None]:
    writer = CheckpointWriter(checkpoints)

    def write_step(step: int) -> int | None:
        rows.scatter("users", [str(step), "all"], np.full((2, 2), step))
        writer.begin(step, {**PAYLOAD, "step": step}, TENSORS, rows)
        return writer.wait()

    return write_step


def last_values(checkpoints: CheckpointStore) -> tuple[int, float]:
    with open_newest(checkpoints) as opened:
        return opened.loaded.step, float(opened.rows.gather("users", ["all"])[0, 0])


def test_everything_comes_back_as_it_was(checkpoints: CheckpointStore, write: Callable[[int], int | None]) -> None:
    assert write(7) == 7
    loaded = checkpoints.load(7)
    assert (loaded.step, loaded.payload) == (7, {**PAYLOAD, "step": 7})
    assert loaded.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert np.array_equal(loaded.tensors[name], tensor)
    assert last_values(checkpoints) == (7, 7)


def test_what_changes_after_begin_is_not_in_the_checkpoint(checkpoints: CheckpointStore, rows: RocksRowStore) -> None:
    writer = CheckpointWriter(checkpoints)
    tensor, payload = np.zeros(3), {"list": [1]}
    rows.scatter("users", ["all"], np.ones((1, 2)))
    writer.begin(1, payload, {"t": tensor}, rows)
    tensor += 1
    payload["list"].append(2)
    rows.scatter("users", ["all", "new"], np.full((2, 2), 9.0))
    assert writer.busy
    with pytest.raises(RuntimeError, match="under way"):
        writer.begin(2, {}, {}, rows)
    assert writer.wait() == 1
    assert not writer.busy
    assert writer.poll() is None
    loaded = checkpoints.load(1)
    assert loaded.payload == {"list": [1]}
    assert not loaded.tensors["t"].any()
    with open_newest(checkpoints) as opened:
        assert [i for i, _ in opened.rows.items("users")] == ["all"]
        assert opened.rows.gather("users", ["all"])[0, 0] == 1


def test_poll_tells_the_end_once(checkpoints: CheckpointStore, rows: RocksRowStore) -> None:
    writer = CheckpointWriter(checkpoints)
    assert writer.poll() is None
    writer.begin(3, {}, {}, rows)
    told: list[int] = []
    while not told:
        if (step := writer.poll()) is not None:
            told.append(step)
    assert told == [3]
    assert writer.poll() is None
    assert writer.last is not None
    assert writer.last.step == 3
    assert writer.last.fresh_bytes > 0


@pytest.mark.parametrize("payload", [{1: 2}, {"a": {"b": {3: 4}}}, {"a": object()}])
def test_what_cannot_be_stored_is_refused_at_once(checkpoints: CheckpointStore, rows: RocksRowStore, payload: Any) -> None:
    writer = CheckpointWriter(checkpoints)
    with pytest.raises(TypeError):
        writer.begin(1, payload, {}, rows)
    writer.begin(1, {}, {}, rows)  # and leaves the writer and the rows usable
    assert writer.wait() == 1


def test_the_last_few_are_kept(checkpoints: CheckpointStore, write: Callable[[int], int | None]) -> None:
    for step in range(1, 6):
        write(step)
    assert checkpoints.list() == (4, 5)
    assert sorted(p.name for p in checkpoints.directory.iterdir()) == ["step-000000004", "step-000000005"]
    assert checkpoints.newest_valid() == NewestValid(step=5)
    assert last_values(checkpoints) == (5, 5)


def test_a_step_written_twice_is_replaced(checkpoints: CheckpointStore, write: Callable[[int], int | None], rows: RocksRowStore) -> None:
    write(4)
    rows.scatter("users", ["extra"], np.ones((1, 2)))
    write(4)
    assert checkpoints.list() == (4,)
    assert checkpoints.verify(4) == ()
    with open_newest(checkpoints) as opened:
        assert opened.rows.count("users") == 3


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


FILES = ["manifest.json", "tensors.safetensors", "rocksdb/*.sst", "rocksdb/MANIFEST-*",
         "rocksdb/CURRENT", "rocksdb/OPTIONS-*"]  # fmt: skip


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("pattern", FILES)
def test_damage_is_named_and_the_previous_checkpoint_used(
    checkpoints: CheckpointStore, write: Callable[[int], int | None], pattern: str, damage: Callable[[Path], None]
) -> None:
    write(1)
    write(2)
    shared = {p.stat().st_ino for p in checkpoints.path(1).rglob("*.sst")}
    path = next(p for p in sorted(checkpoints.path(2).glob(pattern)) if p.stat().st_ino not in shared)
    if path.stat().st_nlink > 1:  # damage this checkpoint's copy only: links to the live database and older checkpoints stay whole
        copy = path.with_suffix(".copy")
        shutil.copy2(path, copy)
        copy.replace(path)
    damage(path)
    name = path.relative_to(checkpoints.path(2)).as_posix()
    found = checkpoints.newest_valid()
    assert found.step == 1
    (refused,) = found.refused
    assert (refused.step, refused.path) == (2, checkpoints.path(2))
    assert [p.partition(":")[0] for p in refused.problems] == [name]
    assert checkpoints.verify(1) == ()
    assert last_values(checkpoints) == (1, 1)
    if not name.startswith("rocksdb"):
        with pytest.raises(CheckpointError, match=name):
            checkpoints.load(2)


def test_a_byte_changed_anywhere_in_the_manifest_is_found(checkpoints: CheckpointStore, write: Callable[[int], int | None]) -> None:
    write(1)
    path = checkpoints.path(1) / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert checkpoints.verify(1), f"byte {place}"
    path.write_bytes(whole + b"\n")
    assert checkpoints.verify(1)
    path.write_bytes(whole)
    assert checkpoints.verify(1) == ()


def test_a_checkpoint_of_another_format_is_named(checkpoints: CheckpointStore, write: Callable[[int], int | None]) -> None:
    write(1)
    path = checkpoints.path(1) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "format": 99}))
    assert "format 99" in checkpoints.verify(1)[0]


def test_a_renamed_checkpoint_is_refused(checkpoints: CheckpointStore, write: Callable[[int], int | None]) -> None:
    write(1)
    checkpoints.path(1).rename(checkpoints.path(2))
    assert checkpoints.verify(2) == ("manifest.json: is of step 1",)


def test_when_all_are_damaged_no_reader_starts_afresh(checkpoints: CheckpointStore, write: Callable[[int], int | None]) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"), open_newest(checkpoints):
        pass
    write(1)
    flip(checkpoints.path(1) / "tensors.safetensors")
    assert checkpoints.newest_valid().step is None
    with pytest.raises(CheckpointError, match="damaged") as raised, open_newest(checkpoints):
        pass
    assert "tensors.safetensors" in raised.value.why


def test_recovery_sets_damaged_ones_aside_and_clears_what_was_half_written(
    checkpoints: CheckpointStore, write: Callable[[int], int | None]
) -> None:
    write(1)
    write(2)
    flip(checkpoints.path(2) / "tensors.safetensors")
    for name in ("tmp-step-000000003", "tmp-pruned-step-000000000"):
        shutil.copytree(checkpoints.path(1), checkpoints.directory / name)
    found = checkpoints.recover()
    assert found.step == 1
    assert [r.path.name for r in found.refused] == ["refused-step-000000002"]
    assert sorted(p.name for p in checkpoints.directory.iterdir()) == ["refused-step-000000002", "step-000000001"]
    assert checkpoints.recover() == NewestValid(step=1)
    for step in (2, 3, 4, 5):
        write(step)
    assert sorted(p.name for p in checkpoints.directory.iterdir()) == ["step-000000004", "step-000000005"]  # the refused one aged out


def test_a_crash_while_a_step_is_replaced_loses_nothing(checkpoints: CheckpointStore, write: Callable[[int], int | None]) -> None:
    write(1)
    checkpoints.path(1).rename(checkpoints.directory / "tmp-replaced-step-000000001")
    assert checkpoints.recover() == NewestValid(step=1)


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        CheckpointStore(tmp_path, keep=0)


def test_hashes_of_linked_files_are_carried_over_but_not_their_damage(
    checkpoints: CheckpointStore, write: Callable[[int], int | None], rows: RocksRowStore
) -> None:
    rows.scatter("users", [f"old {k}" for k in range(20_000)], np.random.default_rng(0).normal(size=(20_000, 2)))
    sizes = []
    for step in (1, 2):
        write(step)
        sizes.append(sum(p.stat().st_size for p in checkpoints.path(step).rglob("*.sst")))
    big = max(checkpoints.path(2).rglob("*.sst"), key=lambda p: p.stat().st_size)
    assert big.stat().st_nlink > 1
    flip(big)
    problems = {step: checkpoints.verify(step) for step in (1, 2)}
    assert all(big.name in problems[step][0] for step in (1, 2))
    assert sizes[0] > 200_000


def test_only_new_bytes_are_read_and_synced(checkpoints: CheckpointStore, rows: RocksRowStore) -> None:
    writer = CheckpointWriter(checkpoints)
    rows.scatter("users", [f"old {k}" for k in range(20_000)], np.random.default_rng(0).normal(size=(20_000, 2)))
    fresh = []
    for step in (1, 2):
        writer.begin(step, {}, {}, rows)
        writer.wait()
        fresh.append(writer.last.fresh_bytes)
        rows.scatter("users", ["old 3"], np.ones((1, 2)))
    again = CheckpointWriter(CheckpointStore(checkpoints.root, keep=2))  # a new process knows the hashes from the manifest
    again.begin(3, {}, {}, rows)
    again.wait()
    fresh.append(again.last.fresh_bytes)
    assert fresh[0] > 300_000
    assert max(fresh[1:]) < 60_000
    assert checkpoints.verify(3) == ()


def test_a_reused_file_name_does_not_inherit_a_hash(tmp_path: Path, rows: RocksRowStore) -> None:
    checkpoints = CheckpointStore(tmp_path, keep=100)

    def train(store: RocksRowStore, first: int) -> None:
        writer = CheckpointWriter(checkpoints)
        for step in range(first, first + 6):
            store.scatter("users", [f"{first} {step}"], np.ones((1, 2)))
            writer.begin(step, {}, {}, store)
            writer.wait()

    train(rows, 1)
    fork = RocksRowStore(RocksConfig(directory=tmp_path / "fork", source=checkpoints.load(1).rows), SPECS)
    train(fork, 7)  # from an older checkpoint while newer ones are there: RocksDB counts its files up from the same number
    fork.close()
    files = {(p.name, p.stat().st_ino) for p in checkpoints.directory.rglob("*.sst")}
    assert len(files) > len({name for name, _ in files})
    assert [checkpoints.verify(step) for step in checkpoints.list()] == [()] * 12


@pytest.mark.parametrize("cache_bytes", [1, 5_000, 50_000, 1 << 24])
def test_the_checkpoint_does_not_depend_on_the_cache_or_on_restarts(tmp_path: Path, cache_bytes: int) -> None:
    run(tmp_path / "reference", 20)
    run(tmp_path / "other", 7, cache_bytes=cache_bytes)
    run(tmp_path / "other", 20, cache_bytes=cache_bytes)
    assert digest(tmp_path / "other") == digest(tmp_path / "reference")


def test_readers_beside_a_trainer_always_find_one_whole_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, 3, keep=1)
    trainer = threading.Thread(target=run, args=(tmp_path, 90), kwargs={"keep": 1})
    trainer.start()
    seen = set()
    while trainer.is_alive():
        with open_newest(CheckpointStore(tmp_path)) as opened:
            assert opened.refused == ()
            seen.add(opened.loaded.step)
            assert opened.loaded.payload["users"] == opened.rows.count("users") == len(list(opened.rows.items("users")))
    trainer.join()
    assert len(seen) > 1


def test_a_second_trainer_is_refused_and_told_who_holds_the_directory(tmp_path: Path) -> None:
    with state_lock(tmp_path / "state"), pytest.raises(StateError, match=str(os.getpid())), state_lock(tmp_path / "state"):
        pass
    with state_lock(tmp_path / "state"):
        pass


def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    code = "import sys, time, pathlib\nfrom autoemb_pipeline.checkpoint.lock import state_lock\n"
    code += "with state_lock(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StateError) as raised, state_lock(tmp_path):
        pass
    assert f"process {holder.pid}" in raised.value.what
    assert str(holder.pid) in raised.value.remedy
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with state_lock(tmp_path):
        pass


def test_a_state_directory_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be used"), state_lock(tmp_path / "file" / "state"):
        pass
