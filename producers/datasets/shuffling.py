"""A dataset in random order: who rated what how is shuffled against the times, which stay where they are.

So the stream remains ordered in event time, as Kafka, replay and the source's merge want it, and its k-th interaction is any one of the
dataset. Differences between event times then mean nothing; features that use them see noise.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import numpy as np
import polars as pl

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.producers.datasets.progress import Report, silent
from autoemb_pipeline.producers.datasets.sorted_dataset import ROW_GROUP, Part, SortedDataset
from autoemb_pipeline.producers.datasets.sorting import RUN_ROWS, made_once, part_of
from autoemb_pipeline.producers.datasets.ties import mix
from autoemb_pipeline.producers.formats.delimited import COLUMNS

SHUFFLE_VERSION: Final = 1
_KEYS: Final = 1 << 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """The order of a dataset's interactions.

    Attributes:
        kind: ``timestamp``, or ``shuffled``.
        seed: of the shuffling.
    """

    kind: Literal["timestamp", "shuffled"] = "timestamp"
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> "Order":
        """``timestamp``, ``shuffled`` or ``shuffled:SEED``.

        Raises:
            ConfigurationError: anything else.
        """
        kind, colon, seed = text.partition(":")
        known = (kind == "timestamp" and not colon) or (kind == "shuffled" and (not colon or (seed.isdecimal() and int(seed) < _KEYS)))
        if not known:
            raise ConfigurationError(
                f"order {text!r}", why="there is no such order", remedy="give --order timestamp, shuffled or shuffled:SEED"
            )
        return cls(kind=kind, seed=int(seed or 0))  # type: ignore[arg-type]


def shuffle(dataset: SortedDataset, seed: int, *, cache_dir: Path, report: Report = silent, run_rows: int = RUN_ROWS) -> SortedDataset:
    """The dataset with users, items and ratings in random order along its sorted timestamps; kept in the cache like a sorted one.

    Args:
        dataset: what to shuffle.
        seed: equal seeds give equal orders, on every machine.
        cache_dir: as for `sort_source`.
        report: told "shuffle" (interactions).
        run_rows: about how many rows are in memory at once.

    Raises:
        DatasetError: no room in the cache.
    """
    name = f"{dataset.name}+shuffled" + (f"-{seed}" if seed else "")
    # of 32 hex digits, as every fingerprint
    high, low = (int(half, 16) for half in (dataset.fingerprint[:16], dataset.fingerprint[16:]))
    fingerprint = "".join(f"{word:016x}" for word in mix(np.array([high, low], dtype=np.uint64) ^ _start(seed)))
    target = cache_dir / "sorted" / fingerprint

    def write(folder: Path) -> tuple[Part, ...]:
        return _write_parts(dataset, seed, folder, run_rows, report)

    return made_once(target, name=name, fingerprint=fingerprint, write=write)


def _write_parts(dataset: SortedDataset, seed: int, folder: Path, run_rows: int, report: Report) -> tuple[Part, ...]:
    """One part per range of keys, each sorted by key: the keys' order is the random order."""
    start = _start(seed)

    def key_of(sequence: pl.Series) -> pl.Series:
        # no two positions share a key: mix is a bijection
        return pl.Series(mix(sequence.to_numpy().astype(np.uint64) + start))

    keyed = dataset.scan().with_columns(pl.col("sequence").map_batches(key_of, return_dtype=pl.UInt64, is_elementwise=True).alias("key"))
    runs = -(-dataset.length // run_rows)
    parts: list[Part] = []
    done = 0
    for number, (low, high) in enumerate(pairwise([_KEYS * k // runs for k in range(runs + 1)])):
        within = pl.col("key").is_between(low, high - 1)
        rows = keyed.filter(within).collect(engine="streaming").sort("key")
        if rows.height:
            times = dataset.scan().select("timestamp").slice(done, rows.height).collect(engine="streaming").to_series()
            file = f"part-{number:05}.parquet"
            columns = rows.with_columns(times).select(COLUMNS)
            columns.write_parquet(folder / file, compression="lz4", row_group_size=ROW_GROUP)
            parts.append(part_of(folder, file, rows.height))
        done += rows.height
        report("shuffle", done, dataset.length)
    return tuple(parts)


def _start(seed: int) -> np.uint64:
    start: np.uint64 = mix(np.array([seed ^ SHUFFLE_VERSION << 32], dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))[0]
    return start
