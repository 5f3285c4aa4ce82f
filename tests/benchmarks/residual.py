# ruff: noqa: T201 - a command that prints its tables
"""What a network adds to the online logistic regression, without Kafka: one configuration over streams and seeds.

    python -m tests.benchmarks.residual --streams ml-latest-small+ml-100k+globo --part .4 --log trials.csv --set hidden=64,64
    python -m tests.benchmarks.residual --streams globo --seeds 3 --method fse --preset stream

Every line: losses of the method and of the logistic reference over all interactions and over the last 30%, and the method's differences
to the reference in 1e-4 with the wider 95% interval of two: by users and by blocks of 1,000 events, of losses averaged over seeds. `--part`
leaves all but the first part of a stream unread: trials are chosen by it, results are not.
"""

import argparse
import csv
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.learners.config import LearnerConfig, from_preset, parse_settings
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.records import FloatArray, Interaction
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables
from tests.benchmarks.ladder import _wider as wider
from tests.benchmarks.ladder import load

CLICKS, DAYS = "globo", "globo-days"
DAY_MS = 86_400_000


def stream_of(name: str, part: float) -> list[Interaction]:
    """The first part of a stream of `tests.benchmarks.ladder`, or of Globo's clicks without each session's first (its README says why).

    `globo` gives the label away: its publishers stamped every session's last click 30 s after the one before. `globo-days` has the same clicks
    in the same order with the day alone for a time.
    """
    if name not in (CLICKS, DAYS):
        stream = load(name, None)
        return stream[: int(part * len(stream))]
    frame = pl.read_parquet(Path(os.environ["AUTOEMB_DATA_DIR"]) / "globo" / "clicks-1.parquet").filter(pl.col("position") > 0)
    frame = frame.sort("timestamp", maintain_order=True).head(int(part * len(frame)))
    unit = DAY_MS if name == DAYS else 1
    rows = frame.select("user_id", "article_id", "clicked_again", "timestamp").iter_rows()
    return [Interaction(str(u), str(i), float(y), t - t % unit, CLICKS, k) for k, (u, i, y, t) in enumerate(rows)]


def losses_of(
    stream: Sequence[Interaction], name: str, learner: LearnerConfig, mode: str, size: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """[n] losses of the method and of the logistic reference, and the largest share any space has of an interaction's weights, [n] or [0]."""
    config = TrainerConfig(
        learner=learner,
        context=ContextConfig(mode=mode, spaces=len(learner.dims), with_classes=learner.task == "rating"),
        prequential=PrequentialConfig(task=learner.task, window=5000),
        positive_above=0.5 if name in (CLICKS, DAYS) else 3.5,
    )
    trainer = Trainer(config, MemoryRowStore(trainer_tables(config)))
    losses, references, largest = [], [], [np.zeros(0)]
    for start in range(0, len(stream), size):
        records = stream[start : start + size]
        result = trainer.step(MiniBatch.of(step=start // size + 1, records=records, next_offsets={0: start + len(records)}))
        assert result.predictions is not None
        losses.append(result.scores["method"][0])
        references.append(result.scores["logistic"][0])
        if result.predictions.item_weights is not None:
            largest.append(result.predictions.item_weights.max(axis=1))
    return np.concatenate(losses), np.concatenate(references), np.concatenate(largest)


def difference(values: FloatArray, users: np.ndarray) -> str:
    """In 1e-4."""
    interval = wider(values, users)
    return f"{interval.estimate * 1e4:+.1f} [{interval.low * 1e4:+.1f}, {interval.high * 1e4:+.1f}]"


def measure(name: str, learner: LearnerConfig, options: argparse.Namespace) -> dict[str, Any]:
    """One line of the table."""
    stream = stream_of(name, options.part)
    users, tail = np.array([record.user_id for record in stream]), slice(int(0.7 * len(stream)), None)
    began = time.monotonic()
    runs = [losses_of(stream, name, replace(learner, seed=seed), options.context, options.batch_size) for seed in range(options.seeds)]
    loss, reference = np.mean([run[0] for run in runs], axis=0), runs[0][1]
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        np.savez(options.out / f"{options.name}.{name}.npz", loss=loss, reference=reference, users=users)
    by_seed = [(run[0] - run[1])[tail].mean() * 1e4 for run in runs]
    return {
        "name": options.name,
        "stream": name,
        "part": options.part,
        "batch": options.batch_size,
        "context": options.context,
        "seeds": options.seeds,
        "settings": " ".join(options.set),
        "loss": f"{loss.mean():.5f} / {loss[tail].mean():.5f}",
        "logistic": f"{reference.mean():.5f} / {reference[tail].mean():.5f}",
        "all - logistic": difference(loss - reference, users),
        "last 30% - logistic": difference((loss - reference)[tail], users[tail]),
        "last 30% by seed": " ".join(f"{value:+.1f}" for value in by_seed),
        "largest weight": f"{runs[0][2].mean():.3f}" if len(runs[0][2]) else "",
        "seconds": f"{(time.monotonic() - began) / options.seeds:.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", required=True, help="With + between them.")
    parser.add_argument("--part", type=float, default=1.0)
    parser.add_argument("--preset", default="residual")
    parser.add_argument("--method", default="autoemb")
    parser.add_argument("--task", default="binary")
    parser.add_argument("--context", default="event")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--name", default="", help="Of the trial, in the log.")
    parser.add_argument("--log", type=Path, help="A csv that lines are added to.")
    parser.add_argument("--out", type=Path, help="Where losses are kept.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    learner = from_preset(options.preset, method=options.method, task=options.task, **parse_settings(options.preset, options.set))
    for name in options.streams.split("+"):
        line = measure(name, learner, options)
        print(" | ".join(str(value) for value in line.values()), flush=True)
        if options.log:
            new = not options.log.exists()
            with options.log.open("a", newline="") as file:
                writer = csv.DictWriter(file, line)
                if new:
                    writer.writeheader()
                writer.writerow(line)


if __name__ == "__main__":
    main()
