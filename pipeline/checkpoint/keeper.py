"""When a checkpoint is taken, and in which order its parts are committed (design, invariant 8)."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from pipeline.checkpoint.identity import RunIdentity, environment
from pipeline.checkpoint.outputs import Emission, OutputTopics
from pipeline.checkpoint.position import position_to_json
from pipeline.checkpoint.resume import Resumed
from pipeline.checkpoint.writer import CheckpointWriter
from pipeline.epochs import Epochs
from pipeline.failpoints import failpoint
from pipeline.sink.emitter import Emitter
from pipeline.sink.prediction_log import PredictionLog
from pipeline.source.kafka import KafkaSource
from pipeline.state.rocks import RocksRowStore
from pipeline.trainer import Trainer

_log = structlog.get_logger()


class CheckpointKeeper:
    """Takes checkpoints of a run.

    Args:
        every: steps between two checkpoints.
        state_dir: the run's.
        resumed: where the run went on.
        device: for the manifest.
        others: the parts a checkpoint is made of.
    """

    def __init__(
        self,
        *,
        every: int,
        state_dir: Path,
        resumed: Resumed,
        device: str,
        writer: CheckpointWriter,
        trainer: Trainer,
        rows: RocksRowStore,
        epochs: Epochs,
        source: KafkaSource,
        emitter: Emitter,
        predictions: PredictionLog,
        outputs: OutputTopics,
    ) -> None:
        self._every = every
        self._state_dir = state_dir
        self._identity: RunIdentity = resumed.identity
        self._outputs_at = resumed.outputs_at
        self._environment = environment(device)
        self._writer = writer
        self._trainer = trainer
        self._rows = rows
        self._epochs = epochs
        self._source = source
        self._emitter = emitter
        self._predictions = predictions
        self._outputs = outputs
        self._taken = resumed.step
        self._begun: tuple[int, Mapping[int, int]] | None = None
        self._finished_at = time.monotonic()

    def after_step(self) -> None:
        """Begins a checkpoint when one is due and none is under way."""
        if self._epochs.step - self._taken >= self._every and self._begun is None:
            self._begin()

    def tick(self) -> None:
        """Finishes a checkpoint whose writing has ended; raises CheckpointError if it failed."""
        if self._begun is not None and self._writer.poll() is not None:
            self._finish()

    def last(self) -> None:
        """The checkpoint at a clean stop: returns when it is complete, and it is noted that nothing was sent out beyond it."""
        if self._begun is not None:
            self._writer.wait()
            self._finish()
        if self._epochs.step > self._taken:
            self._begin()
            self._writer.wait()
            self._finish()
        if self._emitter.caught_up(self._taken):
            Emission(run_id=self._identity.run_id, step=self._taken, since=None).write(self._state_dir)

    @property
    def taken(self) -> int:
        """The newest checkpoint's step, also while it is being written."""
        return self._taken

    @property
    def age_seconds(self) -> float:
        """Seconds since a checkpoint was completed, or since the start."""
        return time.monotonic() - self._finished_at

    @property
    def fresh_bytes(self) -> int | None:
        """What the last one wrote, links not counted; None before the first."""
        return None if self._writer.last is None else self._writer.last.fresh_bytes

    def _begin(self) -> None:
        """Step 1: every metric and dead letter up to here is acknowledged. Then one moment is captured and written beside training."""
        step = self._epochs.step
        self._emitter.flush()
        if self._emitter.caught_up(step):
            self._outputs_at = self._outputs.wait_for_ends()
        self._predictions.close_segment(step)
        self._epochs.start_from(self._source.add_partitions())
        self._writer.begin(step, self._payload(), self._trainer.tensors(), {}, self._rows)
        self._begun = (step, dict(self._epochs.position().next_offsets))
        self._taken = step

    def _finish(self) -> None:
        """Step 2 is done: the checkpoint is synced and renamed. Step 3: the broker's offsets, for lag dashboards only."""
        if self._begun is None:
            return
        step, offsets = self._begun
        failpoint("commit")
        self._source.commit(offsets)
        self._begun = None
        self._finished_at = time.monotonic()
        last = self._writer.last
        _log.info(
            "checkpoint",
            step=step,
            megabytes=None if last is None else round(last.fresh_bytes / 1e6, 1),
            stood_still=None if last is None else round(last.capture_seconds, 3),
            seconds=None if last is None else round(last.persist_seconds, 2),
        )

    def _payload(self) -> dict[str, Any]:
        return {
            "run_id": self._identity.run_id,
            "topic_id": self._identity.topic_id,
            "configuration": dict(self._identity.configuration),
            "environment": self._environment,
            "position": position_to_json(self._epochs.position()),
            "outputs_at": list(self._outputs_at),
            "trainer": self._trainer.payload(),
        }
