"""How interactions lie in files: one `Layout` per format, all scanned lazily into the same columns.

A layout's ``scan(file)`` gives a polars LazyFrame with

    line       u32  1-based line (or row) in the file: for error messages, and the order within one timestamp
    user_id    str
    item_id    str
    rating     f64
    timestamp  i64  event time in milliseconds since the epoch, not negative

A column is null where the line is no interaction that `schemas.codec` accepts. Whoever collects the frame refuses such lines
(`autoemb_pipeline.producers.datasets.sorting`), so that no layout decides what happens to bad input.

To add a format, write its ``scan`` and ``detects`` and add a `Layout` to `SPECIFIC_LAYOUTS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import polars as pl

from autoemb_pipeline.errors import DatasetError
from autoemb_pipeline.producers.formats import named, netflix
from autoemb_pipeline.producers.formats.delimited import Delimited, first_line, has_numbers, seconds_or_milliseconds
from autoemb_pipeline.producers.formats.named import Columns

TieKind = Literal["file", "hash"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One file format.

    Attributes:
        name: for messages and for the fingerprint.
        version: raised when ``scan`` reads the same bytes otherwise than before; part of the fingerprint.
        patterns: names of such files in a dataset's folder.
        detects: whether a file's first lines are of this layout.
        scan: the file's interactions in file order, see the module's docstring.
        fallback_encoding: what the bytes are when they are not UTF-8; None: then the file is refused.
        text: whether the file is text (its encoding is checked, and a bad line can be shown).
        several: whether all matching files of a folder make up one dataset; else more than one is an error.
        ties: what orders interactions of one timestamp, unless the user says otherwise.
    """

    name: str
    patterns: tuple[str, ...]
    detects: Callable[[Path], bool]
    scan: Callable[[Path], pl.LazyFrame]
    version: int = 1
    fallback_encoding: str | None = None
    several: bool = False
    text: bool = True
    ties: TieKind = "file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The files of one dataset, in reading order, and their layout."""

    layout: Layout
    files: tuple[Path, ...]


def find_source(path: Path, columns: Columns | None = None) -> Source:
    """The dataset at a path: a file of a known layout, or a folder that holds one.

    Args:
        path: a file or folder.
        columns: names of columns; then only tables with a header (CSV, Parquet) are looked for.

    Raises:
        DatasetError: nothing there, no known layout, or more than one candidate.
    """
    layouts = LAYOUTS if columns is None else _named(columns)
    if path.is_file():
        for layout in layouts:
            # a file that the user names columns of is not to be doubted: what it lacks is said when it is read
            if layout.detects(path) or (columns is not None and layout.text):
                return Source(layout=layout, files=(path,))
        raise DatasetError(
            f"{path} is in no known layout",
            why=f"its first line is {_excerpt(first_line(path))}",
            remedy=f"give a file in one of the layouts {', '.join(layout.name for layout in layouts)}; "
            "of a table with a header, name its columns: --columns user=...,item=...,rating=...,timestamp=...",
        )
    if not path.is_dir():
        raise DatasetError(
            f"no dataset at {path}", why="no such file or folder", remedy="give an existing path, or a name from the catalogue"
        )
    for folder in (path, *_only_subfolder(path)):
        source = _source_in(folder, layouts)
        if source is not None:
            return source
    names = ", ".join(pattern for layout in layouts for pattern in layout.patterns)
    raise DatasetError(f"no dataset in the folder {path}", why=f"none of {names} is there", remedy="give the ratings file itself")


def line_at(path: Path, line: int) -> str:
    """One line of a text file for an error message, shortened, with quotes. ``line`` is 1-based."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == line:
                return _excerpt(raw.rstrip(b"\r\n").decode("utf-8", "replace"))
    return "''"


def _source_in(folder: Path, layouts: Sequence[Layout]) -> Source | None:
    for layout in layouts:
        files = sorted({f for pattern in layout.patterns for f in folder.glob(pattern) if f.is_file() and layout.detects(f)})
        if len(files) > 1 and not layout.several:
            raise DatasetError(
                f"the folder {folder} holds {len(files)} datasets",
                why=", ".join(f.name for f in files),
                remedy=f"name one of them, e.g. --dataset {files[0]}",
            )
        if files:
            return Source(layout=layout, files=tuple(files))
    return None


def _only_subfolder(path: Path) -> Sequence[Path]:
    folders = [p for p in path.iterdir() if p.is_dir()]
    return folders if len(folders) == 1 else ()


def _excerpt(text: str) -> str:
    limit = 80
    return repr(text if len(text) <= limit else text[:limit] + "…")


# --- MovieLens ------------------------------------------------------------------------------------------------------------------------

_TABS: Final = Delimited(separator="\t", width=4)
_COLONS: Final = Delimited(separator="::", width=4)
_CSV_HEADER: Final = ("userId", "movieId", "rating", "timestamp")


def _csv_header(path: Path) -> list[str]:
    return [name.strip().strip('"') for name in first_line(path).split(",")]


def _scan_movielens_csv(path: Path) -> pl.LazyFrame:
    header = _csv_header(path)
    user, item, rating, timestamp = (header.index(name) for name in _CSV_HEADER)
    layout = Delimited(separator=",", width=len(header), positions=(user, item, rating, timestamp), header=True, quotes=True)
    return layout.scan(path)


# --- RecBole --------------------------------------------------------------------------------------------------------------------------

_INTER_HEADER: Final = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")


def _inter_header(path: Path) -> list[str]:
    return [name.strip() for name in first_line(path).split("\t")]


def _detects_inter(path: Path) -> bool:
    return set(_INTER_HEADER[:2]) <= set(_inter_header(path))


def _scan_inter(path: Path) -> pl.LazyFrame:
    header = _inter_header(path)
    missing = [name for name in _INTER_HEADER if name not in header]
    if missing:
        raise DatasetError(
            f"{path}, line 1: no column {' and no column '.join(missing)}",
            why=f"the header has {', '.join(header)}; streaming needs a rating and an event time for every interaction",
            remedy="use a RecBole data set with ratings and timestamps",
        )
    user, item, rating, timestamp = (header.index(name) for name in _INTER_HEADER)
    layout = Delimited(
        separator="\t", width=len(header), positions=(user, item, rating, timestamp), header=True, time=seconds_or_milliseconds
    )
    return layout.scan(path)


def _named(columns: Columns) -> tuple[Layout, ...]:
    """Tables with a header; the columns are part of the layouts' names, so that the fingerprint tells them."""
    return (
        Layout(
            name=f"parquet{columns}",
            patterns=("*.parquet",),
            detects=named.is_parquet,
            scan=lambda path: named.scan_parquet(path, columns),
            several=True,
            text=False,
        ),
        Layout(
            name=f"csv{columns}",
            patterns=("*.csv", "*.tsv"),
            detects=lambda path: named.detects_csv(path, columns),
            scan=lambda path: named.scan_csv(path, columns),
        ),
    )


SPECIFIC_LAYOUTS: Final[tuple[Layout, ...]] = (
    Layout(
        name="movielens-csv",
        patterns=("ratings.csv",),
        detects=lambda path: set(_CSV_HEADER) <= set(_csv_header(path)),
        scan=_scan_movielens_csv,
    ),
    Layout(
        name="movielens-dat",
        patterns=("ratings.dat",),
        detects=lambda path: has_numbers(path, "::"),
        scan=_COLONS.scan,
        fallback_encoding="latin-1",
    ),
    Layout(
        name="movielens-tabs",
        patterns=("u.data",),
        detects=lambda path: has_numbers(path, "\t"),
        scan=_TABS.scan,
        fallback_encoding="latin-1",
    ),
    Layout(name="recbole-inter", patterns=("*.inter",), detects=_detects_inter, scan=_scan_inter),
    # the same lines in one file per movie (as given out) or in four (as republished): two layouts, so that a folder with both is read once
    Layout(name="netflix", patterns=("mv_*.txt",), detects=netflix.detects, scan=netflix.scan, several=True, ties="hash"),
    Layout(
        name="netflix-combined", patterns=("combined_data_*.txt",), detects=netflix.detects, scan=netflix.scan, several=True, ties="hash"
    ),
)
# what a file of a known data set is never mistaken for
LAYOUTS: Final = (*SPECIFIC_LAYOUTS, *_named(Columns()))
