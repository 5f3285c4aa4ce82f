"""Files that only their owner may read: directories 700, files 600, those included that libraries create (RocksDB)."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE_UMASK = 0o077
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_lock = threading.Lock()
_holders = 0
_umask_before = 0


@contextmanager
def private_files() -> Iterator[None]:
    """Whatever this process creates inside the block is its user's own.

    The umask is the process's, and RocksDB and Parquet ask nothing else; so other threads' files are private meanwhile too. Blocks may
    overlap in several threads: the former umask comes back when the last one ends.
    """
    global _holders, _umask_before  # noqa: PLW0603  # one umask a process
    with _lock:
        if _holders == 0:
            _umask_before = os.umask(PRIVATE_UMASK)
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0:
                os.umask(_umask_before)


def tighten(root: Path) -> list[Path]:
    """Takes group's and others' rights from a directory and all in it. Symbolic links are not followed.

    Returns:
        What stays as it was, because another user owns it.

    Raises:
        OSError: for another reason.
    """
    foreign = []
    for path in (root, *(Path(folder, name) for folder, folders, files in os.walk(root) for name in (*folders, *files))):
        try:
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode) and mode & _OTHERS:
                path.chmod(stat.S_IMODE(mode) & ~_OTHERS)
        except FileNotFoundError:
            continue  # a reader's, or a broker's, gone meanwhile
        except PermissionError:
            foreign.append(path)
    return foreign
