"""Takes the ratings out of a dataset's zip archive, without trusting it."""

import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, Final

from autoemb_pipeline.errors import DatasetError

# ml-latest's ratings.csv is below 1 GB; its archive's other members are not extracted
LARGEST: Final = 4 << 30
MOST_MEMBERS: Final = 20_000  # the Netflix Prize data are 17,770 files
_BLOCK: Final = 1 << 20
_DRIVE: Final = re.compile(r"^[A-Za-z]:")


def extract(archive: Path, folder: Path, patterns: Sequence[str], *, largest: int = LARGEST) -> None:
    """Extracts the files whose base names match one of the patterns, flat, into ``folder``.

    An archive with any unsafe member (absolute or climbing path, drive letter, link, device) is refused as a whole, also if that member
    would not be extracted. Sizes are counted as bytes come out, not taken from the archive's own table.

    Args:
        archive: a zip file.
        folder: exists and is empty; left half-filled on an error, so give a temporary one.
        patterns: of base names, e.g. ``ratings.csv``.
        largest: bytes that may come out in all.

    Raises:
        DatasetError: no zip, damaged, unsafe, too large, or without a matching file.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) > MOST_MEMBERS:
                raise _refused(archive, f"it has {len(members)} members")
            for member in members:
                _refuse_unsafe(archive, member)
            matches = [m for m in members if not m.is_dir() and any(fnmatch(PurePosixPath(m.filename).name, p) for p in patterns)]
            _refuse_ambiguous(archive, matches, patterns)
            left = largest
            for member in matches:
                with opened.open(member) as source, (folder / PurePosixPath(member.filename).name).open("xb") as target:
                    left = _copy(archive, source, target, left)
    # RuntimeError: zipfile's word for an encrypted member; NotImplementedError: for an unknown compression
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DatasetError(f"cannot extract {archive}", why=str(error), remedy=f"remove {archive} and download it again") from error


def _refused(archive: Path, why: str) -> DatasetError:
    return DatasetError(f"refused to extract {archive}", why=why, remedy="get the archive from its official address")


def _refuse_unsafe(archive: Path, member: zipfile.ZipInfo) -> None:
    # orig_filename: ZipInfo itself cuts names at a NUL and turns the local separator into slashes
    name = member.orig_filename
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.startswith(("/", "\\")) or _DRIVE.match(name) or "\x00" in name:
        raise _refused(archive, f"member {name!r} has an absolute path")
    if ".." in name.replace("\\", "/").split("/"):
        raise _refused(archive, f"member {name!r} climbs out of its folder")
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise _refused(archive, f"member {name!r} is a {'link' if kind == stat.S_IFLNK else 'special file'}")


def _refuse_ambiguous(archive: Path, matches: Sequence[zipfile.ZipInfo], patterns: Sequence[str]) -> None:
    if not matches:
        raise _refused(archive, f"none of {', '.join(patterns)} is in it")
    names = [PurePosixPath(m.filename).name for m in matches]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise _refused(archive, f"{twice} is in it more than once")


def _copy(archive: Path, source: IO[bytes], target: IO[bytes], left: int) -> int:
    while block := source.read(_BLOCK):
        left -= len(block)
        if left < 0:
            raise _refused(archive, "more comes out of it than a dataset can hold (a zip bomb?)")
        target.write(block)
    return left
