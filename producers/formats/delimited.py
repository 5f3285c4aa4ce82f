"""Delimited text as lazy frames: lines, fields, ids and times, for the layouts that are built of them."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from autoemb_pipeline.schemas.codec import MAX_ID_BYTES, MAX_TIMESTAMP

COLUMNS: Final = ("user_id", "item_id", "rating", "timestamp")

# a "second" beyond this lies after the year 5100: it is a millisecond, or rubbish
_SECONDS_LIMIT: Final = 10**11
_BLOCK: Final = 1 << 22


def first_lines(path: Path, count: int) -> list[str]:
    """The first lines that are not empty, at most so many, whatever the encoding; looks no further than 4 MiB."""
    head: list[str] = []
    with path.open("rb") as file:
        for raw in file.read(_BLOCK).removeprefix(b"\xef\xbb\xbf").splitlines():
            if len(head) == count:
                break
            if raw.strip():
                head.append(raw.decode("latin-1"))
    return head


def first_line(path: Path) -> str:
    """The first line that is not empty."""
    return next(iter(first_lines(path, 1)), "")


def blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes, 4 MiB at a time."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


@dataclass(frozen=True, kw_only=True, slots=True)
class Delimited:
    """Where the columns of a delimited text file are.

    Attributes:
        separator: one or more characters.
        width: fields per line; a line with more or fewer is malformed.
        positions: field numbers of user, item, rating, timestamp, from 0.
        header: whether the first line is a header.
        quotes: whether a field may stand in double quotes (CSV, RFC 4180, without line breaks in a field).
        time: a timestamp's text as milliseconds since the epoch; null where it is none.
    """

    separator: str
    width: int
    positions: tuple[int, int, int, int] = (0, 1, 2, 3)
    header: bool = False
    quotes: bool = False
    time: Callable[[pl.Expr], pl.Expr] | None = None

    def scan(self, path: Path) -> pl.LazyFrame:
        """The file's interactions in file order; the file must be UTF-8."""
        lines = text_lines(path).filter(pl.col("text").is_not_null() & (pl.col("text") != ""))
        if self.header:
            first = _first_line_number(path)
            lines = lines.filter(pl.col("line") > first)
        quoted = self.quotes and any(b'"' in block for block in blocks(path))
        fields = self._quoted_fields() if quoted else self._plain_fields()
        names = [f"f{i}" for i in range(self.width + 1)]
        split = lines.select("line", fields.struct.rename_fields(names).alias("fields")).unnest("fields")
        user, item, rating, timestamp = (pl.col(names[i]) for i in self.positions)
        complete = pl.all_horizontal(pl.col(n).is_not_null() for n in names[:-1]) & pl.col(names[-1]).is_null()
        number = rating.cast(pl.Float64, strict=False)
        time = (self.time or seconds)(timestamp)
        return split.select(
            "line",
            pl.when(complete & is_id(user)).then(user).alias("user_id"),
            pl.when(is_id(item)).then(item).alias("item_id"),
            pl.when(number.is_finite()).then(number).alias("rating"),
            time.alias("timestamp"),
        )

    def _plain_fields(self) -> pl.Expr:
        # one field more than asked for: it is null unless the line has too many
        return pl.col("text").str.split_exact(self.separator, self.width)

    def _quoted_fields(self) -> pl.Expr:
        separator = re.escape(self.separator)
        field = f'(?:"((?:[^"]|"")*)"|([^"{separator}]*))'
        groups = pl.col("text").str.extract_groups("^" + separator.join([field] * self.width) + "$")
        bare = [
            pl.coalesce(groups.struct[2 * i].str.replace_all('""', '"', literal=True), groups.struct[2 * i + 1]) for i in range(self.width)
        ]
        return pl.struct(*(f.alias(f"f{i}") for i, f in enumerate(bare)), pl.lit(None, dtype=pl.String).alias("rest"))


def text_lines(path: Path) -> pl.LazyFrame:
    """A UTF-8 file's lines with their numbers: ``line`` from 1, ``text`` (null or empty for empty lines); read as a stream."""
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


def is_id(text: pl.Expr) -> pl.Expr:
    """Whether a text is an id that `autoemb_pipeline.schemas.codec` accepts."""
    return text.str.len_bytes().is_between(1, MAX_ID_BYTES)


def seconds(text: pl.Expr) -> pl.Expr:
    """Whole seconds since the epoch, as milliseconds."""
    whole = text.cast(pl.Int64, strict=False)
    return pl.when(whole.is_between(0, _SECONDS_LIMIT)).then(whole * 1000)


def seconds_or_milliseconds(value: pl.Expr) -> pl.Expr:
    """Seconds, also fractions of them, or milliseconds since the epoch, told apart by size, as milliseconds."""
    number = value.cast(pl.Float64, strict=False)
    scaled = pl.when(number > _SECONDS_LIMIT).then(number).otherwise(number * 1000)
    return pl.when(scaled.is_between(0, _SECONDS_LIMIT * 1000)).then(scaled.round()).cast(pl.Int64, strict=False)


def iso_8601(text: pl.Expr) -> pl.Expr:
    """ISO 8601 dates and times (UTC unless they say otherwise), as milliseconds; T or one space between date and time."""
    moment = text.str.strip_chars().str.replace(" ", "T", literal=True)
    formats = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f")
    naive = moment.str.strip_suffix("Z")
    parsed = [naive.str.to_datetime(f, strict=False, time_unit="ms").dt.epoch("ms") for f in formats]
    parsed.append(moment.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", strict=False, time_unit="ms").dt.epoch("ms"))
    milliseconds = pl.coalesce(parsed)
    return pl.when(milliseconds.is_between(0, MAX_TIMESTAMP)).then(milliseconds)


def is_number(text: str) -> bool:
    """Whether a field holds a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def has_numbers(path: Path, separator: str) -> bool:
    """Whether a file's first line is user, item, rating, timestamp."""
    fields = first_line(path).split(separator)
    return len(fields) == len(COLUMNS) and is_number(fields[2]) and is_number(fields[3])
