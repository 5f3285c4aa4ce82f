"""Datasets by name, and where they are: a path, the data directory, the cache, or their official address."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Final

from autoemb_pipeline.errors import ConfigurationError, DatasetError
from autoemb_pipeline.producers.datasets.archive import extract
from autoemb_pipeline.producers.datasets.download import Download, fetch
from autoemb_pipeline.producers.datasets.progress import Report, silent
from autoemb_pipeline.producers.datasets.shuffling import Order, shuffle
from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.datasets.sorting import building, sort_source
from autoemb_pipeline.producers.datasets.synthetic import PRESETS, SyntheticConfig, generate
from autoemb_pipeline.producers.datasets.ties import Ties
from autoemb_pipeline.producers.formats.layouts import LAYOUTS, SPECIFIC_LAYOUTS, find_source
from autoemb_pipeline.producers.formats.named import Columns

_GROUPLENS: Final = "https://files.grouplens.org/datasets/movielens/"
_LICENCE: Final = (
    "{name} is a MovieLens data set of GroupLens Research, University of Minnesota: for research only, no commercial use without "
    "permission, no endorsement implied; cite Harper and Konstan (2015), https://doi.org/10.1145/2827872. Its README holds the full terms."
)
# what is taken out of a zip archive: the ratings in a known layout, else whatever table is there; and the terms
_KNOWN_MEMBERS: Final = (*(pattern for layout in SPECIFIC_LAYOUTS for pattern in layout.patterns), "README*")
_ANY_MEMBERS: Final = (*(pattern for layout in LAYOUTS for pattern in layout.patterns), "README*")
# names of files that say nothing of the dataset; its folder's name does
_GENERIC: Final = frozenset({"ratings", "u"})
# the folder of the Netflix Prize's archive
_GENERIC_FOLDERS: Final = {"training_set": "netflix"}


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogueEntry:
    """A dataset that can be downloaded.

    Attributes:
        name: as in ``--dataset NAME``.
        url: official address of a zip archive.
        size, md5: as published; None where the archive changes (then the MD5 is read from beside it at download time).
        interactions: how many it holds, about.
    """

    name: str
    url: str
    interactions: str
    size: int | None = None
    md5: str | None = None

    @property
    def licence(self) -> str:
        """What is shown before the download."""
        return _LICENCE.format(name=self.name)


CATALOGUE: Final[Mapping[str, CatalogueEntry]] = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            name="ml-100k",
            url=_GROUPLENS + "ml-100k.zip",
            interactions="100,000",
            size=4_924_029,
            md5="0e33842e24a9c977be4e0107933c0723",
        ),
        CatalogueEntry(
            name="ml-1m", url=_GROUPLENS + "ml-1m.zip", interactions="1 M", size=5_917_549, md5="c4d9eecfca2ab87c1945afe126590906"
        ),
        CatalogueEntry(
            name="ml-20m", url=_GROUPLENS + "ml-20m.zip", interactions="20 M", size=198_702_078, md5="cd245b17a1ae2cc31bb14903e1204af3"
        ),
        # GroupLens regenerates these two from time to time, so nothing about them can be written down here
        CatalogueEntry(name="ml-latest", url=_GROUPLENS + "ml-latest.zip", interactions="33 M"),
        CatalogueEntry(name="ml-latest-small", url=_GROUPLENS + "ml-latest-small.zip", interactions="100,836"),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetOptions:
    """Where datasets are looked for and kept.

    Attributes:
        data_dir: holds NAME/ folders or NAME.zip archives; looked at before anything is downloaded, never written to.
        cache_dir: for downloads and sorted data.
        allow_download: False: what is not there is an error.
        notice: told a dataset's licence before it is downloaded.
        report: told the progress of long steps.
        catalogue: the known names.
        columns: of a table with a header; None: files in known layouts, tables with columns of the usual names.
        ties: what orders interactions of one timestamp; None: the layout's usual way.
        order: by timestamp, or shuffled.
    """

    cache_dir: Path
    data_dir: Path | None = None
    allow_download: bool = True
    notice: Callable[[str], None] = lambda _text: None
    report: Report = silent
    catalogue: Mapping[str, CatalogueEntry] = field(default_factory=lambda: CATALOGUE)
    columns: Columns | None = None
    ties: Ties | None = None
    order: Order = field(default_factory=Order)

    def __post_init__(self) -> None:
        """Refuses a data directory that is none."""
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise ConfigurationError(
                f"no data directory {self.data_dir}",
                why="no such folder",
                remedy="give an existing one with --data-dir or AUTOEMB_DATA_DIR",
            )


def default_cache_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """``AUTOEMB_CACHE_DIR``, else autoemb-pipeline in ``XDG_CACHE_HOME`` (XDG Base Directory Specification), else in ~/.cache."""
    if own := environment.get("AUTOEMB_CACHE_DIR"):
        return Path(own)
    # the specification: a relative XDG_CACHE_HOME is invalid and to be ignored
    base = Path(environment.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "autoemb-pipeline"


def default_data_dir(environment: Mapping[str, str] = os.environ) -> Path | None:
    """``AUTOEMB_DATA_DIR``, or None."""
    value = environment.get("AUTOEMB_DATA_DIR")
    return Path(value) if value else None


def load_dataset(spec: str, options: DatasetOptions) -> SortedDataset:
    """The dataset that ``--dataset SPEC`` means, in the order asked for.

    Looked for in this order: an existing path (file, folder or zip archive); a synthetic preset (`SyntheticConfig.parse`);
    ``data_dir/NAME/`` and ``data_dir/NAME.zip``; the cache; the official address.

    Raises:
        DatasetError: not found, not downloadable, damaged or unreadable.
        ConfigurationError: wrong synthetic parameters.
    """
    dataset = _by_time(spec, options)
    if options.order.kind == "timestamp":
        return dataset
    return shuffle(dataset, options.order.seed, cache_dir=options.cache_dir, report=options.report)


def _by_time(spec: str, options: DatasetOptions) -> SortedDataset:
    path = Path(spec).expanduser()
    if path.exists():
        return _sorted(_unpacked(path, options), _name_of(path.absolute()), options)
    preset = spec.partition(":")[0]
    if preset in PRESETS:
        if options.columns is not None or options.ties is not None:
            raise ConfigurationError(
                f"--columns or --ties with {preset} data", why="it is made in order, not read", remedy="leave the option out"
            )
        return generate(SyntheticConfig.parse(spec), cache_dir=options.cache_dir, report=options.report)
    return _sorted(locate(spec, options), spec, options)


def locate(name: str, options: DatasetOptions) -> Path:
    """The folder with a named dataset's files, downloaded if it must be.

    Raises:
        DatasetError: unknown name, or it cannot be had.
    """
    if options.data_dir is not None and name:
        for candidate in (options.data_dir / name, options.data_dir / f"{name}.zip"):
            if candidate.exists():
                return _unpacked(candidate, options)
    entry = options.catalogue.get(name)
    if entry is None:
        raise DatasetError(
            f"no dataset {name!r}",
            why="neither a path, nor in the data directory, nor in the catalogue",
            remedy=f"use one of {', '.join((*options.catalogue, *PRESETS))}, or the path of a ratings file",
        )
    folder = options.cache_dir / "datasets" / name
    if folder.is_dir():
        return folder
    if not options.allow_download:
        raise DatasetError(
            f"{name} is not on this machine",
            why="downloads are switched off",
            remedy=f"get {entry.url} and name its folder with --data-dir, or use --dataset synthetic",
        )
    options.notice(entry.licence)
    archive = options.cache_dir / "downloads" / f"{name}.zip"
    fetch(Download(url=entry.url, size=entry.size, md5=entry.md5), archive, report=options.report)
    with building(folder, folder.is_dir) as unpacked:
        extract(archive, unpacked, _KNOWN_MEMBERS)
    archive.unlink(missing_ok=True)
    return folder


def _unpacked(path: Path, options: DatasetOptions) -> Path:
    """The path itself, or for a zip archive the cached folder with its ratings."""
    if not (path.is_file() and path.suffix.lower() == ".zip"):
        return path
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    entry = options.catalogue.get(path.stem)
    if entry is not None and entry.md5 not in {None, md5}:
        raise DatasetError(
            f"{path} is not the published {entry.name}",
            why=f"its MD5 is {md5}, published is {entry.md5}",
            remedy=f"get it again from {entry.url}, or rename it if it is meant to be other data",
        )
    folder = options.cache_dir / "unpacked" / f"{path.stem}-{md5}{'' if options.columns is None else '-tables'}"
    if not folder.is_dir():
        with building(folder, folder.is_dir) as unpacked:
            extract(path, unpacked, _members(path, options))
    return folder


def _members(archive: Path, options: DatasetOptions) -> tuple[str, ...]:
    if options.columns is not None:
        return _ANY_MEMBERS
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [PurePosixPath(name).name for name in opened.namelist()]
    except (zipfile.BadZipFile, OSError):
        return _KNOWN_MEMBERS
    known = any(fnmatch(name, p) for name in names for p in _KNOWN_MEMBERS[:-1])
    return _KNOWN_MEMBERS if known else _ANY_MEMBERS


def _sorted(path: Path, name: str, options: DatasetOptions) -> SortedDataset:
    source = find_source(path, options.columns)
    return sort_source(source, name=name, cache_dir=options.cache_dir, ties=options.ties, report=options.report)


def _name_of(path: Path) -> str:
    if path.is_dir():
        return _GENERIC_FOLDERS.get(path.name, path.name)
    return path.parent.name if path.stem in _GENERIC and path.parent.name else path.stem
