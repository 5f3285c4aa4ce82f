"""Checkpoints against kill -9, a full disk and a power cut."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.checkpoint.writer import CheckpointWriter
from autoemb_pipeline.errors import CheckpointError
from autoemb_pipeline.failpoints import VARIABLE
from autoemb_pipeline.rows import TableSpec
from autoemb_pipeline.state.options import RocksConfig
from autoemb_pipeline.state.rocks import RocksRowStore
from tests.checkpoint.storage_run import EVERY, digest, run

ROOT = Path(__file__).resolve().parents[2]
STEPS = 14
FAILPOINTS = ["flush", "rocksdb-checkpoint", "sync", "rename-before", "rename-after"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("reference")
    run(root, STEPS)
    return digest(root)


def run_process(root: Path, *prefix: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, str(ROOT / "tests/checkpoint/storage_run.py"), str(root), str(STEPS)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", FAILPOINTS)
def test_killed_at_a_failpoint_and_started_again(tmp_path: Path, reference: str, name: str, count: int) -> None:
    killed = run_process(tmp_path, environment={VARIABLE: f"{name}:{count}", "PYTHONHASHSEED": str(count)})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    found = CheckpointStore(tmp_path).newest_valid()
    assert found.refused == ()
    done = count if name == "rename-after" else count - 1
    assert found.step == (done * EVERY or None)
    run(tmp_path, STEPS)
    assert digest(tmp_path) == reference
    assert not list((tmp_path / "checkpoints").glob("tmp-*"))


def test_killed_again_and_again(tmp_path: Path, reference: str) -> None:
    for name in ("rename-before", "flush", "rename-after"):
        assert run_process(tmp_path, environment={VARIABLE: f"{name}:2"}).returncode == -signal.SIGKILL
    run(tmp_path, STEPS)
    assert digest(tmp_path) == reference


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_everything_is_synced_before_the_rename_and_the_parent_after(tmp_path: Path, reference: str) -> None:
    root, log = tmp_path / "state", tmp_path / "strace"
    calls = "trace=openat,fsync,fdatasync,rename,renameat,renameat2"
    traced = run_process(
        root, "strace", "-f", "--seccomp-bpf", "-y", "-qq", "-s", "4096", "-e", calls, "-o", str(log), environment={VARIABLE: "elsewhere"}
    )
    if traced.returncode != 0 and "ptrace" in traced.stderr.lower():
        pytest.skip(f"strace may not trace here: {traced.stderr.strip()}")
    assert traced.returncode == 0, traced.stderr
    assert digest(root) == reference
    events = list(_events(log.read_text()))
    renames = [k for k, (kind, path) in enumerate(events) if kind == "rename" and "/checkpoints/step-" in path]
    published = [events[k][1] for k in renames]
    assert len(published) == STEPS // EVERY + 1
    store = CheckpointStore(root)
    for step in store.list():
        final = store.path(step)
        at = renames[published.index(str(final))]
        prepared = str(final.with_name(f"tmp-{final.name}"))
        last_sync = {path: k for k, (kind, path) in enumerate(events[:at]) if kind == "sync"}
        # RocksDB fills rocksdb.tmp and renames it.
        writes = [(k, path.replace("/rocksdb.tmp/", "/rocksdb/")) for k, (kind, path) in enumerate(events) if kind == "write"]
        last_write = {path: k for k, path in writes if path.startswith(prepared + "/")}
        sst_names = {Path(path).name for path in last_sync if path.endswith(".sst")}
        for path in final.rglob("*"):
            there = prepared + str(path)[len(str(final)) :]
            # A linked SST file was synced under its name in the live database or an earlier checkpoint; the file is the same.
            assert there in last_sync or path.name in sst_names, f"{there} was not synced before the rename"
        for path, written in last_write.items():
            assert written < last_sync[path], f"{path} was opened for writing after its last sync"
            assert written < last_sync[str(Path(path).parent)], f"{path}'s folder was not synced after its creation"
        assert last_sync[prepared] == at - 1
        after = next(path for kind, path in events[at + 1 :] if kind in ("sync", "rename"))
        assert after == str(store.directory)


def _events(log: str) -> Iterator[tuple[str, str]]:
    """(sync, path), (rename, target) and (write, path) in order; calls that strace split in two are joined."""
    unfinished: dict[str, str] = {}
    for line in log.splitlines():
        pid, _, rest = line.partition(" ")
        text = rest.strip()
        if text.endswith("<unfinished ...>"):
            unfinished[pid] = text.removesuffix("<unfinished ...>").rstrip()
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text):
            text = unfinished.pop(pid) + resumed[1]
        if found := re.match(r"(?:fsync|fdatasync)\(\d+<(.*?)>\)\s+= 0", text):
            yield "sync", found[1]
        elif found := re.match(r'rename\w*\(.*"(.*?)"(?:, \w+)?\)\s+= 0', text):
            yield "rename", found[1]
        elif found := re.match(r'openat\(.*?, "(.*?)", \S*(?:O_WRONLY|O_RDWR)\S*.*\)\s+= \d+', text):
            yield "write", found[1]


SPECS = [TableSpec(name="users", width=250)]


def train_until_refused(root: Path) -> tuple[CheckpointError, int, int]:
    """Trains with ever more rows until a checkpoint fails; the error, the last good step, and the step that failed."""
    checkpoints = CheckpointStore(root, keep=2)
    checkpoints.recover()
    rows = RocksRowStore(RocksConfig(directory=checkpoints.live), SPECS)
    writer = CheckpointWriter(checkpoints)
    good = 0
    try:
        for step in range(1, 60):
            ids = [f"{step} {k}" for k in range(500 * step)]
            rows.scatter("users", ids, np.random.default_rng(step).normal(size=(len(ids), 250)))
            try:
                writer.begin(step, {"step": step}, {}, rows)
                good = writer.wait() or good
            except CheckpointError as error:
                return error, good, step
        pytest.fail("the disk never filled up")
    finally:
        rows.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(directory)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    (directory / "ballast").write_bytes(bytes(4 << 20))
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


def check_refusal(root: Path, error: CheckpointError, good: int, failed: int) -> None:
    assert good >= 1
    assert failed == good + 1
    assert f"step {good} holds" in error.what
    assert error.remedy
    store = CheckpointStore(root)
    assert store.recover().step == good
    assert store.recover().refused == ()
    assert not list(store.directory.glob("tmp-*"))


def test_a_full_disk_stops_training_and_the_previous_checkpoint_holds(small_disk: Path) -> None:
    root = small_disk / "state"
    error, good, failed = train_until_refused(root)
    assert "No space left on device" in error.why
    check_refusal(root, error, good, failed)
    (small_disk / "ballast").unlink()  # what the remedy says
    rows = RocksRowStore(RocksConfig(directory=root / "live", source=CheckpointStore(root).load(good).rows), SPECS)
    assert rows.count("users") == 500 * sum(range(1, good + 1))
    rows.close()


def test_a_file_size_limit_stops_training_and_the_previous_checkpoint_holds(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_500_000, before[1]))  # Python ignores SIGXFSZ: writes fail with EFBIG
    try:
        error, good, failed = train_until_refused(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in error.why
    check_refusal(tmp_path, error, good, failed)
