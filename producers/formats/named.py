"""Tables with a header: CSV (commas, tabs, semicolons or bars between fields) and Parquet, their columns found by name."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import polars as pl

from autoemb_pipeline.errors import ConfigurationError, DatasetError
from autoemb_pipeline.producers.formats.delimited import (
    Delimited,
    first_line,
    first_lines,
    is_id,
    is_number,
    iso_8601,
    seconds_or_milliseconds,
)

# names that mean one thing only, without case and punctuation
_ALIASES: Final = {
    "user": {"user", "userid", "uid", "customer", "customerid", "reviewer", "reviewerid", "visitorid"},
    "item": {"item", "itemid", "iid", "movie", "movieid", "product", "productid", "asin", "book", "bookid", "business", "businessid"},
    "rating": {"rating", "ratings", "score", "stars", "overall"},
    "timestamp": {"timestamp", "time", "ts", "date", "datetime", "unixtime", "unixreviewtime", "createdat"},
}
_SEPARATORS: Final = (",", "\t", ";", "|")
_MAGIC: Final = b"PAR1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Names of columns; None: to be recognised by the usual names.

    Attributes:
        user, item: ids.
        rating: a number.
        timestamp: seconds or milliseconds since the epoch, or ISO 8601.
    """

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    timestamp: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Columns":
        """``user=...,item=...,rating=...,timestamp=...``; what is left out is recognised.

        Raises:
            ConfigurationError: another role, none at all, one twice, or no name behind it.
        """
        named: dict[str, str] = {}
        for part in text.split(","):
            role, _, name = part.partition("=")
            if role.strip() not in _ALIASES or not name.strip() or role.strip() in named:
                raise ConfigurationError(
                    f"columns {text!r}",
                    why=f"{part!r} does not name the column of a role not named before",
                    remedy="give --columns user=NAME,item=NAME,rating=NAME,timestamp=NAME, or a part of it",
                )
            named[role.strip()] = name.strip()
        return cls(**named)

    def __str__(self) -> str:
        given = [f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) is not None]
        return f"({','.join(given)})" if given else ""

    def find(self, header: Sequence[str]) -> dict[str, list[str]]:
        """Role -> the columns that may have it: one where all is well."""
        columns_of = {}
        for role, aliases in _ALIASES.items():
            name = getattr(self, role)
            columns_of[role] = [c for c in header if (c == name if name is not None else _plain(c) in aliases)]
        return columns_of


def is_parquet(path: Path) -> bool:
    """By the format's first bytes."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def scan_parquet(path: Path, columns: Columns) -> pl.LazyFrame:
    """A Parquet file's interactions in file order; ``line`` is the row.

    Raises:
        DatasetError: a column is missing or ambiguous, or the file is damaged.
    """
    try:
        frame = pl.scan_parquet(path, glob=False, row_index_name="line", row_index_offset=1)
        schema = frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DatasetError(f"{path} cannot be read", why=str(error), remedy="check the file: it begins as Parquet") from error
    user, item, rating, timestamp = _one_each(path, columns, [name for name in schema if name != "line"])
    number = pl.col(rating).cast(pl.Float64, strict=False)
    return frame.select(
        "line",
        _id(user, schema[user]).alias("user_id"),
        _id(item, schema[item]).alias("item_id"),
        pl.when(number.is_finite()).then(number).alias("rating"),
        _time(timestamp, schema[timestamp]).alias("timestamp"),
    )


def detects_csv(path: Path, columns: Columns) -> bool:
    """Whether the first line is a header in which every role has a column, or more than one (then reading it says so)."""
    return not is_parquet(path) and all(columns.find(_header(path, columns)[1]).values())


def scan_csv(path: Path, columns: Columns) -> pl.LazyFrame:
    """A delimited text file's interactions in file order.

    Raises:
        DatasetError: a column is missing or ambiguous.
    """
    separator, header = _header(path, columns)
    roles = [header.index(name) for name in _one_each(path, columns, header)]
    second = first_lines(path, 2)[1:]
    sample = _split(second[0], separator) if second else []
    in_numbers = len(sample) <= roles[3] or is_number(sample[roles[3]])
    layout = Delimited(
        separator=separator,
        width=len(header),
        positions=(roles[0], roles[1], roles[2], roles[3]),
        header=True,
        quotes=True,
        time=seconds_or_milliseconds if in_numbers else iso_8601,
    )
    return layout.scan(path)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _one_each(path: Path, columns: Columns, header: Sequence[str]) -> tuple[str, ...]:
    columns_of = columns.find(header)
    wrong = [role for role, names in columns_of.items() if len(names) != 1]
    if wrong:
        role = wrong[0]
        given = getattr(columns, role)
        which = f"no column {given!r}" if given is not None else f"no column that is surely the {role}"
        several = f"{' and '.join(columns_of[role])} may all be it" if columns_of[role] else f"it has {', '.join(header)}"
        raise DatasetError(f"{path}: {which}", why=several, remedy=f"name it: --columns {role}=NAME")
    return tuple(names[0] for names in columns_of.values())


def _header(path: Path, columns: Columns) -> tuple[str, list[str]]:
    """The separator under which the header makes most sense: most roles found, then most fields."""
    line = first_line(path).encode("latin-1").decode("utf-8", "replace")
    candidates = [(separator, [name.strip() for name in _split(line, separator)]) for separator in _SEPARATORS]
    return max(candidates, key=lambda c: (sum(map(bool, columns.find(c[1]).values())), len(c[1])))


def _split(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def _id(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if dtype.is_float():  # whole numbers among missing ones are floats in pandas
        column = pl.when(column.round() == column).then(column).cast(pl.Int64, strict=False)
    text = column.cast(pl.String)
    return pl.when(is_id(text)).then(text)


def _time(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime | pl.Date):
        moment = column.cast(pl.Datetime("ms", getattr(dtype, "time_zone", None))).dt.epoch("ms")
        return pl.when(moment >= 0).then(moment)
    if dtype == pl.String:
        return pl.coalesce(seconds_or_milliseconds(column), iso_8601(column))
    return seconds_or_milliseconds(column)
