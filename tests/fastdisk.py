"""Directories for tests that sync thousands of times: in memory where the machine has room there, since it is not the disk they test."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only as a file system; names come from mkdtemp
_ROOM = 512 << 20


def fast_directory() -> str | None:
    """Where to make temporary directories; None: the usual place."""
    try:
        usable = os.access(_SHARED_MEMORY, os.W_OK) and shutil.disk_usage(_SHARED_MEMORY).free > _ROOM
    except OSError:
        return None
    return str(_SHARED_MEMORY) if usable else None


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Overrides pytest's, for the folders whose conftest imports it."""
    with tempfile.TemporaryDirectory(prefix="autoemb-test-", dir=fast_directory()) as directory:
        yield Path(directory).resolve()
