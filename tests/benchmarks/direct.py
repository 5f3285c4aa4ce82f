"""Measures methods on a ratings file without Kafka: context, learner and metric only.

    python tests/benchmarks/direct.py FOLDER/ratings.csv --method autoemb --seeds 3 --set dense_rate=.001

Prints, per seed and then mean ± standard deviation over seeds: loss and accuracy over all interactions and over the last 30%, with the
running mean in the same regime beside.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.learners.common.losses import prediction_losses
from autoemb_pipeline.learners.config import LearnerConfig, from_preset, parse_settings
from autoemb_pipeline.method import Method, method_tables
from autoemb_pipeline.prequential.labels import labels_of
from autoemb_pipeline.prequential.references import RunningMean
from autoemb_pipeline.records import FloatArray, Interaction
from autoemb_pipeline.state.memory import MemoryRowStore
from tests.streams import ratings_of


def read_ratings(path: Path) -> list[Interaction]:
    """MovieLens' ratings.csv or u.data in timestamp order, ties in file order."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file)) if path.suffix == ".csv" else [line.split("\t") for line in file.read().splitlines()]
    if rows[0][0].lower() == "userid":
        rows = rows[1:]
    records = [Interaction(user_id=r[0], item_id=r[1], rating=float(r[2]), timestamp=1000 * int(r[3])) for r in rows]
    return sorted(records, key=lambda r: r.timestamp)


def run(records: Sequence[Interaction], config: LearnerConfig, *, mode: str, batch_size: int) -> dict[str, FloatArray]:
    """Prequential pass. Returns losses and hits per interaction of the learner, losses of the running mean, weights and counts."""
    context_config = ContextConfig(mode=mode, spaces=len(config.dims), with_classes=config.task == "rating")
    method = Method(context_config, config, MemoryRowStore(method_tables(context_config, config)))
    reference = RunningMean(config.task)
    out: dict[str, list[FloatArray]] = {"loss": [], "hit": [], "reference": [], "dimension": [], "count": []}
    for step, start in enumerate(range(0, len(records), batch_size)):
        batch = records[start : start + batch_size]
        labels = labels_of(ratings_of(batch))
        held_out = config.held_out(size=len(batch), step=step)
        inputs, predictions = method.predict(batch, labels, held_out)
        losses = prediction_losses(predictions.probabilities, labels)
        method.learn(labels, losses, predictions, held_out)
        p = predictions.probabilities
        hits = (p > 0.5) == (labels.binary > 0.5) if config.task == "binary" else p.argmax(axis=1) == labels.classes
        out["loss"].append(losses)
        out["hit"].append(hits.astype(np.float64))
        out["reference"].append(prediction_losses(reference.predict(inputs), labels))
        if predictions.user_weights is not None:
            out["dimension"].append(predictions.user_weights @ np.array(config.dims, dtype=np.float64))
            out["count"].append(inputs.users.count)
    return {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in out.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ratings", type=Path)
    parser.add_argument("--method", default="autoemb")
    parser.add_argument("--task", default="binary")
    parser.add_argument("--preset", default="paper-layernorm")
    parser.add_argument("--context", default="batch")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of LearnerConfig")
    options = parser.parse_args()
    torch.set_num_threads(1)
    records = read_ratings(options.ratings)
    changes = parse_settings(options.preset, options.set)
    tail = int(0.7 * len(records))
    figures: list[tuple[float, ...]] = []
    for seed in range(options.seeds):
        config = from_preset(options.preset, method=options.method, task=options.task, seed=seed, **changes)
        started = time.perf_counter()
        r = run(records, config, mode=options.context, batch_size=options.batch_size)
        spent = time.perf_counter() - started
        figures.append((r["loss"].mean(), r["loss"][tail:].mean(), r["hit"].mean(), r["hit"][tail:].mean()))
        note = ""
        if len(r["dimension"]):
            edges = ((0, 4), (4, 64), (64, 512), (512, 1 << 40))
            cells = [r["dimension"][(r["count"] >= low) & (r["count"] < high)] for low, high in edges]
            note = "  user dimension by count 0-3/4-63/64-511/512-: " + "/".join(f"{c.mean():.1f}" if len(c) else "-" for c in cells)
        print(f"seed {seed}: {figures[-1][0]:.5f}/{figures[-1][1]:.5f} accuracy {figures[-1][2]:.4f} in {spent:.0f} s{note}", flush=True)  # noqa: T201
    means = [statistics.fmean(column) for column in zip(*figures, strict=True)]
    spread = [statistics.stdev(column) if len(figures) > 1 else 0.0 for column in zip(*figures, strict=True)]
    print(  # noqa: T201
        f"{options.method} {options.task} {options.context}-{options.batch_size} {' '.join(options.set)}: "
        f"loss {means[0]:.5f} ± {spread[0]:.5f} / last 30% {means[1]:.5f} ± {spread[1]:.5f}, "
        f"accuracy {means[2]:.4f} / {means[3]:.4f}; running mean {r['reference'].mean():.5f}/{r['reference'][tail:].mean():.5f}"
    )


if __name__ == "__main__":
    main()
