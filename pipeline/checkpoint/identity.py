"""Who a run is: its id, and everything that decides its bits. Written at the start into ``run.json`` of the state directory.

Twice: before the checkpoint of step 0, and again (`RunIdentity.begun`) when that checkpoint is durable and before anything is trained or
sent. So a run that has begun has had a checkpoint ever since, and one that has none is damaged, not new.
"""

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np

from autoemb_pipeline.durable import replace_synced, sync
from autoemb_pipeline.errors import CheckpointError, StateError
from autoemb_pipeline.learners.config import LearnerConfig

IDENTITY_FILE = "run.json"
ARCHIVE = "old-runs"
CHECKPOINTS = "checkpoints"
_OF_A_RUN = (CHECKPOINTS, "predictions", "outputs.json")
# 2: a learner's configuration holds the fields of its own class only; 3: records, one value per user and item; 4: these may hold numbers of
# 16 bits, and parts that begin with their length; 5: the panel's share, and another order of sums.
FORMAT = 5
# The last ones that read them.
READERS_OF_OLDER_STATE = (
    "format 1: go on with commit 605c1f6; format 2: with commit 7e4f470; format 3: with commit 01fb9f3; format 4: with ed9eea2"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunIdentity:
    """Identity of a run.

    Attributes:
        run_id: key prefix of its metrics.
        configuration: flat names -> values of all that decides the bits once the stream is given.
        topic_id: the interactions topic's id (KIP-516): a recreated topic of the same name has another.
        metrics_start, dead_letters_start: end offsets of the output topics when the run began; where its own records are looked for.
        begun: the checkpoint of step 0 has been written. False in one window only: between the first ``run.json`` and that checkpoint, in
            which nothing is trained and nothing sent. (Runs of versions without this field may have trained anything.)
    """

    run_id: str
    configuration: Mapping[str, Any]
    topic_id: str
    metrics_start: int
    dead_letters_start: int
    begun: bool = True


def flatten(configuration: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration as dotted names, tuples as lists: what JSON gives back."""
    flat: dict[str, Any] = {}
    for name, value in configuration.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`, lists as tuples."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        level = nested
        for part in path:
            level = level.setdefault(part, {})
        level[last] = tuple(value) if isinstance(value, list) else value
    return nested


def topics_of(configuration: Mapping[str, Any]) -> Sequence[str]:
    """The input topics of a run's flat configuration, in the order that numbers their partitions."""
    return configuration.get("stream.topics") or [configuration["topic"]]


def new_run_id(method: str, task: str) -> str:
    """Readable, sortable, unique: ``autoemb-binary-20261124-053112-9f3a``."""
    return f"{method}-{task}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def read_identity(state_dir: Path) -> RunIdentity | None:
    """The identity in a state directory, or None if no run began there.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = state_dir / IDENTITY_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        version = fields.pop("format")
        if version == FORMAT:
            return RunIdentity(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a run's identity", why=str(error), remedy="use another --state-dir, or start again here with --new-run"
        ) from error
    raise CheckpointError(
        f"{path} is of format {version}; this program reads format {FORMAT}",
        why="the run was begun by another version of this program",
        remedy=f"{READERS_OF_OLDER_STATE}; or begin anew with --new-run, or use another --state-dir",
    )


def open_identity(
    state_dir: Path, request: RunIdentity, *, explicit_run_id: str | None, new_run: bool, outputs: Callable[[], tuple[int, int]]
) -> RunIdentity:
    """The run of a state directory: the one that began there, if it is the wanted one, else a new one.

    Args:
        state_dir: exists and is locked.
        request: what the command line asks for; its run_id and output positions count for a new run only.
        explicit_run_id: --run-id, if given.
        new_run: put the old run aside and begin a new one.
        outputs: -> (metrics_start, dead_letters_start) for a new run.

    Returns:
        The identity; a new one has not `begun`.

    Raises:
        CheckpointError: the configuration differs from the run's; the message names each field. Or checkpoints lie there without
            an identity.
        StateError: another run id, or the topic was recreated.
    """
    stored = None if new_run else read_identity(state_dir)
    if stored is not None:
        _check_same(stored, request, explicit_run_id)
        return stored
    if not new_run:
        _refuse_orphans(state_dir)
    archive(state_dir)
    metrics_start, dead_letters_start = outputs()
    identity = RunIdentity(
        run_id=request.run_id,
        configuration=request.configuration,
        topic_id=request.topic_id,
        metrics_start=metrics_start,
        dead_letters_start=dead_letters_start,
        begun=False,
    )
    write_identity(state_dir, identity)
    return identity


def _refuse_orphans(state_dir: Path) -> None:
    """Checkpoints whose run cannot be told: a new run in their place would drop what they hold. No kill leaves them (see `archive`)."""
    checkpoints = state_dir / CHECKPOINTS
    if checkpoints.is_dir() and any(not entry.name.startswith("tmp-") for entry in checkpoints.iterdir()):
        raise CheckpointError(
            f"{state_dir} holds checkpoints, but no {IDENTITY_FILE} that says whose",
            why="the file was removed, or only a part of the directory was restored",
            remedy="restore the whole state directory from a backup, or put it aside and begin anew with --new-run",
        )


def write_identity(state_dir: Path, identity: RunIdentity) -> None:
    """Durably; see `replace_synced`. Raises StateError when it cannot be written."""
    text = json.dumps({"format": FORMAT, **asdict(identity)}, indent=1, sort_keys=True)
    try:
        replace_synced(state_dir / IDENTITY_FILE, text.encode())
    except OSError as error:
        raise StateError(f"The state directory {state_dir} cannot be written.", why=str(error), remedy="Free space on its disk.") from error


def archive(state_dir: Path) -> None:
    """Puts a run with all that is its own aside under ``old-runs/``; nothing is deleted.

    The identity goes last: whoever is killed in between finds the old run, not a new one among the old one's checkpoints.
    """
    names = [name for name in (*_OF_A_RUN, IDENTITY_FILE) if (state_dir / name).exists()]
    if not names:
        return
    target = state_dir / ARCHIVE / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    target.mkdir(parents=True)
    for name in names:
        (state_dir / name).rename(target / name)
        sync(target)
        sync(state_dir)


def _check_same(stored: RunIdentity, request: RunIdentity, explicit_run_id: str | None) -> None:
    ways = "go on with the run's own settings, begin anew with --new-run, or use another --state-dir"
    if explicit_run_id is not None and explicit_run_id != stored.run_id:
        raise StateError(
            f"The state directory holds run {stored.run_id}, not {explicit_run_id}", why="a state directory holds one run", remedy=ways
        )
    names = sorted({*stored.configuration, *request.configuration})
    changed = [n for n in names if stored.configuration.get(n) != request.configuration.get(n)]
    if changed:
        details = "; ".join(f"{n} was {stored.configuration.get(n)!r}, is {request.configuration.get(n)!r}" for n in changed)
        raise CheckpointError(
            f"The configuration of run {stored.run_id} has changed: {details}",
            why="its checkpoint would go on to parameters that neither configuration gives",
            remedy=ways,
        )
    if stored.topic_id != request.topic_id:
        raise StateError(
            f"The interactions topic was recreated since run {stored.run_id} began",
            why=f"its id was {stored.topic_id}, is {request.topic_id}; the run's offsets mean nothing in the new one",
            remedy="train on the new topic from its beginning with --new-run, or use another --state-dir",
        )


def environment(learner: LearnerConfig) -> dict[str, str | int]:
    """What, besides configuration and stream, decides the last bits of a sum of this learner's run."""
    return {
        **(_torch_environment() if learner.uses_torch else {}),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "cpu": llvm.get_host_cpu_name(),
        "blas_threads": _blas_threads(),
        "device": learner.device,
    }


def _torch_environment() -> dict[str, str | int]:
    import torch  # noqa: PLC0415 - takes 1.5 s

    return {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def restore_threads(learner: LearnerConfig, saved: Mapping[str, Any], asked: int | None = None) -> None:
    """Sets torch's threads, whose number decides the last bits of sums, where the learner uses torch.

    Args:
        learner: the run's.
        saved: the `environment` of its checkpoint, or nothing.
        asked: goes before what was saved.
    """
    threads = asked if asked is not None else saved.get("threads")
    if learner.uses_torch and threads is not None:
        import torch  # noqa: PLC0415 - takes 1.5 s

        torch.set_num_threads(int(threads))


def _blas_threads() -> int:
    """Threads that numpy's OpenBLAS takes at its start; --threads does not reach them, and they too decide the last bits of sums."""
    asked = (os.environ.get(name, "") for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return next((int(n) for n in asked if n.isdigit() and int(n) > 0), cores)


def environment_changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line per difference that voids bit-for-bit resumption."""
    return [f"{name}: {saved.get(name)} -> {value}" for name, value in now.items() if saved.get(name) != value]
