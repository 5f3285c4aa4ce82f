"""The manifest: what a checkpoint consists of, with a checksum of every file and of itself."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST_NAME = "manifest.json"

FileKey = tuple[str, int, int, int]


class ManifestError(Exception):
    """The bytes are no manifest of this format; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """One file of a checkpoint.

    Attributes:
        size: in bytes.
        sha256: of its content, in hex.
        inode, mtime_ns: identify an immutable SST file that the next checkpoint links again, so that its hash is carried over.
    """

    size: int
    sha256: str
    inode: int
    mtime_ns: int

    def key(self, name: str) -> FileKey:
        """What an unchanged file keeps from one checkpoint to the next."""
        return (name, self.size, self.inode, self.mtime_ns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A checkpoint's table of contents.

    Attributes:
        step: the step after which everything in it was taken.
        payload: the run's own record: topic ids, offsets, frontier, fingerprints, versions.
        files: path relative to the checkpoint, with ``/``, -> record.
    """

    step: int
    payload: Any
    files: Mapping[str, FileRecord]

    def encode(self) -> bytes:
        """The manifest file's bytes: JSON, with a checksum over the rest of it."""
        body = {
            "format": FORMAT,
            "step": self.step,
            "payload": self.payload,
            "files": {name: asdict(record) for name, record in self.files.items()},
        }
        return _text({**body, "sha256": hashlib.sha256(_text(body)).hexdigest()})


def decode(data: bytes) -> Manifest:
    """The manifest in a file's bytes.

    Raises:
        ManifestError: any byte differs from what `Manifest.encode` wrote, or the format is another one.
    """
    try:
        body = json.loads(data)
        checksum = body.pop("sha256")
        version = body["format"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"not a manifest: {error}") from error
    if version != FORMAT:
        raise ManifestError(f"has format {version}; this program reads format {FORMAT}")
    if checksum != hashlib.sha256(_text(body)).hexdigest() or _text({**body, "sha256": checksum}) != data:
        raise ManifestError("checksum differs")
    files = {name: FileRecord(**record) for name, record in body["files"].items()}
    return Manifest(step=body["step"], payload=body["payload"], files=files)


def read(directory: Path) -> Manifest:
    """The manifest of a checkpoint directory.

    Raises:
        ManifestError: it is missing, unreadable or damaged.
    """
    try:
        return decode((directory / MANIFEST_NAME).read_bytes())
    except FileNotFoundError as error:
        raise ManifestError("missing") from error
    except OSError as error:
        raise ManifestError(str(error)) from error


def frozen_json(value: Any, *, what: str) -> Any:
    """A deep copy of a JSON value, as reading it back will give it.

    Raises:
        TypeError: the value holds what JSON cannot, or a key that is no string (JSON would turn it into one silently).
    """
    _check_keys(value, what)
    return json.loads(json.dumps(value))


def _check_keys(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; JSON takes strings only")
            _check_keys(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item, where)


def _text(body: Mapping[str, Any]) -> bytes:
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()
