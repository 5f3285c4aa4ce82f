"""How interactions lie in files: one `Layout` per format, all scanned lazily into the same columns.

A layout's ``scan(file)`` gives a polars LazyFrame with

    line       u32  1-based line (or row) in the file: for error messages, and the order within one timestamp
    user_id    str
    item_id    str
    rating     f64
    timestamp  i64  event time in milliseconds since the epoch, not negative

A column is null where the line is no interaction that `schemas.codec` accepts. Whoever collects the frame refuses such lines
(`producers.sorting`), so that no layout decides what happens to bad input.

To add a format, write its ``scan`` and ``detects`` and add a `Layout` to `LAYOUTS`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.errors import DatasetError
from schemas.codec import MAX_ID_BYTES

COLUMNS: Final = ("user_id", "item_id", "rating", "timestamp")

# a "second" beyond this lies after the year 5100: it is a millisecond, or rubbish
_SECONDS_LIMIT: Final = 10**11
_BLOCK: Final = 1 << 22


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
    """

    name: str
    patterns: tuple[str, ...]
    detects: Callable[[Path], bool]
    scan: Callable[[Path], pl.LazyFrame]
    version: int = 1
    fallback_encoding: str | None = None
    several: bool = False
    text: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The files of one dataset, in reading order, and their layout."""

    layout: Layout
    files: tuple[Path, ...]


def find_source(path: Path) -> Source:
    """The dataset at a path: a file of a known layout, or a folder that holds one.

    Raises:
        DatasetError: nothing there, no known layout, or more than one candidate.
    """
    if path.is_file():
        for layout in LAYOUTS:
            if layout.detects(path):
                return Source(layout=layout, files=(path,))
        raise DatasetError(
            f"{path} is in no known layout",
            why=f"its first line is {_excerpt(_first_line(path))}",
            remedy=f"give a file in one of the layouts: {', '.join(layout.name for layout in LAYOUTS)}",
        )
    if not path.is_dir():
        raise DatasetError(
            f"no dataset at {path}", why="no such file or folder", remedy="give an existing path, or a name from the catalogue"
        )
    for folder in (path, *_only_subfolder(path)):
        source = _source_in(folder)
        if source is not None:
            return source
    names = ", ".join(pattern for layout in LAYOUTS for pattern in layout.patterns)
    raise DatasetError(f"no dataset in the folder {path}", why=f"none of {names} is there", remedy="give the ratings file itself")


def line_at(path: Path, line: int) -> str:
    """One line of a text file for an error message, shortened, with quotes. ``line`` is 1-based."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == line:
                return _excerpt(raw.rstrip(b"\r\n").decode("utf-8", "replace"))
    return "''"


def _source_in(folder: Path) -> Source | None:
    for layout in LAYOUTS:
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


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        for raw in file.read(_BLOCK).removeprefix(b"\xef\xbb\xbf").splitlines():
            if raw.strip():
                return raw.decode("latin-1")
    return ""


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


# --- delimited text -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Delimited:
    """Where the columns of a delimited text file are.

    Attributes:
        separator: one or more characters.
        width: fields per line; a line with more or fewer is malformed.
        positions: field numbers of user, item, rating, timestamp, from 0.
        header: whether the first line is a header.
        quotes: whether a field may stand in double quotes (CSV, RFC 4180, without line breaks in a field).
        milliseconds: whether a timestamp may be fractional, or in milliseconds.
    """

    separator: str
    width: int
    positions: tuple[int, int, int, int] = (0, 1, 2, 3)
    header: bool = False
    quotes: bool = False
    milliseconds: bool = False

    def scan(self, path: Path) -> pl.LazyFrame:
        """The file's interactions in file order; the file must be UTF-8."""
        lines = _lines(path).filter(pl.col("text").is_not_null() & (pl.col("text") != ""))
        if self.header:
            first = _first_line_number(path)
            lines = lines.filter(pl.col("line") > first)
        quoted = self.quotes and any(b'"' in block for block in _blocks(path))
        fields = self._quoted_fields() if quoted else self._plain_fields()
        names = [f"f{i}" for i in range(self.width + 1)]
        split = lines.select("line", fields.struct.rename_fields(names).alias("fields")).unnest("fields")
        user, item, rating, timestamp = (pl.col(names[i]) for i in self.positions)
        complete = pl.all_horizontal(pl.col(n).is_not_null() for n in names[:-1]) & pl.col(names[-1]).is_null()
        number = rating.cast(pl.Float64, strict=False)
        time = _milliseconds(timestamp) if self.milliseconds else _seconds(timestamp)
        return split.select(
            "line",
            pl.when(complete & _is_id(user)).then(user).alias("user_id"),
            pl.when(_is_id(item)).then(item).alias("item_id"),
            pl.when(number.is_finite()).then(number).alias("rating"),
            time.alias("timestamp"),
        )

    def _plain_fields(self) -> pl.Expr:
        # one field more than asked for: it is null unless the line has too many
        return pl.col("text").str.split_exact(self.separator, self.width)

    def _quoted_fields(self) -> pl.Expr:
        field = f'(?:"((?:[^"]|"")*)"|([^"{self.separator}]*))'
        groups = pl.col("text").str.extract_groups("^" + self.separator.join([field] * self.width) + "$")
        bare = [
            pl.coalesce(groups.struct[2 * i].str.replace_all('""', '"', literal=True), groups.struct[2 * i + 1]) for i in range(self.width)
        ]
        return pl.struct(*(f.alias(f"f{i}") for i, f in enumerate(bare)), pl.lit(None, dtype=pl.String).alias("rest"))


def _lines(path: Path) -> pl.LazyFrame:
    # a separator that no text has makes polars' CSV reader a streaming reader of lines; it strips a byte-order mark and CRs itself
    return pl.scan_csv(
        path,
        has_header=False,
        separator="\x01",
        quote_char=None,
        schema={"text": pl.String},
        truncate_ragged_lines=True,
        row_index_name="line",
        row_index_offset=1,
        glob=False,
    )


def _first_line_number(path: Path) -> int:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.removeprefix(b"\xef\xbb\xbf").strip():
                return number
    return 0


def _is_id(text: pl.Expr) -> pl.Expr:
    return text.str.len_bytes().is_between(1, MAX_ID_BYTES)


def _seconds(text: pl.Expr) -> pl.Expr:
    seconds = text.cast(pl.Int64, strict=False)
    return pl.when(seconds.is_between(0, _SECONDS_LIMIT)).then(seconds * 1000)


def _milliseconds(text: pl.Expr) -> pl.Expr:
    number = text.cast(pl.Float64, strict=False)
    scaled = pl.when(number > _SECONDS_LIMIT).then(number).otherwise(number * 1000)
    return pl.when(scaled.is_between(0, _SECONDS_LIMIT * 1000)).then(scaled.round()).cast(pl.Int64, strict=False)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _has_numbers(path: Path, separator: str) -> bool:
    fields = _first_line(path).split(separator)
    return len(fields) == len(COLUMNS) and _is_number(fields[2]) and _is_number(fields[3])


# --- MovieLens ------------------------------------------------------------------------------------------------------------------------

_TABS: Final = Delimited(separator="\t", width=4)
_COLONS: Final = Delimited(separator="::", width=4)
_CSV_HEADER: Final = ("userId", "movieId", "rating", "timestamp")


def _csv_header(path: Path) -> list[str]:
    return [name.strip().strip('"') for name in _first_line(path).split(",")]


def _scan_movielens_csv(path: Path) -> pl.LazyFrame:
    header = _csv_header(path)
    user, item, rating, timestamp = (header.index(name) for name in _CSV_HEADER)
    layout = Delimited(separator=",", width=len(header), positions=(user, item, rating, timestamp), header=True, quotes=True)
    return layout.scan(path)


# --- RecBole --------------------------------------------------------------------------------------------------------------------------

_INTER_HEADER: Final = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")


def _inter_header(path: Path) -> list[str]:
    return [name.strip() for name in _first_line(path).split("\t")]


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
    layout = Delimited(separator="\t", width=len(header), positions=(user, item, rating, timestamp), header=True, milliseconds=True)
    return layout.scan(path)


LAYOUTS: Final[tuple[Layout, ...]] = (
    Layout(
        name="movielens-csv",
        patterns=("ratings.csv",),
        detects=lambda path: set(_CSV_HEADER) <= set(_csv_header(path)),
        scan=_scan_movielens_csv,
    ),
    Layout(
        name="movielens-dat",
        patterns=("ratings.dat",),
        detects=lambda path: _has_numbers(path, "::"),
        scan=_COLONS.scan,
        fallback_encoding="latin-1",
    ),
    Layout(
        name="movielens-tabs",
        patterns=("u.data",),
        detects=lambda path: _has_numbers(path, "\t"),
        scan=_TABS.scan,
        fallback_encoding="latin-1",
    ),
    Layout(name="recbole-inter", patterns=("*.inter",), detects=_detects_inter, scan=_scan_inter),
)
