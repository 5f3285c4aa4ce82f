# ruff: noqa: T201 - a command that tells what it found
"""Digests of short runs: what a change that is to move code, and nothing else, must leave as it is.

    python -m tests.benchmarks.digests --record FILE
    python -m tests.benchmarks.digests --check FILE

Every preset, method, task and context mode, and each option that takes another way through a learner, trains on a synthetic stream from
memory (source, batcher and trainer, without Kafka). A run's digest has three parts:

- parameters: every tensor of the learner's state with at least one dimension, by type, shape and bytes, in the order of these. Names and
  counters do not enter, so tensors may be renamed.
- rows: of every table, its name, ids and rows.
- metrics: of every step, the fields that the recording knew.

The figures hold for one machine, one version of torch and numpy, and one thread. A run that only one of both sides knows is told, and is
no difference.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from autoemb_pipeline.batching import Batcher, batches
from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.records import ContextMode, OfflineStage, RunPosition, Task
from autoemb_pipeline.source import MemorySource
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables
from tests.streams import synthetic_stream

EVENTS, SIZE, USERS, ITEMS = 280, 40, 30, 40
OFFLINE = OfflineStage(count=100)
TASKS: Sequence[Task] = ("binary", "rating")
CONTEXTS: Sequence[ContextMode] = ("batch", "event", "strict")
SEARCHING = ("sam", "darts", "autoemb")
PAPER_METHODS = ("fse", "fse-uniform", "sam", "darts", "autoemb")
STREAM_METHODS = (*PAPER_METHODS, "context-only", "count-thresholds")
SMALL = {
    "paper": {"dims": (2, 3, 5), "hidden": (6, 4), "controller_hidden": (5, 4), "embedding_std": 0.3, "validation_size": 30},
    "stream": {"dims": (2, 4, 8), "thresholds": (3, 9), "rank": 2.0, "user_std": 0.5, "item_std": 0.5},
}
SMALL["paper-layernorm"] = SMALL["residual"] = SMALL["paper"]

# Ways through the learners beside those that preset, method, task and context give.
PAPER_OPTIONS: Sequence[Mapping[str, Any]] = (
    *({"validation": v, "xi": x, "unroll": u} for v in ("next", "replay", "holdout") for x, u in ((0.0, "exact"), (1.0, "exact"))),
    {"validation": "replay", "xi": 1.0, "unroll": "finite-difference"},
    *({"validation": "next", "xi": 1.0, "preconditioner": p} for p in ("detached", "sgd")),
    {"validation": "replay", "reservoir": 50},
    {"selection": "hard"},
    {"selection": "hard", "validation": "replay"},
    {"soft_scale": "1"},
    {"shared_maps": True},
    {"shared_maps": True, "xi": 1.0},
    {"normalisation": "none"},
    {"reduction": "sum"},
    {"precision": "float64"},
    {"controller_activation": "relu"},
    {"initial_accumulator": 0.1},
    *({f"{part}_optimiser": o} for part in ("row", "logit") for o in ("sgd", "adam")),
    *({f"{part}_optimiser": o} for part in ("dense", "controller") for o in ("sgd", "adagrad")),
)
RESIDUAL_OPTIONS: Sequence[Mapping[str, Any]] = (
    {"xi": 1.0},
    {"context_inputs": False},
    {"validation": "replay"},
    {"normalisation": "layer"},
)
STREAM_OPTIONS: Sequence[Mapping[str, Any]] = (
    {"quadratic": False},
    {"precision": "float64", "row_precision": "float32"},
    {"row_precision": "float32"},
    {"panel": 0.3, "tolerance": 1.0},
    {"panel": 0.0},
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One short run.

    Attributes:
        preset, method, task, context: as of the command line.
        options: of the learner.
        offline: the first of two stages.
        epochs: passes over it.
    """

    preset: str
    method: str = "autoemb"
    task: Task = "binary"
    context: ContextMode = "event"
    options: Mapping[str, Any] = field(default_factory=dict)
    offline: OfflineStage | None = None
    epochs: int = 1

    @property
    def name(self) -> str:
        """Tells it from the others."""
        stages = "" if self.offline is None else f" offline={self.offline.count}x{self.epochs}"
        return " ".join((self.preset, self.method, self.task, self.context, *(f"{k}={v}" for k, v in self.options.items()))) + stages

    @property
    def config(self) -> TrainerConfig:
        """Small layers and dimensions."""
        learner = from_preset(self.preset, method=self.method, task=self.task, seed=3, **{**SMALL[self.preset], **self.options})
        return TrainerConfig(
            learner=learner,
            context=ContextConfig(mode=self.context, spaces=len(learner.dims), with_classes=self.task == "rating"),
            prequential=PrequentialConfig(task=self.task, window=100),
            offline=self.offline,
            offline_epochs=self.epochs,
        )


def every_run() -> Iterator[Run]:
    for task in TASKS:
        yield from paper_runs(task)
        yield from residual_runs(task)
        yield from stream_runs(task)
        for preset in ("paper", "paper-layernorm", "residual", "stream"):
            yield Run(preset=preset, task=task, offline=OFFLINE)
    yield Run(preset="stream", method="fse-uniform", options={"nested": False})
    yield Run(preset="stream", method="darts", options={"nested": False})


def paper_runs(task: Task) -> Iterator[Run]:
    for method in PAPER_METHODS:
        yield Run(preset="paper", method=method, task=task)
        for context in CONTEXTS:
            yield Run(preset="paper-layernorm", method=method, task=task, context=context)
    for method, options in product(SEARCHING, PAPER_OPTIONS):
        if method != "sam" or not options.keys() & {"xi", "validation"}:
            yield Run(preset="paper-layernorm", method=method, task=task, options=options)
    for method in ("fse", "darts", "autoemb"):
        yield Run(preset="paper", method=method, task=task, offline=OFFLINE, epochs=3)


def residual_runs(task: Task) -> Iterator[Run]:
    for method, context in product(PAPER_METHODS, CONTEXTS):
        yield Run(preset="residual", method=method, task=task, context=context)
    for options in RESIDUAL_OPTIONS:
        yield Run(preset="residual", task=task, options=options)


def stream_runs(task: Task) -> Iterator[Run]:
    for method, context in product(STREAM_METHODS, CONTEXTS):
        yield Run(preset="stream", method=method, task=task, context=context)
    for method, options in product(SEARCHING, STREAM_OPTIONS):
        yield Run(preset="stream", method=method, task=task, options=options)
    for context, options in product(CONTEXTS, ({"panel": 0.3, "tolerance": 1.0}, {"memory_budget": 4000}, {"memory_budget": 9000})):
        yield Run(preset="stream", task=task, context=context, options=options)


def mini_batches(run: Run) -> list[MiniBatch]:
    """What the batcher makes of the stream in two partitions, the offline stage's repeated as often as the run passes over it."""
    stream = synthetic_stream(EVENTS, seed=17, users=USERS, items=ITEMS)
    source = MemorySource(stream, partitions=2)
    made = list(batches(source, Batcher(batch_size=SIZE, position=RunPosition(), offline=run.offline), patience=0))
    seen, order = 0, []
    while made and run.offline is not None and not run.offline.is_over(seen, made[0].records[0].timestamp):
        seen += len(made[0].records)
        order.append(made.pop(0))
    order = [replace(batch, epoch=epoch) for epoch in range(1, run.epochs + 1) for batch in order]
    return [replace(batch, step=step) for step, batch in enumerate((*order, *made), start=1)]


def train(run: Run) -> tuple[Trainer, MemoryRowStore, list[Mapping[str, Any]]]:
    store = MemoryRowStore(trainer_tables(run.config))
    trainer = Trainer(run.config, store)
    return trainer, store, [trainer.step(batch).metrics for batch in mini_batches(run)]


def parameters_digest(trainer: Trainer) -> str:
    values = []
    for name, tensor in trainer.tensors().items():
        if name.startswith("learner.") and tensor.ndim:  # types by torch's names, as recorded
            values.append((f"torch.{tensor.dtype}", tuple(tensor.shape), tensor.tobytes()))
    return _digest(f"{kind} {shape} ".encode() + data for kind, shape, data in sorted(values))


def rows_digest(run: Run, store: MemoryRowStore) -> str:
    return _digest(
        f"{spec.name} {i} ".encode() + b"".join(part.tobytes() for part in row)
        for spec in sorted(trainer_tables(run.config), key=lambda s: s.name)
        for i, row in store.records(spec.name)
    )


def metrics_digest(records: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> str:
    return _digest(json.dumps([record.get(name) for name in fields], sort_keys=True).encode() for record in records)


def _digest(parts: Iterator[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def digests(fields: Sequence[str] | None) -> dict[str, Any]:
    """{"fields": names of the metrics' fields, "runs": run -> part -> digest}; fields None: all there are."""
    trained = [(run, train(run)) for run in _distinct(every_run())]
    fields = fields or sorted({name for _, _, records in [t for _, t in trained] for record in records for name in record})
    runs = {
        run.name: {
            "parameters": parameters_digest(trainer),
            "rows": rows_digest(run, store),
            "metrics": metrics_digest(records, fields),
        }
        for run, (trainer, store, records) in trained
    }
    return {"fields": list(fields), "runs": runs}


def _distinct(runs: Iterator[Run]) -> Sequence[Run]:
    return list({run.name: run for run in runs}.values())


def check(recorded: Mapping[str, Any]) -> int:
    """Tells every difference; how many runs differ."""
    now, then = digests(recorded["fields"])["runs"], recorded["runs"]
    for name in sorted(now.keys() ^ then.keys()):
        print(f"{'not recorded' if name in now else 'no longer there'}: {name}")
    wrong = 0
    for name in (n for n in then if n in now):
        parts = [part for part, digest in then[name].items() if now[name][part] != digest]
        wrong += bool(parts)
        if parts:
            print(f"DIFFERS in {', '.join(parts)}: {name}")
    print(f"{len(now.keys() & then.keys()) - wrong} runs as recorded, {wrong} not")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", type=Path, metavar="FILE")
    what.add_argument("--check", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    if arguments.record:
        arguments.record.write_text(json.dumps(digests(None), indent=1, sort_keys=True))
        wrong = 0
    else:
        wrong = check(json.loads(arguments.check.read_text()))
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
