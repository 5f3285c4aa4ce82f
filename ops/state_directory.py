"""Can a directory hold a trainer's state? Checkpoints need locks, hard links, renames and fsync that mean it."""

import fcntl
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from autoemb_pipeline.durable import sync

# The lock's holder and name are those of autoemb_pipeline.checkpoint.lock.
_LOCK_NAME = "LOCK"
_MOUNTS = Path("/proc/self/mounts")
# On these, fsync or flock reach another machine, or a rename is not atomic for its other clients.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "fuse.glusterfs", "fuse.s3fs", "vboxsf"}
_VOLATILE = {"tmpfs", "ramfs"}


class StateDirectoryProblem(Exception):  # noqa: N818  # a finding, not an error of the program
    """Why the directory cannot be used.

    Args:
        text: what is wrong.
        remedy: the command that mends it.
    """

    def __init__(self, text: str, *, remedy: str) -> None:
        super().__init__(text)
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True, slots=True)
class StateDirectoryReport:
    """A directory that can be used.

    Attributes:
        file_system: its type, ``unknown`` where the system does not tell.
        free_bytes, total_bytes: of its disk, for this user.
        holder: process id of the trainer that holds it; None when nobody does.
    """

    file_system: str
    free_bytes: int
    total_bytes: int
    holder: str | None


def examine_state_directory(directory: Path) -> StateDirectoryReport:
    """Tries on the directory (or, if it does not exist, on its nearest parent) what checkpoints do, and cleans up.

    Raises:
        StateDirectoryProblem: it cannot be written, or its file system cannot lock, link, rename or sync, is a network's, or memory.
    """
    if directory.exists() and not directory.is_dir():
        raise StateDirectoryProblem(f"{directory} is a file", remedy="give another --state-dir")
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.is_dir())
    file_system = _file_system(existing)
    if file_system in _NETWORK:
        text = f"{directory} lies on a network file system ({file_system}): locks and syncs cannot be relied on"
        raise StateDirectoryProblem(text, remedy="give a --state-dir on a local disk")
    if file_system in _VOLATILE:
        raise StateDirectoryProblem(
            f"{directory} lies in memory ({file_system}): it is lost at the next boot", remedy="give a --state-dir on a disk"
        )
    _try_operations(existing, directory)
    usage = shutil.disk_usage(existing)
    return StateDirectoryReport(file_system=file_system, free_bytes=usage.free, total_bytes=usage.total, holder=_holder(directory))


def _file_system(path: Path) -> str:
    """Type of the file system of the longest mount point above the path."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    resolved = path.resolve()
    mounts = [(Path(fields[1].encode().decode("unicode_escape")), fields[2]) for fields in (line.split() for line in lines)]
    # Of two mounts on one point the later covers the earlier, and max() takes the first of equals.
    above = [(len(point.parts), kind) for point, kind in reversed(mounts) if resolved.is_relative_to(point)]
    return max(above, key=lambda entry: entry[0])[1] if above else "unknown"


def _try_operations(existing: Path, directory: Path) -> None:
    probe = existing / f".autoemb-doctor-{uuid.uuid4().hex[:8]}"
    doing = "written"
    try:
        probe.mkdir()
        first, second = probe / "first", probe / "second"
        with first.open("wb") as file:
            file.write(b"probe")
            doing = "synced"
            os.fsync(file.fileno())
            doing = "locked"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        doing = "linked to (hard links share a checkpoint's unchanged files)"
        os.link(first, second)
        doing = "renamed"
        second.rename(first)
        doing = "synced as directories"
        sync(probe)
    except OSError as error:
        remedy = f"mkdir -p {directory} && chown $(id -u) {directory}" if doing == "written" else "give a --state-dir on a local disk"
        raise StateDirectoryProblem(f"files in {existing} cannot be {doing}: {error.strerror}", remedy=remedy) from error
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def _holder(directory: Path) -> str | None:
    try:
        with (directory / _LOCK_NAME).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(32).decode(errors="replace").strip() or "unknown"
    except OSError:
        return None
    return None
