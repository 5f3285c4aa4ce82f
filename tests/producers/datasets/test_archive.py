import stat
import zipfile
from pathlib import Path

import pytest

from autoemb_pipeline.errors import DatasetError
from autoemb_pipeline.producers.datasets.archive import extract

PATTERNS = ("ratings.csv", "README*")


def archive(path: Path, members: dict[str, bytes], **attributes: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = attributes.get(name, 0o644 | stat.S_IFREG) << 16
            # after the constructor, which would repair the name
            info.filename = info.orig_filename = name
            opened.writestr(info, content)
    return path


def extracted(path: Path, folder: Path, **settings) -> list[str]:
    folder.mkdir()
    extract(path, folder, PATTERNS, **settings)
    return sorted(p.name for p in folder.iterdir())


def test_only_what_is_asked_for_comes_out_and_without_its_folders(tmp_path):
    members = {"ml/": b"", "ml/ratings.csv": b"r", "ml/README.txt": b"R", "ml/movies.csv": b"m", "ml/deep/README.html": b"H"}
    assert extracted(archive(tmp_path / "a.zip", members), tmp_path / "out") == ["README.html", "README.txt", "ratings.csv"]
    assert (tmp_path / "out" / "ratings.csv").read_bytes() == b"r"


@pytest.mark.parametrize(
    "name",
    [
        "../ratings.csv",
        "ml/../../ratings.csv",
        "..\\ratings.csv",
        "ml\\..\\..\\x",
        "/tmp/ratings.csv",  # noqa: S108
        "\\ratings.csv",
        "C:\\ratings.csv",
        "c:ratings.csv",
        "../unrelated.txt",
    ],
)
def test_an_archive_with_a_path_out_of_its_folder_is_refused_as_a_whole(tmp_path, name):
    path = archive(tmp_path / "a.zip", {"ml/ratings.csv": b"r", name: b"evil"})
    with pytest.raises(DatasetError, match="refused to extract") as raised:
        extracted(path, tmp_path / "out")
    assert repr(name) in raised.value.why
    assert {p.name for p in tmp_path.rglob("*")} == {"a.zip", "out"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, kind):
    path = archive(tmp_path / "a.zip", {"ml/ratings.csv": b"/etc/passwd"}, **{"ml/ratings.csv": kind | 0o777})
    with pytest.raises(DatasetError, match="refused to extract"):
        extracted(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_zip_bomb_is_stopped_at_the_limit(tmp_path):
    path = archive(tmp_path / "a.zip", {"ratings.csv": bytes(50_000_000)})
    assert path.stat().st_size < 100_000
    with pytest.raises(DatasetError, match="refused to extract") as raised:
        extracted(path, tmp_path / "out", largest=5_000_000)
    assert "more comes out" in raised.value.why
    assert (tmp_path / "out" / "ratings.csv").stat().st_size <= 5_000_000


def test_a_bomb_whose_table_lies_about_its_size_is_stopped_too(tmp_path):
    path = archive(tmp_path / "a.zip", {"ratings.csv": bytes(50_000_000)})
    raw = path.read_bytes()
    size = (50_000_000).to_bytes(4, "little")
    assert raw.count(size) == 2
    path.write_bytes(raw.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(DatasetError):
        extracted(path, tmp_path / "out", largest=5_000_000)
    assert (tmp_path / "out" / "ratings.csv").stat().st_size <= 5_000_000


def test_the_limit_counts_all_files_together(tmp_path):
    path = archive(tmp_path / "a.zip", {"ratings.csv": bytes(3000), "README": bytes(3000)})
    with pytest.raises(DatasetError, match="refused"):
        extracted(path, tmp_path / "out", largest=5000)


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("autoemb_pipeline.producers.datasets.archive.MOST_MEMBERS", 3)
    path = archive(tmp_path / "a.zip", {"ratings.csv": b"r", "1": b"", "2": b"", "3": b""})
    with pytest.raises(DatasetError, match="refused"):
        extracted(path, tmp_path / "out")


def test_two_files_of_one_name_are_refused(tmp_path):
    path = archive(tmp_path / "a.zip", {"a/ratings.csv": b"r", "b/ratings.csv": b"s"})
    with pytest.raises(DatasetError, match="refused") as raised:
        extracted(path, tmp_path / "out")
    assert "more than once" in raised.value.why


def test_an_archive_without_ratings_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="refused"):
        extracted(archive(tmp_path / "a.zip", {"movies.csv": b"m"}), tmp_path / "out")


@pytest.mark.parametrize("damage", ["no-zip", "cut", "flipped", "encrypted"])
def test_a_damaged_archive_is_a_clear_error(tmp_path, damage):
    path = archive(tmp_path / "a.zip", {"ratings.csv": b"1,2,3,4\n" * 1000})
    raw = bytearray(path.read_bytes())
    if damage == "no-zip":
        raw = bytearray(b"<html>not found</html>")
    elif damage == "cut":
        raw = raw[: len(raw) // 2]
    elif damage == "flipped":
        raw[50] ^= 0xFF
    else:
        raw[6] |= 1
        raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match="cannot extract") as raised:
        extracted(path, tmp_path / "out")
    assert raised.value.why
