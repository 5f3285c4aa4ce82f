"""Cells of an experiment: one method on one stream under one seed, trained straight from a dataset and kept like a run of `train`.

A cell's folder is a state directory without checkpoints: ``run.json`` and the prediction log. So `report` and the figures read cells and
runs alike. A finished cell has ``done.json``; an experiment started again goes on with the first unfinished one.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from autoemb_pipeline.batching import Batcher
from autoemb_pipeline.checkpoint.identity import RunIdentity, flatten, read_identity, write_identity
from autoemb_pipeline.columns import Block, MiniBatch
from autoemb_pipeline.epochs import Epochs
from autoemb_pipeline.records import Interaction, OfflineStage, RunPosition
from autoemb_pipeline.rows import AnySpec, RowStore
from autoemb_pipeline.sink.prediction_log import PredictionLog, read_predictions
from autoemb_pipeline.source.memory import IterableLog, MemorySource
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables

DONE = "done.json"
STEPS_PER_SEGMENT = 200
Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """Ordered interactions that every cell of an experiment reads from the beginning.

    Attributes:
        name: of the dataset; says synthetic where it is.
        fingerprint: of data and order.
        length: interactions.
        open: begins anew at the first one; blocks of them, or one by one.
    """

    name: str
    fingerprint: str
    length: int
    open: Callable[[], Iterable[Block | Interaction]]

    def interactions(self) -> Iterator[Interaction]:
        """All of them, one by one."""
        for row in self.open():
            if isinstance(row, Block):
                yield from row.interactions()
            else:
                yield row


def mini_batches(
    read: Callable[[], Iterable[Block | Interaction]], batch_size: int, offline: OfflineStage | None = None, epochs: int = 1
) -> Iterator[MiniBatch]:
    """The mini-batches that `train` makes of the same interactions in one partition, by the same source and batcher.

    Args:
        read: begins anew at the first interaction.
        batch_size: interactions of a mini-batch.
        offline: the first stage.
        epochs: how often it is read.
    """

    def read_again(position: RunPosition) -> AbstractContextManager[MemorySource]:
        return nullcontext(MemorySource(IterableLog(read), position))

    start = RunPosition()
    first = Batcher(batch_size=batch_size, position=start, offline=offline, pauses=epochs > 1)
    stream = Epochs(first, start, epochs=epochs, batch_size=batch_size).read(MemorySource(IterableLog(read)), read_again)
    return (batch for batch in stream if batch is not None)


def run_cell(
    folder: Path,
    config: TrainerConfig,
    stream: Stream,
    *,
    batch_size: int,
    store: Callable[[tuple[AnySpec, ...]], RowStore] = MemoryRowStore,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Trains the cell unless it is finished; returns the last metrics record with ``seconds``.

    Args:
        folder: of this cell alone.
        config: the trainer's.
        stream: what to train on.
        batch_size: interactions of a mini-batch.
        store: rows in memory, unless another is given.
        progress: told the interactions done, about once a second.
    """
    cell = cell_settings(config, stream, batch_size)
    done = folder / DONE
    identity = read_identity(folder)
    if done.exists() and identity is not None and identity.configuration == json.loads(json.dumps(cell)):
        result: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return result
    done.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    learner = config.learner
    write_identity(
        folder,
        RunIdentity(run_id=folder.name, configuration=cell, topic_id=stream.fingerprint, metrics_start=0, dead_letters_start=0),
    )
    log = PredictionLog(folder / "predictions", dims=learner.dims, task=learner.task, limit=1 << 62)
    log.truncate_to(0)
    trainer = Trainer(config, store(trainer_tables(config)))
    metrics: Mapping[str, Any] = {}
    started = told = time.perf_counter()
    for batch in mini_batches(stream.open, batch_size, config.offline, config.offline_epochs):
        step = trainer.step(batch)
        log.add(batch, step.scores, step.predictions, step.inputs, step.metrics)
        metrics = step.metrics
        if batch.step % STEPS_PER_SEGMENT == 0:
            log.close_segment(batch.step)
        if time.perf_counter() - told > 1.0:
            told = time.perf_counter()
            progress(trainer.examples)
    log.close_segment(int(metrics["step"]))
    return write_done(folder, {**metrics, "seconds": time.perf_counter() - started})


def cell_settings(config: TrainerConfig, stream: Stream, batch_size: int) -> dict[str, Any]:
    """All that decides a cell's figures, by dotted names."""
    settings = asdict(config)
    del settings["learner"]["device"]
    return flatten({"topic": stream.name, "fingerprint": stream.fingerprint, "length": stream.length, "batch_size": batch_size} | settings)


def write_done(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Notes that a cell is finished, and how it ended."""
    temporary = folder / f"{DONE}.tmp"
    temporary.write_text(json.dumps(result, sort_keys=True), encoding="utf-8")
    temporary.replace(folder / DONE)
    return result


def paper_name(stream: str) -> str:
    """The dataset's name in the paper's tables: without order and ties; streams cut short have none there."""
    name, _, order = stream.partition("+")
    return stream if " " in order else name


def online_log(folder: Path, offline: OfflineStage | None) -> pl.LazyFrame:
    """The prediction log of a cell's online stage, in order."""
    log = read_predictions(folder / "predictions")
    if offline is None:
        return log
    if offline.count is not None and offline.until_ms is None:
        return log.slice(offline.count)
    frame = log.with_row_index("row")
    is_online = pl.col("row") >= (offline.count or 0)
    if offline.until_ms is not None:
        is_online &= pl.col("timestamp").cum_max() >= offline.until_ms
    return frame.filter(is_online).drop("row")
