"""A dataset in event-time order, as replay sends it: interactions by their position, the sequence."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, repeat
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from autoemb_pipeline.columns import Block, Texts
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.producers.formats.delimited import COLUMNS
from autoemb_pipeline.records import Interaction

FORMAT: Final = 1
MANIFEST: Final = "dataset.json"
# rows per Parquet row group and per step of an iteration: what a pass over a dataset holds in memory
ROW_GROUP: Final = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One Parquet file of a sorted dataset; the parts follow one another in event time.

    Attributes:
        file: its name in the dataset's folder.
        rows: interactions in it.
        size: bytes, to recognise a torn file.
    """

    file: str
    rows: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SortedDataset:
    """Interactions sorted by (timestamp, position in the source); never held in memory as a whole.

    Attributes:
        name: goes into every record's ``dataset``.
        fingerprint: 32 hex digits that identify data and order; equal names with other data differ here.
        folder: where the parts are.
        parts: the Parquet files in order.
    """

    name: str
    fingerprint: str
    folder: Path
    parts: tuple[Part, ...]

    @property
    def length(self) -> int:
        """Number of interactions; sequences are 0 .. length - 1."""
        return sum(part.rows for part in self.parts)

    def __len__(self) -> int:
        return self.length

    def select(self, *, limit: int | None = None, from_ms: int | None = None, until_ms: int | None = None) -> range:
        """The sequences of the interactions with ``from_ms <= timestamp < until_ms``, at most the first ``limit`` of them.

        Sequences are always positions in the whole dataset. The range is empty when nothing matches.

        Raises:
            ConfigurationError: a negative limit, or until before from.
        """
        if limit is not None and limit < 0:
            raise ConfigurationError(f"a limit of {limit} interactions", why="the limit is negative", remedy="give --limit 0 or more")
        if from_ms is not None and until_ms is not None and until_ms < from_ms:
            raise ConfigurationError(
                "the time range is empty", why=f"--until ({until_ms} ms) lies before --from ({from_ms} ms)", remedy="swap them"
            )
        start = 0 if from_ms is None else self._earlier_than(from_ms)
        stop = self.length if until_ms is None else self._earlier_than(until_ms)
        if limit is not None:
            stop = min(stop, start + limit)
        return range(start, max(start, stop))

    def interactions(self, sequences: range | None = None) -> Iterator[Interaction]:
        """The interactions of these sequences (step 1; default: all) in order, each with its sequence and this dataset's name."""
        for first, rows in self.batches(sequences):
            columns = (rows.get_column(c).to_list() for c in COLUMNS)
            yield from map(Interaction, *columns, repeat(self.name), count(first))

    def blocks(self, sequences: range | None = None) -> Iterator[Block]:
        """The same in columns, at most 65,536 rows each; none is empty."""
        for first, rows in self.batches(sequences):
            count = len(rows)
            nowhere = np.zeros(count, np.int64)
            yield Block(
                (_texts(rows.get_column("user_id")), _texts(rows.get_column("item_id"))),
                np.array(rows.get_column("rating").to_numpy(), np.float64),
                np.array(rows.get_column("timestamp").to_numpy(), np.int64),
                np.arange(first, first + count, dtype=np.int64),
                nowhere,
                (self.name,),
                nowhere,
                nowhere,
                np.zeros(count, np.int8),
            )

    def batches(self, sequences: range | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
        """(sequence of the first row, rows): frames of at most 65,536 rows with user_id, item_id, rating, timestamp."""
        selected = range(self.length) if sequences is None else sequences
        base = 0
        for part in self.parts:
            position, end = max(selected.start, base), min(selected.stop, base + part.rows)
            while position < end:
                # step to the row group's end, so that each is decoded once
                step = min(end - position, ROW_GROUP - (position - base) % ROW_GROUP)
                yield position, pl.scan_parquet(self.folder / part.file).slice(position - base, step).select(COLUMNS).collect()
                position += step
            base += part.rows

    def scan(self) -> pl.LazyFrame:
        """All interactions, lazily, with their ``sequence``."""
        return pl.scan_parquet([self.folder / part.file for part in self.parts], glob=False, row_index_name="sequence")

    def _earlier_than(self, timestamp: int) -> int:
        return int(self.scan().filter(pl.col("timestamp") < timestamp).select(pl.len()).collect(engine="streaming").item())


def _texts(column: pl.Series) -> Texts:
    """The column's UTF-8, without an object per value."""
    bounds = np.zeros(len(column) + 1, np.int64)
    np.cumsum(column.str.len_bytes().to_numpy(), out=bounds[1:])
    joined = column.str.join().item() if len(column) else ""
    return Texts(np.frombuffer(bytearray(joined.encode()), np.uint8), bounds)


def write_manifest(folder: Path, *, fingerprint: str, parts: tuple[Part, ...]) -> None:
    """Writes what `open_sorted` needs. The last file written into a dataset's folder."""
    manifest = {"format": FORMAT, "fingerprint": fingerprint, "parts": [asdict(part) for part in parts]}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def open_sorted(folder: Path, *, name: str, fingerprint: str) -> SortedDataset | None:
    """The sorted dataset in a cache folder, or None when it is absent, torn, or of another format: then it is to be made again."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        parts = tuple(Part(**part) for part in manifest["parts"])
        whole = all((folder / part.file).stat().st_size == part.size for part in parts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if manifest.get("format") != FORMAT or manifest.get("fingerprint") != fingerprint or not whole:
        return None
    return SortedDataset(name=name, fingerprint=fingerprint, folder=folder, parts=parts)
