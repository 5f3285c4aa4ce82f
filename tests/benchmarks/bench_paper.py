"""Preset paper's step against its own matrix products, and a run through Kafka against the same mini-batches in memory.

    KAFKA_HOME=... python -m tests.benchmarks.bench_paper [--preset paper] [--steps 40] [--lengths 5000 30000] [--rounds 2] [--precisions]

Step ÷ products: every `mm`, `addmm` and `bmm` of one step is recorded with its operands and performed alone; both are CPU times of one
thread, the least of their rounds, alternating. Kafka ÷ memory: two lengths of one stream are trained by processes of their own, so that
start-up is taken out; the memory side trains the same mini-batches in a process with nothing else. With --precisions the same stream is
trained in float32 and bf16, in memory. Without KAFKA_HOME the run through Kafka is left out. Where torch finds a GPU, its rows follow.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.producers.datasets.catalogue import DatasetOptions, load_dataset
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables
from tests.benchmarks.commands import HERE, Stream, kafka

BATCH = 500
PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)


class Products(TorchDispatchMode):
    """Records every matrix product with its operands."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations += 1
        if function.overloadpacket in PRODUCTS:
            self.calls.append(lambda: function(*args, **kwargs))
        return function(*args, **kwargs)


def mini_batches(dataset: str, count: int) -> list[MiniBatch]:
    reading = DatasetOptions(
        cache_dir=Path(tempfile.gettempdir()), data_dir=Path(data) if (data := os.environ.get("AUTOEMB_DATA_DIR")) else None
    )
    records = list(islice(load_dataset(dataset, reading).interactions(), count))
    starts = range(0, len(records), BATCH)
    return [MiniBatch.of(step=n, records=records[s : s + BATCH], next_offsets={0: s}) for n, s in enumerate(starts, start=1)]


def trainer_of(preset: str, **changes: Any) -> Trainer:
    learner = from_preset(preset, **changes)
    config = TrainerConfig(learner=learner, context=ContextConfig(spaces=len(learner.dims)), prequential=PrequentialConfig())
    return Trainer(config, MemoryRowStore(trainer_tables(config)))


def timed(work: Callable[[], Any], *, device: str) -> float:
    """CPU seconds on the CPU, wall seconds until it is done on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def step_against_products(preset: str, batches: Sequence[MiniBatch], device: str) -> None:
    trainer = trainer_of(preset, device=device)
    half = len(batches) // 2
    for batch in batches[: half - 1]:
        trainer.step(batch)
    with Products() as recorded:
        trainer.step(batches[half - 1])
    steps, products = [], []

    def all_products() -> None:
        for call in recorded.calls:
            call()

    for batch in batches[half:]:
        steps.append(timed(lambda batch=batch: trainer.step(batch), device=device))
        with torch.no_grad():
            products.append(timed(all_products, device=device))
    step, alone = min(steps) * 1e3, min(products) * 1e3
    print(  # noqa: T201
        f"{preset} {device}: step {step:.1f} ms (median {statistics.median(steps) * 1e3:.1f}), its {len(recorded.calls)} products alone "
        f"{alone:.1f} ms (median {statistics.median(products) * 1e3:.1f}); products ÷ step {alone / step:.2f}; {recorded.operations} operations"
    )


def memory_rate(preset: str, dataset: str, short: int, long: int) -> float:
    """Interactions per second of `Trainer.step`, between the two lengths."""
    batches = mini_batches(dataset, long)
    trainer = trainer_of(preset)
    for batch in batches[: short // BATCH]:
        trainer.step(batch)
    start = time.perf_counter()
    for batch in batches[short // BATCH :]:
        trainer.step(batch)
    return (long - short) / (time.perf_counter() - start)


def kafka_against_memory(preset: str, dataset: str, lengths: tuple[int, int], rounds: int) -> None:
    short, long = lengths
    stream = Stream(name=dataset, dataset=dataset, lengths=lengths, training=("--preset", preset, "--threads", "1"))
    ratios = []
    with kafka() as (servers, scratch):
        topics = [stream.replay(servers, length) for length in lengths]
        for _ in range(rounds):
            times = [stream.train(HERE, servers, topic, scratch).wall for topic in topics]
            pipeline = (long - short) / (times[1] - times[0])
            own = [sys.executable, "-m", "tests.benchmarks.bench_paper", "--preset", preset, "--dataset", dataset]
            told = subprocess.run([*own, "--memory", str(short), str(long)], cwd=HERE, capture_output=True, text=True, check=True)
            memory = float(told.stdout)
            ratios.append(pipeline / memory)
            print(f"{preset}: Kafka {pipeline:,.0f}/s, memory {memory:,.0f}/s, ratio {ratios[-1]:.3f}", flush=True)  # noqa: T201
    print(f"{preset}: Kafka ÷ memory, median of {rounds}: {statistics.median(ratios):.3f}")  # noqa: T201


def precisions(preset: str, batches: Sequence[MiniBatch]) -> None:
    for precision in ("float32", "bf16"):
        trainer = trainer_of(preset, precision=precision)
        start = time.process_time()
        for batch in batches:
            metrics = trainer.step(batch).metrics
        spent = (time.process_time() - start) / len(batches) * 1e3
        print(f"{preset} {precision}: mse {metrics['mse']:.6f} over {metrics['examples']:,}, {spent:.1f} ms a step")  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--dataset", default="ml-latest-small")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--lengths", type=int, nargs=2, default=(5_000, 30_000))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precisions", action="store_true")
    parser.add_argument("--memory", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(memory_rate(options.preset, options.dataset, *options.memory))  # noqa: T201
        return
    batches = mini_batches(options.dataset, options.steps * BATCH)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        step_against_products(options.preset, batches, device)
    if options.precisions:
        precisions(options.preset, batches)
    if os.environ.get("KAFKA_HOME"):
        kafka_against_memory(options.preset, options.dataset, options.lengths, options.rounds)


if __name__ == "__main__":
    main()
