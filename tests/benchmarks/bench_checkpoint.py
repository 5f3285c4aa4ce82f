"""What checkpoints cost training, at a million rows of which 1% change between two.

    python -m tests.benchmarks checkpoint [--rows 1000000] [--changed 0.01] [--every 200] [--checkpoints 4] [--rounds 3] [--directory DIR]
    python -m tests.benchmarks checkpoint --pipeline

In memory, preset stream over RocksDB: the same mini-batches with and without checkpoints, in alternation. The pause is how long `begin`
holds the training thread (rows and tensors copied); beside it the longest step while a checkpoint is being written, since RocksDB's own
calls hold the interpreter's lock, against the longest step without one; and the ratio of throughputs. With --pipeline the same ratio of
whole runs through Kafka, with the default checkpoints and without any but the last.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.checkpoint.writer import CheckpointWriter
from autoemb_pipeline.state.options import RocksConfig
from autoemb_pipeline.state.rocks import RocksRowStore
from autoemb_pipeline.trainer import Trainer, trainer_tables
from tests.benchmarks.bench_pipeline import Rates, measure
from tests.benchmarks.commands import HERE, kafka, machine, median, streams, tell
from tests.benchmarks.in_memory import BATCH, config, mini_batch, stored

NEVER = ("--checkpoint-every", "1000000000", "--checkpoint-seconds", "1000000000")
MS = 1e3


@dataclass
class Seen:
    """Of one way of running, over the rounds, in seconds: whole runs, steps, steps beside a checkpoint; pauses, also of the
    thread's CPU alone; written bytes."""

    runs: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    pauses_cpu: list[float] = field(default_factory=list)
    persists: list[float] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)


def run(source: Path, scratch: Path, options: argparse.Namespace, seen: Seen, *, checkpoints: bool) -> None:
    """One run over the rows of `source`."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        store = CheckpointStore(Path(folder) / "state")
        store.recover()
        rows = RocksRowStore(RocksConfig(directory=store.live, source=source), trainer_tables(config()))
        trainer, writer = Trainer(config(), rows), CheckpointWriter(store)
        changed = int(options.rows * options.changed) // 2
        random = np.random.default_rng(0)
        windows = random.permutation(options.rows // 2)[: changed * options.checkpoints].reshape(options.checkpoints, changed)
        numbers = windows[:, random.integers(0, changed, (options.every, 2, BATCH))]
        writer.begin(0, trainer.payload(), trainer.tensors(), rows)
        writer.wait()
        batches = [
            mini_batch(w * options.every + s + 1, *numbers[w, s].tolist()) for w in range(options.checkpoints) for s in range(options.every)
        ]
        started = time.perf_counter()
        for batch in batches:
            before = time.perf_counter()
            trainer.step(batch)
            (seen.beside if writer.busy else seen.steps).append(time.perf_counter() - before)
            if checkpoints:
                _tick(batch.step, writer, trainer, rows, options.every, seen)
        seen.runs.append(time.perf_counter() - started)
        writer.wait()
        rows.close()


def _tick(step: int, writer: CheckpointWriter, trainer: Trainer, rows: RocksRowStore, every: int, seen: Seen) -> None:
    """As `checkpoint.manager` does it between steps, without Kafka."""
    if writer.busy:
        if writer.poll() is not None and writer.last is not None:
            seen.persists.append(writer.last.persist_seconds)
            seen.fresh.append(writer.last.fresh_bytes)
    elif step % every == 0:
        started, own = time.perf_counter(), time.thread_time()
        writer.begin(step, trainer.payload(), trainer.tensors(), rows)
        seen.pauses_cpu.append(time.thread_time() - own)
        seen.pauses.append(time.perf_counter() - started)


def in_memory(options: argparse.Namespace) -> None:
    """Without Kafka."""
    without, beside = Seen(), Seen()
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch_name:
        scratch = Path(scratch_name)
        stored(scratch / "full", options.rows)
        for _ in range(options.rounds):
            run(scratch / "full", scratch, options, without, checkpoints=False)
            run(scratch / "full", scratch, options, beside, checkpoints=True)
    tell(f"{options.rows:,} rows, {options.changed:.0%} changed in {options.every} steps of {BATCH}; {machine()}")
    pause, own = (median([s * MS for s in times], 1) for times in (beside.pauses, beside.pauses_cpu))
    tell(f"pause {pause} ms, of CPU {own} ms; written beside training in {median(beside.persists, 2)} s")
    tell(f"fresh bytes {statistics.median(beside.fresh) / 1e6:.1f} MB")
    for name, times in (("without checkpoints", without.steps), ("between them", beside.steps), ("beside one", beside.beside)):
        if times:
            tell(
                f"step {name}: median {statistics.median(times) * MS:.2f}, 99% {np.quantile(times, 0.99) * MS:.2f}, longest {max(times) * MS:.1f} ms"
            )
    tell(f"throughput with ÷ without: {statistics.median(without.runs) / statistics.median(beside.runs):.3f}")


def pipeline(options: argparse.Namespace) -> None:
    """Whole runs through Kafka."""
    with tempfile.TemporaryDirectory() as folder, kafka() as (servers, scratch):
        stream = streams(Path(folder), 1)["synthetic"]
        topics = [stream.replay(servers, length) for length in stream.lengths]
        rates = {"with": Rates(), "without": Rates()}
        for _ in range(options.rounds):
            measure(stream, HERE, servers, topics, scratch, rates["with"])
            measure(stream, HERE, servers, topics, scratch, rates["without"], *NEVER)
    for name, own in rates.items():
        tell(f"{name} checkpoints: {median(own.wall)} interactions/s, {median(own.cpu)} per CPU second")
    wall, cpu = (statistics.median(getattr(rates["with"], k)) / statistics.median(getattr(rates["without"], k)) for k in ("wall", "cpu"))
    tell(f"throughput with ÷ without: {wall:.3f}, by CPU {cpu:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--changed", type=float, default=0.01, help="share of the rows that change between two checkpoints")
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--checkpoints", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", help="where to make the databases; default: the temporary directory")
    parser.add_argument("--pipeline", action="store_true", help="through Kafka instead")
    options = parser.parse_args()
    if options.pipeline:
        pipeline(options)
    else:
        in_memory(options)


if __name__ == "__main__":
    main()
