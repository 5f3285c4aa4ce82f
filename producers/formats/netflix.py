"""The Netflix Prize's rating files: ``mv_0000001.txt`` and its 17,769 sisters, or the same lines joined in ``combined_data_1.txt`` to 4.

A line ``MovieID:`` heads the ratings of that movie, ``CustomerID,Rating,YYYY-MM-DD`` each. Customer ids are sparse: 480,189 of them
between 1 and 2,649,429. Times are days: `autoemb_pipeline.producers.datasets.ties`.
"""

import re
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from autoemb_pipeline.producers.formats.delimited import blocks, first_lines, is_id, text_lines

_HEADER: Final = r"^[0-9]+:\s*$"
_HEADER_BYTES: Final = re.compile(rb"^(?:\xef\xbb\xbf)?([0-9]+):[ \t\r]*$", re.MULTILINE)
_FIELDS: Final = ("user", "rating", "date")


def detects(path: Path) -> bool:
    """Whether a movie's line comes first, and behind it a rating (in qualifying.txt and probe.txt stands none)."""
    header, *rest = first_lines(path, 2) or [""]
    return re.match(_HEADER, header) is not None and (not rest or len(rest[0].split(",")) == len(_FIELDS))


def scan(path: Path) -> pl.LazyFrame:
    """The file's interactions in file order (`producers.formats.layouts`); the movies' lines are read first: memory follows the movies."""
    lines = text_lines(path).filter(pl.col("text").is_not_null() & (pl.col("text") != ""))
    is_header = pl.col("text").str.contains(_HEADER)
    starts, movies = _movies(path)

    def movie_of(line: pl.Series) -> pl.Series:
        return movies.gather(np.searchsorted(starts, line.to_numpy(), side="right"))

    # one field more than there are: it is null unless the line has too many
    fields = pl.col("text").str.split_exact(",", len(_FIELDS)).struct.rename_fields([*_FIELDS, "more"])
    ratings = lines.filter(~is_header).select("line", fields.alias("fields")).unnest("fields")
    rating = pl.col("rating").cast(pl.Float64, strict=False)
    date = pl.col("date").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("ms")).dt.epoch("ms")
    return ratings.select(
        "line",
        pl.when(pl.col("more").is_null() & is_id(pl.col("user"))).then("user").alias("user_id"),
        pl.col("line").map_batches(movie_of, return_dtype=pl.String, is_elementwise=True).alias("item_id"),
        pl.when(rating.is_finite()).then(rating).alias("rating"),
        pl.when(date >= 0).then(date).alias("timestamp"),
    )


def _movies(path: Path) -> tuple[NDArray[np.int64], pl.Series]:
    """The numbers of the movies' lines, and [1 + M] the movies; the first is none, of ratings above all movies' lines."""
    starts: list[int] = []
    movies: list[str | None] = [None]
    newlines, rest = 0, b""
    for block in blocks(path):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        newlines += _note_movies(whole + newline, newlines, starts, movies)
    _note_movies(rest, newlines, starts, movies)
    return np.array(starts, dtype=np.int64), pl.Series("movie", movies, dtype=pl.String)


def _note_movies(lines: bytes, newlines: int, starts: list[int], movies: list[str | None]) -> int:
    """Appends the movies of whole lines that begin behind so many newlines; returns how many newlines these lines have."""
    counted = position = 0
    for match in _HEADER_BYTES.finditer(lines):
        counted += lines.count(b"\n", position, match.start())
        position = match.start()
        starts.append(newlines + counted + 1)
        movies.append(match[1].decode())
    return counted + lines.count(b"\n", position)
