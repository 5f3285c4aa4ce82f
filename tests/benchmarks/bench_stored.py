"""Cost of a step against what the store holds, and of ids that nothing is cached of.

    python -m tests.benchmarks stored [--stored 1000000] [--active 10000] [--steps 200] [--directory DIR]

1. The same active ids, evenly spread over the key range, with --stored records in the database and with these ids' own alone. The same
   mini-batches in alternation; ratio of medians, with the default row cache, and with one that holds a tenth of the active ids so that
   every step reads and writes the database.
2. Every id new: never seen, over the full database and over an empty one. Every id cold: stored, each asked for once.
Interactions per second of the training thread's CPU and on the wall; resident memory beside what is configured. 10M records take 8 GB.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.meter import rss_bytes
from autoemb_pipeline.state.cache import INDEX_BYTES
from autoemb_pipeline.state.codec import RowCodec
from autoemb_pipeline.state.options import RocksConfig, RocksOptions
from autoemb_pipeline.trainer import Trainer, trainer_tables
from tests.benchmarks.commands import machine, tell
from tests.benchmarks.in_memory import BATCH, config, identifier, mini_batch, stored, trainer_over

WARM = 10  # steps not counted
MIB = 1 << 20
DEFAULT_CACHE = RocksConfig(directory=Path()).cache_bytes


def step_ratio(full: Path, few: Path, scratch: Path, options: argparse.Namespace, cache_bytes: int) -> None:
    """Alternates one step over each database."""
    per_side, stride = options.active // 2, options.stored // options.active
    trainers = [trainer_over(source, scratch, cache_bytes) for source in (few, full)]
    wall: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    random = np.random.default_rng(0)
    for step in range(1, options.steps + 1):
        chosen = random.integers(0, per_side, (2, BATCH)) * stride
        batch = mini_batch(step, chosen[0].tolist(), chosen[1].tolist())
        for k in (0, 1) if step % 2 else (1, 0):
            started, own = time.perf_counter(), time.thread_time()
            trainers[k][0].step(batch)
            wall[k].append(time.perf_counter() - started)
            cpu[k].append(time.thread_time() - own)
    for _, rows in trainers:
        rows.close()
    figures = []
    for name, times in (("wall", wall), ("CPU", cpu)):
        small, large = (statistics.median(own[len(own) // 4 :]) * 1e3 for own in times)
        figures.append(f"{name} {small:.2f} and {large:.2f} ms, ratio {large / small:.3f}")
    tell(f"cache {cache_bytes / MIB:.0f} MiB: {options.active:,} and {options.stored:,} stored: " + "; ".join(figures))


def rate(name: str, trainer: Trainer, batches: Callable[[int], MiniBatch], steps: int) -> None:
    """Interactions per second over mini-batches made beforehand."""
    made = [batches(step) for step in range(1, steps + 1)]
    for batch in made[:WARM]:
        trainer.step(batch)
    before, wall, cpu = rss_bytes(), time.perf_counter(), time.thread_time()
    for batch in made[WARM:]:
        trainer.step(batch)
    count, wall, cpu = (steps - WARM) * BATCH, time.perf_counter() - wall, time.thread_time() - cpu
    grown = (rss_bytes() - before) / MIB
    tell(f"{name}: {count / cpu:,.0f} interactions per CPU second, {count / wall:,.0f}/s on the wall; memory grew by {grown:,.0f} MiB")


def new_and_cold(full: Path, scratch: Path, options: argparse.Namespace) -> None:
    """Ids never seen, and ids stored that nothing is cached of."""
    per_side = options.stored // 2
    steps = min(options.steps, per_side // BATCH)
    spread = np.random.default_rng(1).permutation(per_side)[: steps * BATCH].reshape(steps, BATCH).tolist()

    def fresh(step: int) -> MiniBatch:
        numbers = list(range(per_side + step * BATCH, per_side + (step + 1) * BATCH))
        return mini_batch(step, numbers, numbers)

    def cold(step: int) -> MiniBatch:
        return mini_batch(step, spread[step - 1], spread[step - 1])

    for name, source, batches in (
        ("every id new, empty store", None, fresh),
        (f"every id new, {options.stored:,} stored", full, fresh),
        (f"every id cold, {options.stored:,} stored", full, cold),
    ):
        trainer, rows = trainer_over(source, scratch, DEFAULT_CACHE)
        rate(name, trainer, batches, steps if batches is cold else options.steps)
        rows.close()


def few_of(full: Path, few: Path, options: argparse.Namespace) -> None:
    """A database of the active ids alone, with the same keys and values."""
    stride = options.stored // options.active
    trainer, rows = trainer_over(full, few.parent, DEFAULT_CACHE)
    del trainer
    own, alone = trainer_over(None, few.parent, DEFAULT_CACHE)
    del own
    ids = [identifier(number * stride) for number in range(options.active // 2)]
    for spec in trainer_tables(config()):
        taken, given = rows.lend(spec.name, ids), alone.lend(spec.name, ids)
        for source, target in zip(taken.slabs, given.slabs, strict=True):
            target[given.slots] = source[taken.slots]
        alone.keep(spec.name, given)
    alone.persist(alone.capture(), few)
    rows.close()
    alone.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stored", type=int, default=1_000_000, help="records, users and items together")
    parser.add_argument("--active", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--directory", help="where the databases are made; default: the temporary directory")
    options = parser.parse_args()
    tell(machine())
    row_bytes = sum(RowCodec(spec).row_bytes + INDEX_BYTES for spec in trainer_tables(config()))
    rocks = RocksOptions()
    tell(
        f"configured: rows and what a checkpoint holds of them {DEFAULT_CACHE / MIB:.0f} MiB, RocksDB's buffers "
        f"{(rocks.write_buffer_bytes + rocks.block_cache_bytes) / MIB:.0f} MiB; this process before: {rss_bytes() / MIB:.0f} MiB"
    )
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch_name:
        scratch = Path(scratch_name)
        full, few = scratch / "full", scratch / "few"
        seconds = stored(full, options.stored)
        size = sum(file.stat().st_size for file in full.iterdir()) / 1e9
        tell(f"{options.stored:,} records stored in {seconds:.0f} s: {size:.1f} GB")
        few_of(full, few, options)
        for cache_bytes in (DEFAULT_CACHE, max(1, options.active // 2 // 10 * row_bytes * 2)):
            step_ratio(full, few, scratch, options, cache_bytes)
        new_and_cold(full, scratch, options)
        shutil.rmtree(full)
    tell(f"resident memory at the end: {rss_bytes() / MIB:.0f} MiB")


if __name__ == "__main__":
    main()
