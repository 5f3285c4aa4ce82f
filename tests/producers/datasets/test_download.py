import fcntl
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoemb_pipeline.errors import DatasetError
from autoemb_pipeline.producers.datasets.download import Download, fetch
from tests.producers.datasets.file_server import FileServer, serving

CONTENT = random.Random(1).randbytes(700_000)
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as state:
        state.files["/d.zip"] = CONTENT
        state.files["/d.zip.md5"] = f"MD5 (d.zip) = {MD5}\n".encode()
        yield state


def get(server: FileServer, target: Path, **settings) -> None:
    settings = {"size": len(CONTENT), "md5": MD5, "pause": 0.001, **settings}
    fetch(Download(url=server.url + "/d.zip", **settings), target)


def test_a_whole_download_is_moved_into_place_and_leaves_nothing_else(server, tmp_path):
    seen = []
    download = Download(url=server.url + "/d.zip", size=len(CONTENT), md5=MD5.upper())
    fetch(download, tmp_path / "sub" / "d.zip", report=lambda stage, done, total: seen.append((stage, done, total)))
    assert (tmp_path / "sub" / "d.zip").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["d.zip"]
    assert seen[0] == ("download", 0, len(CONTENT))
    assert seen[-1] == ("download", len(CONTENT), len(CONTENT))


def test_without_a_known_checksum_the_published_one_is_read(server, tmp_path):
    get(server, tmp_path / "d.zip", md5=None, size=None)
    assert (tmp_path / "d.zip").read_bytes() == CONTENT
    assert server.requests[0] == ("/d.zip.md5", None)


@pytest.mark.parametrize("published", [None, b"<html>no sum here</html>"])
def test_without_any_checksum_nothing_is_downloaded(server, tmp_path, published):
    server.files.pop("/d.zip.md5")
    if published:
        server.files["/d.zip.md5"] = published
    with pytest.raises(DatasetError, match="cannot download"):
        get(server, tmp_path / "d.zip", md5=None)
    assert all(path.endswith(".md5") for path, _ in server.requests)


@pytest.mark.parametrize("wrong", [{"md5": "0" * 32}, {"size": 5}, {"size": len(CONTENT) + 1}])
def test_a_wrong_checksum_or_size_is_refused_and_not_kept(server, tmp_path, wrong):
    with pytest.raises(DatasetError) as raised:
        get(server, tmp_path / "d.zip", **wrong)
    assert server.url in raised.value.what
    assert "published" in raised.value.why
    assert not (tmp_path / "d.zip").exists()
    get(server, tmp_path / "d.zip")
    assert server.requests[-1] == ("/d.zip", None)
    assert (tmp_path / "d.zip").read_bytes() == CONTENT


def test_a_broken_connection_is_resumed_where_it_broke(server, tmp_path):
    server.break_after = [300_000, 100_000]
    get(server, tmp_path / "d.zip")
    assert [asked for _, asked in server.requests] == [None, "bytes=300000-", "bytes=400000-"]
    assert (tmp_path / "d.zip").read_bytes() == CONTENT


def test_a_later_run_resumes_what_an_earlier_one_left(server, tmp_path):
    server.break_after = [300_000]
    with pytest.raises(DatasetError, match="cannot download") as raised:
        get(server, tmp_path / "d.zip", attempts=1)
    assert "300000 of 700000" in raised.value.why
    assert not (tmp_path / "d.zip").exists()
    get(server, tmp_path / "d.zip")
    assert server.requests[-1] == ("/d.zip", "bytes=300000-")
    assert (tmp_path / "d.zip").read_bytes() == CONTENT


def test_a_download_that_was_complete_but_not_yet_moved_is_not_repeated(server, tmp_path):
    (tmp_path / "d.zip.part").write_bytes(CONTENT)
    (tmp_path / "d.zip.part.etag").write_text('"one"')
    get(server, tmp_path / "d.zip")
    assert server.requests == [("/d.zip", f"bytes={len(CONTENT)}-")]
    assert (tmp_path / "d.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["no-ranges", "other-etag", "weak-etag", "no-etag", "shorter"])
def test_where_resuming_is_not_safe_it_starts_anew(server, tmp_path, change):
    server.break_after = [300_000]
    server.etag = {"weak-etag": 'W/"one"', "no-etag": None}.get(change, '"one"')
    with pytest.raises(DatasetError):
        get(server, tmp_path / "d.zip", attempts=1)
    content = CONTENT
    if change == "no-ranges":
        server.ranges = False
    elif change == "other-etag":
        server.etag, content = '"two"', CONTENT[::-1]
    elif change == "shorter":
        content = CONTENT[:1000]
    server.files["/d.zip"] = content
    get(server, tmp_path / "d.zip", size=len(content), md5=hashlib.md5(content, usedforsecurity=False).hexdigest())
    assert (tmp_path / "d.zip").read_bytes() == content


def test_a_truncated_download_never_counts_as_whole(server, tmp_path):
    server.break_after = [1000] * 3
    server.ranges = False
    with pytest.raises(DatasetError, match="cannot download") as raised:
        get(server, tmp_path / "d.zip")
    assert "1000 of 700000" in raised.value.why
    assert not (tmp_path / "d.zip").exists()


def test_without_a_content_length_the_published_size_decides(server, tmp_path):
    server.length = False
    server.break_after = [1000]
    get(server, tmp_path / "d.zip")
    assert (tmp_path / "d.zip").read_bytes() == CONTENT


def test_more_than_allowed_is_refused(server, tmp_path):
    for length in (True, False):
        server.length = length
        with pytest.raises(DatasetError, match="cannot download") as raised:
            get(server, tmp_path / "d.zip", size=None, largest=1000)
        assert "1000" in raised.value.why


def test_a_missing_file_is_named_with_the_ways_out(server, tmp_path):
    server.files.clear()
    with pytest.raises(DatasetError) as raised:
        get(server, tmp_path / "d.zip")
    assert server.url + "/d.zip" in raised.value.what
    assert "404" in raised.value.why
    assert "--data-dir" in raised.value.remedy
    assert "synthetic" in raised.value.remedy
    assert len(server.requests) == 1


def test_offline_is_a_clear_error_after_the_retries(tmp_path):
    pauses: list[float] = []
    download = Download(url="http://127.0.0.1:9/d.zip", md5=MD5, timeout=1.0)
    with pytest.raises(DatasetError) as raised:
        fetch(download, tmp_path / "d.zip", sleep=pauses.append)
    assert "http://127.0.0.1:9/d.zip" in raised.value.what
    assert "refused" in raised.value.why.lower()
    assert "--data-dir" in raised.value.remedy
    assert pauses == [1.0, 2.0]


def test_a_second_download_of_the_same_file_at_the_same_time_is_refused(server, tmp_path):
    with (tmp_path / "d.zip.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match="cannot download") as raised:
            get(server, tmp_path / "d.zip")
    assert "another process" in raised.value.why


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_other_protocols_are_refused(tmp_path, url):
    with pytest.raises(DatasetError, match="cannot download"):
        fetch(Download(url=url, md5=MD5), tmp_path / "x")
