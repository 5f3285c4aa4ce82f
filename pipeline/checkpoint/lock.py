"""One trainer per state directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from autoemb_pipeline.durable import sync
from autoemb_pipeline.errors import StateError
from autoemb_pipeline.private import private_files, tighten

_log = structlog.get_logger()

LOCK_NAME = "LOCK"


@contextmanager
def state_lock(root: Path) -> Iterator[None]:
    """Holds the state directory, which is created if missing, until the block ends or the process dies (flock).

    It holds users' ids and what they rated: while it is held, everything that this process creates is private, and what others could read
    from an earlier time is tightened.

    The lock file stays behind, on purpose: removing it would let two processes hold two files of one name.

    Raises:
        StateError: another process holds it (named by its process id), or the directory or its file system cannot be locked.
    """
    path = root / LOCK_NAME
    with private_files():
        try:
            root.mkdir(parents=True, exist_ok=True)
            sync(root.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(f"The state directory {root} cannot be used.", why=str(error), remedy="Give another --state-dir.") from error
        try:
            _lock(descriptor, root)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            _tighten(root)
            yield
        finally:
            os.close(descriptor)


def _tighten(root: Path) -> None:
    try:
        foreign = tighten(root)
    except OSError as error:
        raise StateError(f"The state directory {root} cannot be made private.", why=str(error), remedy=f"chmod -R go= {root}") from error
    if foreign:  # a volume's root that the system owns, for instance
        _log.warning("others may read the state directory: another user owns a part of it", path=str(foreign[0]), parts=len(foreign))


def _lock(descriptor: int, root: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise StateError(
            f"The state directory {root} is in use by process {holder}.",
            why="Two trainers on one state directory would destroy each other's checkpoints.",
            remedy=f"Stop it (kill {holder}), or give another --state-dir.",
        ) from error
    except OSError as error:
        raise StateError(
            f"The state directory {root} cannot be locked.",
            why=f"Its file system refuses flock: {error}",
            remedy="Give a --state-dir on a local file system.",
        ) from error
