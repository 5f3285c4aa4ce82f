"""Cost of a training step against the size of the tables: `python -m tests.benchmarks.bench_step [small] [large]`.

The same mini-batches are trained over a RocksDB row store that holds few and many other ids; rounds alternate, the ratio is of medians.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.kernels import HELD
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.rows import RecordSpec, hashed_uniform
from autoemb_pipeline.state.options import RocksConfig
from autoemb_pipeline.state.rocks import RocksRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables
from tests.streams import synthetic_stream

ROUNDS, BATCH, CHUNK = 40, 500, 10_000


def trainer_over(preset: str, rows: int, directory: Path) -> Trainer:
    learner = from_preset(preset)
    context = ContextConfig(spaces=len(learner.dims))
    config = TrainerConfig(learner=learner, context=context, prequential=PrequentialConfig())
    specs = trainer_tables(config)
    store = RocksRowStore(RocksConfig(directory=directory), specs)
    for spec in specs:
        for start in range(0, rows, CHUNK):
            ids = [f"other-{k}" for k in range(start, start + CHUNK)]
            if isinstance(spec, RecordSpec):
                lent = store.lend(spec.name, ids)
                if spec.held is not None:
                    lent.slabs[spec.held][lent.slots] = HELD
                store.keep(spec.name, lent)
                continue
            values = hashed_uniform(ids, seed=1, table=spec.name, width=spec.width, std=0.02)
            store.scatter(spec.name, ids, values.astype(np.float32 if spec.dtype == "f4" else np.float64))
    return Trainer(config, store)


def main() -> None:
    torch.set_num_threads(1)
    sizes = [int(a) for a in sys.argv[1:]] or [10_000, 200_000]
    stream = synthetic_stream(ROUNDS * BATCH, seed=1, users=400, items=2_000)
    print(f"synthetic stream, batch {BATCH}, {ROUNDS} steps, 1 thread; ms per step (median)")  # noqa: T201
    for preset in ("stream", "paper-layernorm"):
        with tempfile.TemporaryDirectory() as scratch:
            trainers = [trainer_over(preset, rows, Path(scratch) / str(rows)) for rows in sizes]
            times: list[list[float]] = [[] for _ in sizes]
            for step in range(ROUNDS):
                batch = MiniBatch.of(step=step + 1, records=stream[step * BATCH : (step + 1) * BATCH], next_offsets={0: step})
                for trainer, own in zip(trainers, times, strict=True):
                    start = time.perf_counter()
                    trainer.step(batch)
                    own.append(time.perf_counter() - start)
        medians = [statistics.median(own[5:]) * 1e3 for own in times]
        figures = "  ".join(f"{rows:>9,} ids {median:7.1f}" for rows, median in zip(sizes, medians, strict=True))
        print(f"{preset:16} {figures}   ratio {medians[-1] / medians[0]:.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
