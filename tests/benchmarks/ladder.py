# ruff: noqa: T201 - a command that prints its tables
"""The ladder of the stream preset: rungs x streams x seeds through the product's trainer, resumable cell by cell.

    python -m tests.benchmarks.ladder run --out DIR --streams ml-latest-small,ml-100k --rungs autoemb,fse-146 --seeds 3
    python -m tests.benchmarks.ladder table --out DIR --streams ml-latest-small

A cell keeps `losses.npy` [n] (of the method), `reference.npy` (the logistic reference on the same events) and `cell.json`. Nothing here
is part of the product; the rungs are its methods and options.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.experiments.statistics import Interval, clustered_interval, holm
from autoemb_pipeline.learners.config import from_preset, parse_settings
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.producers.datasets.synthetic import PRESETS, SyntheticConfig, SyntheticModel
from autoemb_pipeline.records import FloatArray, Interaction
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables

BATCH = 500
FIXED = (2, 8, 16, 32, 64, 128, 146)
RUNGS: Mapping[str, Mapping[str, Any]] = {
    "context-only": {"method": "context-only"},
    **{f"fse-{d}": {"method": "fse", "dims": (d,)} for d in FIXED},
    "equal": {"method": "fse-uniform"},
    "count-thresholds": {"method": "count-thresholds"},
    "sam": {"method": "sam"},
    "darts": {"method": "darts"},
    "autoemb": {"method": "autoemb"},
    "autoemb-tuned": {"method": "autoemb"},  # the best of the random search alone; `autoemb` is the preset as it is
}


def movielens(path: Path) -> list[Interaction]:
    """A MovieLens csv or RecBole .inter file by (timestamp, file order)."""
    tabs = path.suffix == ".inter"
    frame = pl.read_csv(path, separator="\t" if tabs else ",", new_columns=["user", "item", "rating", "timestamp"])
    frame = frame.sort("timestamp", maintain_order=True)
    rows = frame.select("user", "item", "rating", "timestamp").iter_rows()
    return [Interaction(str(u), str(i), float(r), int(t) * 1000, path.stem, k) for k, (u, i, r, t) in enumerate(rows)]


def synthetic(spec: str, limit: int | None) -> list[Interaction]:
    config = SyntheticConfig.parse(spec)
    stream: list[Interaction] = []
    for chunk in SyntheticModel(config).stream():
        columns = (chunk.users.tolist(), chunk.items.tolist(), chunk.ratings.tolist(), chunk.timestamps.tolist())
        stream += [
            Interaction(str(u), str(i), r, t, config.name, len(stream) + k) for k, (u, i, r, t) in enumerate(zip(*columns, strict=True))
        ]
        if limit is not None and len(stream) >= limit:
            break
    return stream[:limit]


def load(name: str, limit: int | None) -> list[Interaction]:
    """`ml-latest-small`, `ml-100k` (AUTOEMB_DATA_DIR, AUTOEMB_ML100K), or a synthetic dataset's specification."""
    if name.partition(":")[0] in PRESETS:
        return synthetic(name, limit)
    shared = Path(os.environ.get("AUTOEMB_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "autoemb-pipeline-tests"
    files = {
        "ml-latest-small": shared / "ml-latest-small" / "ratings.csv",
        "ml-100k": Path(os.environ.get("AUTOEMB_ML100K", cache / "ml-100k" / "ml-100k.inter")),
    }
    return movielens(files[name])[:limit]


class Popularity:
    """Σ α_n d_n against popularity over the last 30%: by bucket of log2 counts, and interaction by interaction."""

    def __init__(self, dims: Sequence[int]) -> None:
        self._dims = np.array(dims, dtype=np.float64)
        self._seen: list[list[FloatArray]] = [[], []]

    def add(self, weights: Sequence[FloatArray | None], counts: Sequence[FloatArray]) -> None:
        for seen, alpha, count in zip(self._seen, weights, counts, strict=True):
            if alpha is not None:
                seen.append(np.stack([count, alpha @ self._dims], axis=1))

    def summary(self) -> list[dict[str, Any]]:
        out = []
        for seen in self._seen:
            if not seen:
                return []
            count, used = np.concatenate(seen).T
            bucket = np.floor(np.log2(count + 1.0)).astype(np.int64)
            kept = [b for b in np.unique(bucket) if (bucket == b).sum() >= 20]
            means = np.array([used[bucket == b].mean() for b in kept])
            out.append(
                {
                    "dimension": {int(b): round(float(m), 2) for b, m in zip(kept, means, strict=True)},
                    "spearman_of_buckets": spearman(np.array(kept, dtype=float), means),
                    "spearman_of_interactions": spearman(count, used),
                }
            )
        return out


def spearman(a: FloatArray, b: FloatArray) -> float:
    """Rank correlation, ties at their mean rank."""
    ranks = []
    for values in (a, b):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2.0)[inverse])
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What became of one cell: [n] losses of the method and of the logistic reference on the same events, and a summary."""

    losses: FloatArray
    references: FloatArray
    summary: Mapping[str, Any]


def train(stream: Sequence[Interaction], rung: str, seed: int, options: Mapping[str, Any]) -> Trained:
    """One rung over one stream, in context mode `event`, mini-batches of 500."""
    began = time.monotonic()
    config = from_preset("stream", **{**RUNGS[rung], **options, "seed": seed})
    trained = TrainerConfig(
        learner=config,
        context=ContextConfig(mode="event", spaces=len(config.dims)),
        prequential=PrequentialConfig(task="binary", window=5000),
    )
    trainer = Trainer(trained, MemoryRowStore(trainer_tables(trained)))
    popularity, losses, references = Popularity(config.dims), [], []
    for start in range(0, len(stream), BATCH):
        records = stream[start : start + BATCH]
        result = trainer.step(MiniBatch.of(step=start // BATCH + 1, records=records, next_offsets={0: start + len(records)}))
        assert result.predictions is not None
        assert result.inputs is not None
        losses.append(result.scores["method"][0])
        references.append(result.scores["logistic"][0])
        if start >= 0.7 * len(stream):
            predictions, inputs = result.predictions, result.inputs
            counts = (inputs.users.count, inputs.items.count)
            popularity.add((predictions.user_weights, predictions.item_weights), counts)
    summary = {
        "rung": rung,
        "seed": seed,
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()},
        "seconds": round(time.monotonic() - began, 1),
        "popularity": popularity.summary(),
        "bytes": result.metrics["embedding_bytes"],
    }
    return Trained(losses=np.concatenate(losses), references=np.concatenate(references), summary=summary)


def run_cell(folder: Path, stream: Sequence[Interaction], rung: str, seed: int, options: Mapping[str, Any]) -> None:
    """Trains one cell and keeps what came of it. A cell with `cell.json` is finished."""
    done = train(stream, rung, seed, options)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "losses.npy", done.losses.astype(np.float32))
    np.save(folder / "reference.npy", done.references.astype(np.float32))
    (folder / "cell.json").write_text(json.dumps(done.summary))


def cells(out: Path, stream: str, rungs: Iterable[str], seeds: int, once: Iterable[str] = ()) -> Iterator[tuple[Path, str, int]]:
    """Folder, rung and seed of each cell; of the rungs of `once` the first seed alone."""
    for seed in range(seeds):
        for rung in (*rungs, *(once if seed == 0 else ())):
            yield out / stream.replace(":", "_") / rung / str(seed), rung, seed


def run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    everywhere = parse_settings("stream", arguments.set)
    tuned = json.loads(arguments.tuned.read_text()) if arguments.tuned else {}
    for name in arguments.streams.split("+"):
        stream: list[Interaction] = []
        for folder, rung, seed in cells(
            arguments.out, name, arguments.rungs.split(","), arguments.seeds, filter(None, arguments.once.split(","))
        ):
            if (folder / "cell.json").exists():
                continue
            stream = stream or load(name, arguments.limit)
            own = {name: tuple(value) if isinstance(value, list) else value for name, value in tuned.get(rung, {}).items()}
            run_cell(folder, stream, rung, seed, {**own, **everywhere})
            losses = np.load(folder / "losses.npy").astype(np.float64)
            print(f"{name} {rung} seed {seed}: {losses.mean():.5f} / {losses[int(0.7 * len(losses)) :].mean():.5f}", flush=True)


def table(arguments: argparse.Namespace) -> None:
    """Markdown: each rung against the logistic reference and against `--against`, all and last 30%."""
    for name in arguments.streams.split("+"):
        users = np.array([r.user_id for r in load(name, arguments.limit)])
        mean = {}
        for rung in arguments.rungs.split(","):
            folders = [f for f, _, _ in cells(arguments.out, name, [rung], arguments.seeds) if (f / "cell.json").exists()]
            if folders:
                mean[rung] = np.mean([np.load(f / "losses.npy").astype(np.float64) for f in folders], axis=0)
                mean.setdefault("logistic", np.load(folders[0] / "reference.npy").astype(np.float64))
        print(
            f"\n{name}, {arguments.seeds} seeds\n\n| rung | all | last 30% | all − logistic | last 30% − logistic | last 30% − {arguments.against} |"
        )
        print("|---|---|---|---|---|---|")
        tail = slice(int(0.7 * len(users)), None)
        rungs = [r for r in mean if r != "logistic"]
        found = {r: _compared(mean, r, arguments.against, users, tail) for r in rungs}
        adjusted = [dict(zip(rungs, holm([found[r][k].p_value for r in rungs]), strict=True)) for k in range(3)]
        for rung in ("logistic", *rungs):
            losses = mean[rung]
            cells_ = ["" if rung == "logistic" else _shown(found[rung][k], adjusted[k][rung]) for k in range(3)]
            print(f"| {rung} | {losses.mean():.5f} | {losses[tail].mean():.5f} | {' | '.join(cells_)} |")


def _compared(mean: Mapping[str, FloatArray], rung: str, against: str, users: np.ndarray, tail: slice) -> list[Interval]:
    """A rung against the logistic reference, all and last 30%, and against another rung, last 30%."""
    to_logistic, to_other = mean[rung] - mean["logistic"], mean[rung] - mean[against]
    return [_wider(to_logistic, users), _wider(to_logistic[tail], users[tail]), _wider(to_other[tail], users[tail])]


def _wider(values: FloatArray, users: np.ndarray) -> Interval:
    """The wider of the user-clustered interval and the one over blocks of 1,000 events; NaN where one user or block is all there is."""
    both = [clustered_interval(values, clusters) for clusters in (users, np.arange(len(values)) // 1000)]
    return max(both, key=lambda i: np.nan_to_num(i.high - i.low, nan=-1.0))


def _shown(interval: Interval, p_value: float) -> str:
    return f"{interval.estimate * 1e4:+.1f} [{interval.low * 1e4:+.1f}, {interval.high * 1e4:+.1f}]{'*' if p_value < 0.05 else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--streams", required=True, help="With + between them.")
    parser.add_argument("--rungs", default=",".join(RUNGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--once", default="", help="run: further rungs, of which the first seed alone is run.")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE of the learner, for every rung.")
    parser.add_argument("--tuned", type=Path, help="Options by rung, as `ladder_search best` writes them.")
    parser.add_argument("--against", default="fse-146")
    arguments = parser.parse_args()
    {"run": run, "table": table}[arguments.command](arguments)


if __name__ == "__main__":
    main()
