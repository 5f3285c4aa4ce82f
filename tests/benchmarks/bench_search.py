"""Error against bytes, whole streams in memory: AutoEmb under tolerances and budgets, fixed sizes, and what else is given.

    python -m tests.benchmarks bench_search ml-latest-small ml-100k globo synthetic-a synthetic-b --seeds 2 [--rating] \
        [--run 'autoemb' 'autoemb tolerance=3e-4' 'fse dims=16' …]

With --against RUN the difference of the last 30% to that run, averaged over the seeds, comes with a 95% interval over users (over users and streams
where streams are drawn).

Streams: AUTOEMB_DATA_DIR (ml-latest-small, globo), AUTOEMB_ML100K; synthetic ones have seeds 11, 12, … and session_length=1.01. A run is a
method and settings. Reported: loss of all interactions and of the last 30%, bytes kept at the end as a share of FSE-146's in float32, loss given up
as the run itself says, interactions per CPU second, ids per space.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from autoemb_pipeline.columns import Block, MiniBatch, Texts
from autoemb_pipeline.config import parse_settings
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.experiments.statistics import clustered_interval
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.producers.datasets.synthetic import PRESETS, SyntheticConfig, SyntheticModel
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables
from tests.benchmarks.commands import tell

BATCH = 500
LAST = 0.7
RUNS = (
    "autoemb",
    "sam",
    "fse dims=16",
    "fse dims=64",
    "fse dims=146",
    "fse dims=146 row_precision=float32",
)


def columns(name: str, seed: int) -> tuple[Sequence[str], Sequence[str], np.ndarray, np.ndarray]:
    """User ids, item ids, times (ms) and ratings of a stream in time order; 5 and 1 for clicked again and not."""
    data = Path(os.environ.get("AUTOEMB_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))
    if name in PRESETS:
        chunks = list(SyntheticModel(SyntheticConfig.parse(f"{name}:seed={seed},session_length=1.01")).stream())
        users, items, times, ratings = (np.concatenate(c) for c in zip(*(c[:4] for c in chunks), strict=True))
        return [str(u) for u in (users + 1).tolist()], [str(i) for i in (items + 1).tolist()], times, ratings
    if name == "globo":
        clicks = pl.read_parquet(data / "globo" / "clicks-1.parquet").filter(pl.col("position") > 0)
        liked = np.where(clicks["clicked_again"].to_numpy() > 0, 5.0, 1.0)
        return (
            clicks["user_id"].cast(pl.String).to_list(),
            clicks["article_id"].cast(pl.String).to_list(),
            clicks["timestamp"].to_numpy(),
            liked,
        )
    if name == "ml-100k":
        cached = Path.home() / ".cache" / "autoemb-pipeline-tests" / "ml-100k" / "ml-100k.inter"
        rows = pl.read_csv(Path(os.environ.get("AUTOEMB_ML100K", cached)), separator="\t", new_columns=["u", "i", "r", "t"])
    else:
        rows = pl.read_csv(data / "ml-latest-small" / "ratings.csv", new_columns=["u", "i", "r", "t"])
    rows = rows.with_row_index("k").sort(["t", "k"])
    texts = [rows[column].cast(pl.Int64).cast(pl.String).to_list() for column in ("u", "i")]
    return texts[0], texts[1], rows["t"].to_numpy() * 1000, rows["r"].to_numpy().astype(np.float64)


def batches(stream: tuple[Sequence[str], Sequence[str], np.ndarray, np.ndarray]) -> Iterator[MiniBatch]:
    """Mini-batches of 500."""
    users, items, times, ratings = stream
    for step, start in enumerate(range(0, len(times), BATCH), 1):
        part = slice(start, min(start + BATCH, len(times)))
        numbers = np.arange(part.stop - start)
        nothing = np.zeros(len(numbers), dtype=np.int64)
        ids = tuple(Texts.of([i.encode() for i in side[part]]) for side in (users, items))
        block = Block(
            ids,
            np.asarray(ratings[part], dtype=np.float64),
            np.asarray(times[part], dtype=np.int64),
            start + numbers,
            nothing,
            ("bench",),
            nothing,
            start + numbers,
            nothing.astype(np.int8),
        )
        yield MiniBatch(step=step, block=block, next_offsets={0: part.stop})


def measure(
    stream: tuple[Sequence[str], Sequence[str], np.ndarray, np.ndarray], run: str, seed: int, task: str
) -> tuple[dict[str, object], np.ndarray]:
    """One run over one stream, and its losses of the last 30%."""
    method, *settings = run.split()
    learner = from_preset("stream", method=method, task=task, seed=seed, **parse_settings("stream", settings))
    config = TrainerConfig(
        learner=learner, context=ContextConfig(spaces=len(learner.dims), with_classes=task == "rating"), prequential=PrequentialConfig()
    )
    trainer = Trainer(config, MemoryRowStore(trainer_tables(config)))
    losses, started, most = [], time.process_time(), 0.0
    metrics: dict[str, object] = {}
    for batch in batches(stream):
        result = trainer.step(batch)
        losses.append(result.scores["method"][0])
        metrics = dict(result.metrics)
        most = max(most, float(str(metrics.get("embedding_bytes") or 0)))
    seconds = time.process_time() - started
    every = np.concatenate(losses)
    kept = {
        key: metrics.get(key)
        for key in ("bytes_share_of_fixed", "total_share_of_fixed", "loss_given_up", "price_per_byte", "embedding_bytes")
    }
    spaces = {key: value for key, value in metrics.items() if "_ids_of_" in key}
    last = every[int(LAST * len(every)) :]
    return {
        "all": float(every.mean()),
        "last": float(last.mean()),
        "per_cpu_second": len(every) / seconds,
        "most_bytes": most,
        **kept,
        **spaces,
    }, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("streams", nargs="*", default=["ml-latest-small"])
    parser.add_argument("--run", nargs="*", default=RUNS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--against", help="A run that the others are compared with.")
    parser.add_argument("--rating", action="store_true")
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    task = "rating" if options.rating else "binary"
    for name in options.streams:
        differences: dict[str, list[np.ndarray]] = {}
        clusters: list[np.ndarray] = []
        for seed in range(options.seeds):
            stream = columns(name, 11 + seed)
            drawn = f"{seed} " if name in PRESETS else ""
            clusters.append(np.array([drawn + user for user in stream[0][int(LAST * len(stream[0])) :]]))
            losses = {}
            for run in dict.fromkeys(([options.against] if options.against else []) + list(options.run)):
                result, losses[run] = measure(stream, run, seed, task)
                result = {"stream": name, "run": run, "seed": seed, "task": task, **result}
                tell(json.dumps({k: round(v, 7) if isinstance(v, float) else v for k, v in result.items()}))
                if options.log:
                    with options.log.open("a", encoding="utf-8") as log:
                        log.write(json.dumps(result) + "\n")
                if options.against:
                    differences.setdefault(run, []).append(losses[run] - losses[options.against])
        for run, own in differences.items():
            if run != options.against:
                interval = clustered_interval(np.concatenate(own), np.concatenate(clusters))
                tell(
                    f"{name}: {run} - {options.against}: {1e4 * interval.estimate:+.1f} [{1e4 * interval.low:+.1f}, {1e4 * interval.high:+.1f}] 1e-4"
                )


if __name__ == "__main__":
    main()
