"""Cells trained by the main path from a topic, as `train` does: checkpoints, metrics topics and all. Same bits as `cells.run_cell`."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoemb_pipeline.checkpoint.identity import read_identity
from autoemb_pipeline.config import Ports, RunConfig
from autoemb_pipeline.errors import DatasetError
from autoemb_pipeline.experiments.cells import DONE, Progress, Stream, cell_settings, write_done
from autoemb_pipeline.run import train
from autoemb_pipeline.schemas.codec import decode_interaction
from autoemb_pipeline.trainer import TrainerConfig

SETTINGS = "cell.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """A topic that holds a stream and nothing else.

    Attributes:
        kafka: librdkafka settings.
        name: of the topic; those of metrics, runtime records and dead letters follow it and exist.
        id: the topic's id (KIP-516), as `autoemb_pipeline.ops.topics.topic_id` gives it.
    """

    kafka: Mapping[str, str]
    name: str
    id: str


def run_kafka_cell(
    folder: Path, config: TrainerConfig, stream: Stream, topic: Topic, *, batch_size: int, progress: Progress = lambda _: None
) -> dict[str, Any]:
    """Trains the cell unless it is finished; one cut off goes on from its checkpoint while its topic is there.

    Args:
        folder: of this cell alone: the run's state directory.
        config: the trainer's.
        stream: what the topic holds.
        topic: where it is.
        batch_size: interactions of a mini-batch.
        progress: told the interactions done, every two seconds.

    Raises:
        DatasetError: the topic held less than the stream.
        AutoembError: whatever `train` raises.
    """
    cell = json.loads(json.dumps(cell_settings(config, stream, batch_size)))
    done, settings = folder / DONE, folder / SETTINGS
    is_same = settings.exists() and json.loads(settings.read_text(encoding="utf-8")) == cell
    if done.exists() and is_same:
        result: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return result
    identity = read_identity(folder)
    if not is_same or identity is None or identity.topic_id != topic.id:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        settings.write_text(json.dumps(cell, sort_keys=True), encoding="utf-8")
    started = time.perf_counter()
    run = _run_config(folder, config, topic, batch_size)
    observers = (lambda metrics, _runtime: progress(int(metrics.get("examples", 0))),)
    summary = train(run, Ports(kafka=topic.kafka, decoder=decode_interaction, topic_id=topic.id, observers=observers))
    if summary.examples != stream.length:
        raise DatasetError(
            f"topic {topic.name} held {summary.examples:,} of {stream.length:,} interactions",
            why="part of it was deleted",
            remedy="run it again",
        )
    if not summary.metrics:  # it was cut off between its end and the note of it: rare enough to do it again
        shutil.rmtree(folder)
        return run_kafka_cell(folder, config, stream, topic, batch_size=batch_size, progress=progress)
    return write_done(folder, {**summary.metrics, "seconds": time.perf_counter() - started})


def _run_config(folder: Path, config: TrainerConfig, topic: Topic, batch_size: int) -> RunConfig:
    return RunConfig(
        topic=topic.name,
        state_dir=folder,
        trainer=config,
        batch_size=batch_size,
        run_id=_run_id(folder.name),
        metrics_topic=f"{topic.name}.metrics",
        runtime_topic=f"{topic.name}.runtime",
        dead_letter_topic=f"{topic.name}.dlq",
        until_end=True,
        predictions_kept=1 << 62,
        threads=torch.get_num_threads(),
    )


def _run_id(name: str) -> str:
    """The key prefix of its metrics: without spaces and brackets."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
