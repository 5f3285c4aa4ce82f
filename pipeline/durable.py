"""Writing, syncing and hashing files so that they survive a power cut."""

import hashlib
import os
from pathlib import Path


def write_synced(path: Path, data: bytes) -> None:
    """Creates a file and syncs its content; its name is durable once its folder is synced."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(path: Path, data: bytes) -> None:
    """Gives a file new content, durably and at one moment: written beside, synced, renamed, folder synced."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    write_synced(temporary, data)
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Syncs a file's content or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hash of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
