"""Downloads that resume, and are used only when every byte is proved to be the right one."""

import fcntl
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from autoemb_pipeline.errors import DatasetError
from autoemb_pipeline.producers.datasets.progress import Report, silent

_BLOCK: Final = 1 << 18
_MD5: Final = re.compile(r"\b[0-9a-fA-F]{32}\b")
_RESUMED: Final = 206
_OUT_OF_RANGE: Final = 416


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """What to fetch and how to know that it is right.

    Attributes:
        url: http or https.
        size: bytes, where published.
        md5: hex digest, where published; None: read from ``url + ".md5"``, which GroupLens keeps beside each archive.
        timeout: seconds without a byte after which an attempt has failed.
        attempts: tries, each resuming where the last one broke off.
        pause: seconds before the second try, doubled before each further one.
        largest: bytes beyond which the download is refused.
    """

    url: str
    size: int | None = None
    md5: str | None = None
    timeout: float = 30.0
    attempts: int = 3
    pause: float = 1.0
    largest: int = 4 << 30


def fetch(download: Download, target: Path, *, report: Report = silent, sleep: Callable[[float], None] = time.sleep) -> None:
    """Downloads to ``target``, which exists afterwards only if size and MD5 are right.

    What has arrived waits in ``target.part`` (with the server's ETag beside it) and is resumed by the next attempt or the next run where
    the server allows ranges. An unchanged file is asked for by ``If-Range``; a changed one is fetched anew.

    Raises:
        DatasetError: no connection, an HTTP error, a wrong size or checksum, or another download of the same file under way.
    """
    if not download.url.startswith(("http://", "https://")):
        raise _failed(download, f"{download.url.partition(':')[0]} is not a protocol for downloads")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(download, target.with_name(target.name + ".part")) as part:
            md5 = download.md5 or _published_md5(download)
            for attempt in range(download.attempts):
                try:
                    _transfer(download, part, report)
                    break
                except urllib.error.HTTPError:
                    raise
                except (OSError, http.client.HTTPException) as error:
                    if attempt == download.attempts - 1:
                        raise _failed(download, f"{_reason(error)}, {download.attempts} times; what arrived is kept") from error
                    sleep(download.pause * 2**attempt)
            _verify(download, part, md5)
            os.fsync(part.fileno())
            Path(part.name).replace(target)
            _etag_file(part).unlink(missing_ok=True)
    except urllib.error.HTTPError as error:
        raise _failed(download, f"the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _failed(download, _reason(error)) from error


def _failed(download: Download, why: str) -> DatasetError:
    return DatasetError(
        f"cannot download {download.url}",
        why=why,
        remedy="run it again (it resumes); or download the file elsewhere and name its folder with --data-dir; or use --dataset synthetic",
    )


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", "") or error) or type(error).__name__


@contextmanager
def _locked(download: Download, path: Path) -> Iterator[IO[bytes]]:
    with path.open("ab+") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _failed(download, f"another process is downloading it into {path}") from error
        yield part


def _published_md5(download: Download) -> str:
    with urllib.request.urlopen(download.url + ".md5", timeout=download.timeout) as response:  # noqa: S310 - scheme checked in `fetch`
        checksum = _MD5.search(response.read(4096).decode("ascii", "replace"))
    if checksum is None:
        raise _failed(download, f"{download.url}.md5 holds no MD5, so the file could not be verified")
    return checksum.group()


def _etag_file(part: IO[bytes]) -> Path:
    return Path(part.name + ".etag")


def _transfer(download: Download, part: IO[bytes], report: Report) -> None:
    """One attempt: appends to ``part`` what it lacks. Raises OSError or HTTPException when it breaks off."""
    have = part.seek(0, os.SEEK_END)
    etag_file = _etag_file(part)
    etag = etag_file.read_text(encoding="ascii", errors="ignore") if etag_file.exists() else ""
    request = urllib.request.Request(download.url)  # noqa: S310 - scheme checked in `fetch`
    # a weak validator must not be used with If-Range (RFC 9110, 13.1.5)
    if have and etag and not etag.startswith("W/"):
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", etag)
    try:
        response = urllib.request.urlopen(request, timeout=download.timeout)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != _OUT_OF_RANGE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        part.truncate(0)
        raise ConnectionError("the server's file is shorter than what was downloaded before") from error
    with response:
        resumed = response.status == _RESUMED and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not resumed:
            if response.status == _RESUMED:
                raise ConnectionError("the server sent another range than was asked for")
            part.truncate(0)
            have = 0
        etag_file.write_text(response.headers.get("ETag") or response.headers.get("Last-Modified") or "", encoding="ascii")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else download.size
        _copy(download, response, part, (have, total), report)


def _copy(
    download: Download, response: http.client.HTTPResponse, part: IO[bytes], progress: tuple[int, int | None], report: Report
) -> None:
    done, total = progress
    if (total or 0) > download.largest:
        raise _failed(download, f"{total} bytes are more than the {download.largest} allowed")
    report("download", done, total)
    while block := response.read(_BLOCK):
        done += len(block)
        if done > download.largest:
            raise _failed(download, f"more than the {download.largest} bytes allowed arrived")
        part.write(block)
        report("download", done, total)
    part.flush()
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _verify(download: Download, part: IO[bytes], md5: str) -> None:
    part.seek(0)
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    while block := part.read(_BLOCK):
        digest.update(block)
        size += len(block)
    wrong = ""
    if download.size is not None and size != download.size:
        wrong = f"{size} bytes arrived, {download.size} are published"
    elif digest.hexdigest() != md5.lower():
        wrong = f"its MD5 is {digest.hexdigest()}, published is {md5.lower()}"
    if wrong:
        # nothing of it can be trusted, so nothing of it is resumed
        part.truncate(0)
        _etag_file(part).unlink(missing_ok=True)
        raise _failed(download, f"{wrong}: damaged on its way, or replaced on the server")
