import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoemb_pipeline.errors import ConfigurationError, DatasetError
from autoemb_pipeline.producers.datasets.catalogue import (
    CATALOGUE,
    CatalogueEntry,
    DatasetOptions,
    default_cache_dir,
    default_data_dir,
    load_dataset,
)
from tests.producers.datasets.file_server import FileServer, serving

RATINGS = "1::2::3::20\n4::5::1::10\n"


def make_zip(path: Path, content: str = RATINGS) -> bytes:
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(zipfile.ZipInfo("ml-1m/README"), "terms")
        opened.writestr(zipfile.ZipInfo("ml-1m/ratings.dat"), content)
    return path.read_bytes()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as state:
        yield state


@pytest.fixture
def options(server, tmp_path) -> DatasetOptions:
    content = make_zip(tmp_path / "source.zip")
    server.files["/ml-1m.zip"] = content
    entry = CatalogueEntry(
        name="ml-1m",
        url=server.url + "/ml-1m.zip",
        interactions="2",
        size=len(content),
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
    )
    return DatasetOptions(cache_dir=tmp_path / "cache", catalogue={"ml-1m": entry})


def with_(options: DatasetOptions, **changes) -> DatasetOptions:
    return DatasetOptions(**{name: changes.get(name, getattr(options, name)) for name in DatasetOptions.__slots__})


def users(spec: str, options: DatasetOptions) -> list[str]:
    return [i.user_id for i in load_dataset(spec, options).interactions()]


def test_a_named_dataset_is_downloaded_once_with_its_licence_shown(server, options):
    notices: list[str] = []
    options = with_(options, notice=notices.append)
    dataset = load_dataset("ml-1m", options)
    assert dataset.name == "ml-1m"
    assert [i.user_id for i in dataset.interactions()] == ["4", "1"]
    assert len(notices) == 1
    assert "research only" in notices[0]
    assert load_dataset("ml-1m", options) == dataset
    assert len(server.requests) == 1
    assert sorted(p.name for p in (options.cache_dir / "datasets" / "ml-1m").iterdir()) == ["README", "ratings.dat"]
    assert list((options.cache_dir / "downloads").iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_data_directory_comes_before_the_download_and_is_not_written_to(server, options, tmp_path, kind):
    data = tmp_path / "data"
    data.mkdir()
    if kind == "zip":
        make_zip(data / "ml-1m.zip")
    else:
        (data / "ml-1m").mkdir()
        (data / "ml-1m" / "ratings.dat").write_text(RATINGS)
    before = sorted(data.rglob("*"))
    assert users("ml-1m", with_(options, data_dir=data)) == ["4", "1"]
    assert sorted(data.rglob("*")) == before
    assert server.requests == []


def test_a_dataset_of_the_data_directory_need_not_be_in_the_catalogue(options, tmp_path):
    (tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "ratings.dat").write_text(RATINGS)
    assert load_dataset("mine", with_(options, data_dir=tmp_path / "data")).name == "mine"


def test_a_path_comes_before_everything_and_names_the_dataset(options, tmp_path, monkeypatch):
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "ratings.dat").write_text(RATINGS + "9::9::1::1\n")
    monkeypatch.chdir(tmp_path)
    assert users("ml-1m", options) == ["9", "4", "1"]
    assert {load_dataset(str(p), options).name for p in (folder, folder / "ratings.dat", Path("ml-1m"))} == {"ml-1m"}
    (folder / "mine.csv").write_text("userId,movieId,rating,timestamp\n1,2,3,4\n")
    assert load_dataset(str(folder / "mine.csv"), options).name == "mine"
    make_zip(tmp_path / "packed.zip")
    assert load_dataset("packed.zip", options).name == "packed"


def test_the_same_data_has_the_same_fingerprint_wherever_it_was_found(options, tmp_path):
    (tmp_path / "data" / "ml-1m").mkdir(parents=True)
    (tmp_path / "data" / "ml-1m" / "ratings.dat").write_text(RATINGS)
    assert load_dataset("ml-1m", options) == load_dataset("ml-1m", with_(options, data_dir=tmp_path / "data"))


def test_an_archive_that_is_not_the_published_one_is_refused(options, tmp_path):
    (tmp_path / "data").mkdir()
    make_zip(tmp_path / "data" / "ml-1m.zip", RATINGS + "9::9::1::1\n")
    with pytest.raises(DatasetError, match="is not the published ml-1m"):
        load_dataset("ml-1m", with_(options, data_dir=tmp_path / "data"))


def test_a_malicious_download_leaves_no_dataset(server, options, tmp_path):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(zipfile.ZipInfo("ratings.dat"), RATINGS)
        opened.writestr(zipfile.ZipInfo("../evil"), "x")
    server.files["/ml-1m.zip"] = content = path.read_bytes()
    entry = CatalogueEntry(
        name="ml-1m", url=server.url + "/ml-1m.zip", interactions="2", md5=hashlib.md5(content, usedforsecurity=False).hexdigest()
    )
    with pytest.raises(DatasetError, match="refused"):
        load_dataset("ml-1m", with_(options, catalogue={"ml-1m": entry}))
    assert list((options.cache_dir / "datasets").iterdir()) == []


def test_offline_names_the_address_and_the_ways_out(options):
    entry = CatalogueEntry(name="ml-1m", url="http://127.0.0.1:9/ml-1m.zip", interactions="2", md5="0" * 32)
    with pytest.raises(DatasetError) as raised:
        load_dataset("ml-1m", with_(options, catalogue={"ml-1m": entry}))
    assert entry.url in raised.value.what
    with pytest.raises(DatasetError) as raised_without:
        load_dataset("ml-1m", with_(options, catalogue={"ml-1m": entry}, allow_download=False))
    for error in (raised.value, raised_without.value):
        assert "--data-dir" in error.remedy
        assert "synthetic" in error.remedy


@pytest.mark.parametrize("name", ["nonsense", "./absent.csv", ""])
def test_an_unknown_name_lists_the_known_ones(options, name, monkeypatch, tmp_path):
    if not name:
        # an empty name is no path either
        monkeypatch.chdir(tmp_path)
        name = "missing/"
    with pytest.raises(DatasetError, match="no dataset") as raised:
        load_dataset(name, options)
    assert "ml-1m" in raised.value.remedy
    assert "synthetic" in raised.value.remedy


def test_a_missing_data_directory_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigurationError, match="no data directory"):
        DatasetOptions(cache_dir=tmp_path, data_dir=tmp_path / "absent")


def test_synthetic_presets_are_made_with_their_parameters(options):
    dataset = load_dataset("synthetic:interactions=500,seed=3", options)
    assert len(dataset) == 500
    assert dataset.name.startswith("synthetic-n500-seed3-")


def test_the_catalogue_is_complete_and_official():
    assert set(CATALOGUE) == {"ml-100k", "ml-1m", "ml-20m", "ml-latest", "ml-latest-small"}
    for name, entry in CATALOGUE.items():
        assert entry.url == f"https://files.grouplens.org/datasets/movielens/{name}.zip"
        # the benchmark sets never change, the latest ones do
        assert (entry.md5 is None) == (entry.size is None) == name.startswith("ml-latest")
        assert name in entry.licence


def test_default_folders_follow_the_environment():
    assert default_cache_dir({"XDG_CACHE_HOME": "/x"}) == Path("/x/autoemb-pipeline")
    assert default_cache_dir({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache" / "autoemb-pipeline"
    assert default_cache_dir({"AUTOEMB_CACHE_DIR": "/y", "XDG_CACHE_HOME": "/x"}) == Path("/y")
    assert default_data_dir({"AUTOEMB_DATA_DIR": "/z"}) == Path("/z")
    assert default_data_dir({}) is None
