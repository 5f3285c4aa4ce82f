"""Checkpoint cost against table size: equal changes on 10k and on 1M rows.

    python tests/benchmarks/bench_checkpoint.py [--rows 10000 1000000] [--changes 2000] [--rounds 30] [--width 64] [--directory DIR]

For each table size: the time training stands still (capture), the time of the background work (persist), the bytes that had to be hashed and
synced, and the speed of gather and scatter while nothing else runs. Last line: ratio of the largest table to the smallest.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.checkpoint.writer import CheckpointWriter
from autoemb_pipeline.rows import TableSpec
from autoemb_pipeline.state.options import RocksConfig
from autoemb_pipeline.state.rocks import RocksRowStore


def fill(store: RocksRowStore, rows: int, width: int) -> None:
    """Scatters every row once."""
    generator = np.random.default_rng(0)
    for start in range(0, rows, 10_000):
        ids = [str(k) for k in range(start, min(rows, start + 10_000))]
        store.scatter("users", ids, generator.normal(size=(len(ids), width)).astype("f4"))


def measure(root: Path, rows: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Medians and means over the rounds, after the first checkpoint of the filled table."""
    checkpoints = CheckpointStore(root)
    checkpoints.recover()
    config = RocksConfig(directory=checkpoints.live, cache_bytes=arguments.cache_mb << 20)
    store = RocksRowStore(config, [TableSpec(name="users", width=arguments.width)])
    writer = CheckpointWriter(checkpoints)
    tensors = {"dense": np.zeros(250_000, dtype=np.float32)}
    fill(store, rows, arguments.width)
    started = time.perf_counter()
    writer.begin(0, {}, tensors, store)
    writer.wait()
    first = time.perf_counter() - started
    generator = np.random.default_rng(1)
    capture, persist, fresh, step_seconds = [], [], [], []
    for step in range(1, arguments.rounds + 1):
        started = time.perf_counter()
        for _ in range(arguments.changes // 400):
            ids = [str(k) for k in generator.choice(rows, 400, replace=False)]
            store.scatter("users", ids, store.gather("users", ids) + 1)
        step_seconds.append((time.perf_counter() - started) / (arguments.changes // 400))
        writer.begin(step, {}, tensors, store)
        writer.wait()
        assert writer.last is not None
        capture.append(writer.last.capture_seconds)
        persist.append(writer.last.persist_seconds)
        fresh.append(writer.last.fresh_bytes)
    store.close()
    return {
        "first": first,
        "capture ms": 1e3 * statistics.median(capture),
        "persist ms": 1e3 * statistics.median(persist),
        "persist mean ms": 1e3 * statistics.mean(persist),
        "persist max ms": 1e3 * max(persist),
        "fresh MB": statistics.mean(fresh) / 1e6,
        "gather+scatter of 400 ms": 1e3 * statistics.median(step_seconds),
    }


def main() -> None:
    """Prints one line per table size and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--changes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--cache-mb", type=int, default=64)
    parser.add_argument("--directory", help="where to make the state directories; default: the temporary directory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for rows in sorted(arguments.rows):
        with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
            results.append(measure(Path(directory), rows, arguments))
        figures = "  ".join(f"{name} {value:.2f}" for name, value in results[-1].items())
        print(f"{rows:>9} rows: {figures}  peak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")  # noqa: T201
    ratios = "  ".join(f"{name} {results[-1][name] / results[0][name]:.2f}" for name in results[0])
    print(f"    ratio: {ratios}")  # noqa: T201


if __name__ == "__main__":
    main()
