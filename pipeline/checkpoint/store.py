"""Checkpoints on disk: which there are, which can be trusted, and how a new one takes its place.

    <state-dir>/LOCK                               held by the trainer
    <state-dir>/live/                              RocksDB's scratch directory
    <state-dir>/checkpoints/step-000000123/        complete, never changed again
    <state-dir>/checkpoints/tmp-...                being written or removed; worthless after a crash
    <state-dir>/checkpoints/refused-step-...       damaged, set aside

A checkpoint is written under a temporary name and renamed when every byte of it is on disk, so a name ``step-...`` means complete.
"""

import contextlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoemb_pipeline.checkpoint import manifest as manifests
from autoemb_pipeline.checkpoint.contents import LoadedCheckpoint, load_contents
from autoemb_pipeline.checkpoint.manifest import MANIFEST_NAME, FileKey, FileRecord, Manifest, ManifestError
from autoemb_pipeline.durable import sha256_of, sync, write_synced
from autoemb_pipeline.errors import CheckpointError, ConfigurationError
from autoemb_pipeline.failpoints import failpoint

_STEP_NAME = re.compile(r"step-(\d{9,})")
_REPLACED = "tmp-replaced-"
_PRUNED = "tmp-pruned-"
_REFUSED = "refused-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A checkpoint that is not used.

    Attributes:
        step: by its name.
        path: where it lies.
        problems: one sentence for each damaged file.
    """

    step: int
    path: Path
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NewestValid:
    """The newest checkpoint to be trusted, and the newer ones that are not.

    Attributes:
        step: None when there is none. With `refused` non-empty that is no fresh start: all there was is damaged.
        refused: newest first.
    """

    step: int | None
    refused: tuple[Refused, ...] = ()


class CheckpointStore:
    """The checkpoints of one state directory.

    Reading methods (`list`, `newest_valid`, `verify`, `load`) change nothing and need no lock; `recover` and `publish` are for
    the process that holds `state_lock`.

    Args:
        root: the state directory.
        keep: how many checkpoints stay.

    Raises:
        ConfigurationError: keep is below 1.
    """

    def __init__(self, root: Path, *, keep: int = 3) -> None:
        if keep < 1:
            raise ConfigurationError(f"Cannot keep {keep} checkpoints.", remedy="Keep at least 1.")
        self.root = root
        self.directory = root / "checkpoints"
        self._keep = keep
        self._hashes: dict[FileKey, str] | None = None

    @property
    def live(self) -> Path:
        """The live database's directory: on the same file system as the checkpoints, so that files can be linked."""
        return self.root / "live"

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies, or would lie."""
        return self.directory / f"step-{step:09d}"

    def list(self) -> tuple[int, ...]:
        """Steps of the complete checkpoints, ascending; damaged ones included."""
        return tuple(sorted(int(match[1]) for name in self._names() if (match := _STEP_NAME.fullmatch(name))))

    def verify(self, step: int) -> tuple[str, ...]:
        """Compares every file with the manifest, byte for byte (SHA-256); reads the whole checkpoint.

        Returns:
            What is wrong, one sentence per file; empty when nothing is.
        """
        directory = self.path(step)
        try:
            manifest = manifests.read(directory)
        except ManifestError as error:
            return (f"{MANIFEST_NAME}: {error}",)
        if manifest.step != step:
            return (f"{MANIFEST_NAME}: is of step {manifest.step}",)
        problems = ((name, _problem(directory / name, record)) for name, record in sorted(manifest.files.items()))
        return tuple(f"{name}: {problem}" for name, problem in problems if problem is not None)

    def newest_valid(self) -> NewestValid:
        """The newest checkpoint whose every byte is as written, and those refused on the way to it."""
        refused: list[Refused] = []
        for step in reversed(self.list()):
            problems = self.verify(step)
            if not problems:
                return NewestValid(step=step, refused=tuple(refused))
            if not self.path(step).exists():  # a trainer beside this reader has pruned it meanwhile, so there is a newer one
                return self.newest_valid()
            refused.append(Refused(step=step, path=self.path(step), problems=problems))
        return NewestValid(step=None, refused=tuple(refused))

    def load(self, step: int) -> LoadedCheckpoint:
        """Payload and tensors, each checked against the manifest; the rows' path.

        Raises:
            CheckpointError: it does not exist or is damaged.
        """
        directory = self.path(step)
        try:
            manifest = manifests.read(directory)
        except ManifestError as error:
            raise CheckpointError(
                f"Checkpoint {directory} cannot be used: {MANIFEST_NAME} is {error}.", remedy="autoemb-pipeline checkpoint ls"
            ) from error
        return load_contents(directory, manifest)

    def manifest(self, step: int) -> Manifest:
        """The manifest alone.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            return manifests.read(self.path(step))
        except ManifestError as error:
            raise CheckpointError(f"Checkpoint {self.path(step)} cannot be used.", why=f"{MANIFEST_NAME}: {error}") from error

    def recover(self) -> NewestValid:
        """For the trainer at start: removes what a crash left half-written, sets damaged checkpoints aside, names the newest valid.

        Where all are damaged they stay in their places, so that every start finds the same.

        Raises:
            CheckpointError: the directory cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            sync(self.root)
            for name in self._names():
                if name.startswith(_REPLACED) and not (self.directory / name.removeprefix(_REPLACED)).exists():
                    (self.directory / name).rename(self.directory / name.removeprefix(_REPLACED))
                elif name.startswith("tmp-"):
                    shutil.rmtree(self.directory / name)
            newest = self.newest_valid()
            if newest.step is None:
                return newest
            return NewestValid(step=newest.step, refused=tuple(self._set_aside(r) for r in newest.refused))
        except OSError as error:
            raise CheckpointError(f"The checkpoints in {self.directory} cannot be put in order.", why=str(error)) from error

    def temporary(self, step: int) -> Path:
        """A new, empty directory in which to prepare the checkpoint of a step."""
        directory = self.directory / f"tmp-{self.path(step).name}"
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        return directory

    def publish(self, prepared: Path, *, step: int, payload: object) -> int:
        """Makes a prepared directory the checkpoint of its step: sync, manifest, rename, sync of the parent; then prunes.

        SST files that an earlier checkpoint holds already are neither read nor synced again: they are immutable, and were.

        Returns:
            Bytes that had to be read and synced.
        """
        failpoint("sync")
        known = self._known_hashes()
        files, fresh = {}, 0
        for path in sorted(p for p in prepared.rglob("*") if p.is_file()):
            name = path.relative_to(prepared).as_posix()
            files[name], carried = _record(path, name, known)
            fresh += 0 if carried else files[name].size
        for folder in sorted((p for p in prepared.rglob("*") if p.is_dir()), reverse=True):
            sync(folder)
        write_synced(prepared / MANIFEST_NAME, Manifest(step=step, payload=payload, files=files).encode())
        sync(prepared)
        failpoint("rename-before")
        self._rename(prepared, self.path(step))
        failpoint("rename-after")
        sync(self.directory)
        self._hashes = _immutable_hashes(files)
        self._prune(step)
        return fresh

    def _rename(self, prepared: Path, final: Path) -> None:
        replaced = self.directory / f"{_REPLACED}{final.name}"
        if final.exists():  # the same step again; recover() puts it back if we die between the two renames
            final.rename(replaced)
        prepared.rename(final)
        if replaced.exists():
            shutil.rmtree(replaced, ignore_errors=True)

    def _prune(self, newest: int) -> None:
        """Removes all but the last `keep` up to the newest. What cannot be removed now is removed at the next start."""
        kept = [step for step in self.list() if step <= newest][-self._keep :]
        for name in self._names():
            match = _STEP_NAME.fullmatch(name.removeprefix(_REFUSED))
            if match and int(match[1]) < kept[0]:
                # Renamed first: a half-removed checkpoint must not look like a damaged one.
                gone = self.directory / f"{_PRUNED}{name}"
                with contextlib.suppress(OSError):
                    (self.directory / name).rename(gone)
                    shutil.rmtree(gone)

    def _set_aside(self, refused: Refused) -> Refused:
        aside = self.directory / f"{_REFUSED}{refused.path.name}"
        if aside.exists():
            shutil.rmtree(aside)
        refused.path.rename(aside)
        return Refused(step=refused.step, path=aside, problems=refused.problems)

    def _names(self) -> tuple[str, ...]:
        try:
            return tuple(sorted(entry.name for entry in self.directory.iterdir()))
        except FileNotFoundError:
            return ()

    def _known_hashes(self) -> dict[FileKey, str]:
        """Hashes of immutable files in the newest checkpoint with a sound manifest."""
        if self._hashes is None:
            self._hashes = {}
            for step in reversed(self.list()):
                with contextlib.suppress(ManifestError):
                    self._hashes = _immutable_hashes(manifests.read(self.path(step)).files)
                    break
        return self._hashes


def _immutable_hashes(files: Mapping[str, FileRecord]) -> dict[FileKey, str]:
    return {record.key(name): record.sha256 for name, record in files.items() if name.endswith(".sst")}


def _record(path: Path, name: str, known: dict[FileKey, str]) -> tuple[FileRecord, bool]:
    """A file's record, and whether its hash was carried over; syncs the file if not."""
    stat = path.stat()
    record = FileRecord(size=stat.st_size, sha256="", inode=stat.st_ino, mtime_ns=stat.st_mtime_ns)
    carried = known.get(record.key(name))
    if carried is None:
        sync(path)
    digest = sha256_of(path) if carried is None else carried
    return FileRecord(size=record.size, sha256=digest, inode=record.inode, mtime_ns=record.mtime_ns), carried is not None


def _problem(path: Path, record: FileRecord) -> str | None:
    try:
        size = path.stat().st_size
        if size != record.size:
            return f"has {size} of {record.size} bytes"
        return None if sha256_of(path) == record.sha256 else "SHA-256 differs"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return str(error)
