"""From files in any layout to a `SortedDataset`, in bounded memory, kept in a cache by the content's fingerprint.

The sort is external: (1) every line is parsed and written unsorted; (2) the timestamps alone are looked at for bounds that cut the data
into runs of about four million; (3) each run is sorted by (timestamp, file, line), or with the hash of user and item behind the timestamp
(`autoemb_pipeline.producers.datasets.ties`), and becomes one part. Runs never split a timestamp.
On 20M rows this takes half the time and memory of one big sort.
"""

import codecs
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from autoemb_pipeline.durable import sync
from autoemb_pipeline.errors import DatasetError
from autoemb_pipeline.producers.datasets.progress import Report, silent
from autoemb_pipeline.producers.datasets.sorted_dataset import ROW_GROUP, Part, SortedDataset, open_sorted, write_manifest
from autoemb_pipeline.producers.datasets.ties import Ties, tie_keys
from autoemb_pipeline.producers.formats.delimited import COLUMNS
from autoemb_pipeline.producers.formats.layouts import Source, line_at

ORDER_VERSION: Final = 1
RUN_ROWS: Final = 4_000_000
# files scanned at once: the Netflix Prize data are 17,770
_FILES_AT_ONCE: Final = 256
_BLOCK: Final = 1 << 22
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def sort_source(
    source: Source, *, name: str, cache_dir: Path, ties: Ties | None = None, report: Report = silent, run_rows: int = RUN_ROWS
) -> SortedDataset:
    """The source's interactions in event-time order.

    Args:
        source: the files and their layout.
        name: the dataset's name; ``+ties-...`` is added where ties are ordered otherwise than the layout's usual way.
        cache_dir: sorted datasets are kept in ``cache_dir/sorted/FINGERPRINT``; made where missing.
        ties: what orders interactions of one timestamp; None: the layout's usual way.
        report: told "read" (bytes) and "sort" (interactions).
        run_rows: rows sorted at once; bounds the memory (about 200 bytes a row).

    Raises:
        DatasetError: a malformed line (named by file and number), a wrong encoding, no interactions, or no room in the cache.
    """
    usual = Ties(kind=source.layout.ties)
    ties = ties or usual
    name = name if ties == usual else f"{name}+ties-{ties}"
    fingerprint, transcode = _fingerprint(source, ties, report)
    target = cache_dir / "sorted" / fingerprint

    def write(folder: Path) -> tuple[Part, ...]:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unsorted-") as scratch:
            unsorted = _parse_all(source, transcode, Path(scratch))
            _refuse_malformed(source, unsorted)
            return _write_runs(unsorted, folder, run_rows, ties, report)

    return made_once(target, name=name, fingerprint=fingerprint, write=write)


def made_once(target: Path, *, name: str, fingerprint: str, write: Callable[[Path], tuple[Part, ...]]) -> SortedDataset:
    """The dataset in ``target`` if it is whole, else made there.

    Args:
        target: the dataset's folder in the cache.
        name, fingerprint: the dataset's.
        write: writes its parts into an empty folder.

    Raises:
        DatasetError: it cannot be written there, or somebody changed it meanwhile; and what `write` raises.
    """

    def open_whole() -> SortedDataset | None:
        return open_sorted(target, name=name, fingerprint=fingerprint)

    known = open_whole()
    if known is None:
        with building(target, lambda: open_whole() is not None) as folder:
            write_manifest(folder, fingerprint=fingerprint, parts=write(folder))
        known = open_whole()
    if known is None:
        raise DatasetError(f"the dataset in {target} is not whole", why="it changed while it was made", remedy=f"rm -r {target}")
    return known


@contextmanager
def building(target: Path, is_whole: Callable[[], bool]) -> Iterator[Path]:
    """A new folder that becomes ``target`` by one rename when the block ends well, and is removed otherwise.

    Args:
        target: what is built.
        is_whole: whether ``target`` is already good: made meanwhile by another process, and perhaps being read; then it stays.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(target.parent)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    except OSError as error:
        raise DatasetError(
            f"cannot write to the cache {target.parent}", why=str(error), remedy="give another with --cache-dir or XDG_CACHE_HOME"
        ) from error
    try:
        yield folder
        if not is_whole():
            # what may lie there is torn, or of an older format
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DatasetError(
            f"cannot write {target}", why=str(error), remedy="free disk space, or give another folder with --cache-dir"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left_overs(folder: Path) -> None:
    """Removes what killed processes left half-built: hidden folders that nobody has touched for a day."""
    yesterday = time.time() - 86_400
    for path in folder.glob(".*"):
        if path.is_dir() and path.stat().st_mtime < yesterday:
            shutil.rmtree(path, ignore_errors=True)


def part_of(folder: Path, file: str, rows: int) -> Part:
    """The manifest entry of a Parquet file just written."""
    return Part(file=file, rows=rows, size=(folder / file).stat().st_size)


def _fingerprint(source: Source, ties: Ties, report: Report) -> tuple[str, frozenset[Path]]:
    """The fingerprint, and the files to be transcoded: one pass over the bytes."""
    order = "" if ties.kind == "file" else f"/{ties.kind}-{ties.seed}"
    digest = hashlib.sha256(f"{source.layout.name}/{source.layout.version}/{ORDER_VERSION}{order}".encode())
    total = sum(file.stat().st_size for file in source.files)
    done = 0
    transcode = set()
    for file in source.files:
        content = hashlib.sha256()
        decoder = codecs.getincrementaldecoder("utf-8")() if source.layout.text else None
        newlines = 0
        for block in _blocks(file):
            content.update(block)
            done += len(block)
            report("read", done, total)
            if decoder is None:
                continue
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                _refuse_encoding(source, file, newlines + error.object[: error.start].count(b"\n") + 1, error)
                transcode.add(file)
                decoder = None
            newlines += block.count(b"\n")
        digest.update(content.digest())
    return digest.hexdigest()[:32], frozenset(transcode)


def _refuse_encoding(source: Source, file: Path, line: int, error: UnicodeDecodeError) -> None:
    with file.open("rb") as opened:
        utf16 = opened.read(2) in _UTF16
    if utf16 or source.layout.fallback_encoding is None:
        raise DatasetError(
            f"{file}, line {line}: not UTF-8", why="the file is UTF-16" if utf16 else str(error), remedy="convert it, e.g. with iconv"
        )


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            yield block


def _parse_all(source: Source, transcode: frozenset[Path], scratch: Path) -> pl.LazyFrame:
    """Every line of every file, as the layout reads it, in Parquet files in the scratch folder."""
    written = []
    for first in range(0, len(source.files), _FILES_AT_ONCE):
        frames = []
        for number, file in enumerate(source.files[first : first + _FILES_AT_ONCE], start=first):
            readable = file
            if file in transcode and source.layout.fallback_encoding is not None:
                readable = scratch / f"{number}.utf8"
                with readable.open("wb") as out:
                    out.writelines(block.decode(source.layout.fallback_encoding).encode() for block in _blocks(file))
            frames.append(source.layout.scan(readable).with_columns(pl.lit(number, dtype=pl.UInt32).alias("file")))
        written.append(scratch / f"unsorted-{first}.parquet")
        pl.concat(frames).sink_parquet(written[-1], compression="lz4", row_group_size=4 * ROW_GROUP)
    return pl.scan_parquet(written, glob=False)


def _refuse_malformed(source: Source, unsorted: pl.LazyFrame) -> None:
    bad = pl.any_horizontal(pl.col(c).is_null() for c in COLUMNS)
    rows = unsorted.filter(bad).head(1).collect(engine="streaming")
    if rows.height == 0:
        return
    row = rows.row(0, named=True)
    file, missing = source.files[row["file"]], [c for c in COLUMNS if row[c] is None]
    text = line_at(file, row["line"]) if source.layout.text else str(row)
    raise DatasetError(
        f"{file}, line {row['line']}: not an interaction in the layout {source.layout.name}: {text}",
        why=f"no valid {', '.join(missing)}",
        remedy="mend or remove the line",
    )


def _write_runs(frame: pl.LazyFrame, folder: Path, run_rows: int, ties: Ties, report: Report) -> tuple[Part, ...]:
    timestamps = frame.select("timestamp").collect(engine="streaming").to_series().to_numpy()
    total = len(timestamps)
    if total == 0:
        raise DatasetError("the dataset is empty", why="its files hold no interaction", remedy="give a dataset with ratings")
    edges: Sequence[int | None] = [None, *_run_bounds(timestamps, run_rows), None]
    del timestamps
    parts: list[Part] = []
    for number, (low, high) in enumerate(pairwise(edges)):
        run = frame if low is None else frame.filter(pl.col("timestamp") >= low)
        run = run if high is None else run.filter(pl.col("timestamp") < high)
        file = f"part-{number:05}.parquet"
        rows = _in_order(run, ties)
        rows.write_parquet(folder / file, compression="lz4", row_group_size=ROW_GROUP)
        parts.append(part_of(folder, file, rows.height))
        report("sort", sum(p.rows for p in parts), total)
    for written in folder.iterdir():
        sync(written)
    return tuple(parts)


def _in_order(run: pl.LazyFrame, ties: Ties) -> pl.DataFrame:
    if ties.kind == "file":
        return run.sort("timestamp", "file", "line").select(COLUMNS).collect(engine="streaming")
    rows = run.collect(engine="streaming")
    rows = rows.with_columns(tie_keys(rows["user_id"], rows["item_id"], ties.seed))
    return rows.sort("timestamp", "tie", "file", "line").select(COLUMNS)


def _run_bounds(timestamps: np.ndarray[tuple[int], np.dtype[np.int64]], run_rows: int) -> list[int]:
    """Timestamps at which a new run begins: each run but for ties within a timestamp at most ``run_rows`` long."""
    runs = -(-len(timestamps) // run_rows)
    ranks = [len(timestamps) * k // runs for k in range(1, runs)]
    if not ranks:
        return []
    bounds = np.unique(np.partition(timestamps, ranks)[ranks])
    # a bound at the minimum would make an empty first run
    return [int(b) for b in bounds if b > timestamps.min()]
