"""When a checkpoint is taken, and in which order its parts are committed (docs/architecture.md, invariant 8)."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from autoemb_pipeline.checkpoint.identity import RunIdentity, environment, write_identity
from autoemb_pipeline.checkpoint.outputs import Emission, OutputTopics
from autoemb_pipeline.checkpoint.position import position_tensors, position_to_json
from autoemb_pipeline.checkpoint.resume import Resumed
from autoemb_pipeline.checkpoint.writer import CheckpointWriter
from autoemb_pipeline.epochs import Epochs
from autoemb_pipeline.failpoints import failpoint
from autoemb_pipeline.learners.config import LearnerConfig
from autoemb_pipeline.records import RunPosition
from autoemb_pipeline.sink.emitter import Emitter
from autoemb_pipeline.sink.prediction_log import PredictionLog
from autoemb_pipeline.source.kafka import KafkaSource
from autoemb_pipeline.state.rocks import RocksRowStore
from autoemb_pipeline.trainer import Trainer

_log = structlog.get_logger()


class CheckpointManager:
    """Takes checkpoints of a run.

    Args:
        every, seconds: steps, and time, after which one is due; whichever comes first.
        state_dir: the run's.
        resumed: where the run went on.
        learner: for the manifest's environment.
        others: the parts a checkpoint is made of.
    """

    def __init__(
        self,
        *,
        every: int,
        seconds: float,
        state_dir: Path,
        resumed: Resumed,
        learner: LearnerConfig,
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
        self._seconds = seconds
        self._state_dir = state_dir
        self._identity: RunIdentity = resumed.identity
        self._outputs_at = resumed.outputs_at
        self._environment = environment(learner)
        self._writer = writer
        self._trainer = trainer
        self._rows = rows
        self._epochs = epochs
        self._source = source
        self._emitter = emitter
        self._predictions = predictions
        self._outputs = outputs
        self._taken = resumed.step
        self._exists = resumed.checkpoint is not None
        self._begun: tuple[int, Mapping[int, int]] | None = None
        self._begun_at = self._finished_at = time.monotonic()

    def first(self) -> None:
        """The checkpoint of step 0, unless the run has one already: returns when it is complete, and noted in the run's identity.

        It says where the stream began. Without it a run killed early would begin again at whatever the topic then holds, and read past
        what was deleted meanwhile.
        """
        if not self._exists:
            self._epochs.start_from(self._source.start_offsets)
            self._complete()
            self._exists = True
        if not self._identity.begun:
            self._identity = replace(self._identity, begun=True)
            write_identity(self._state_dir, self._identity)

    def tick(self) -> None:
        """Between steps, also while the stream is silent: finishes a checkpoint whose writing has ended, else begins one that is due.

        Raises CheckpointError if it could not be written.
        """
        if self._begun is not None:
            if self._writer.poll() is not None:
                self._finish()
            return
        steps = self._epochs.step - self._taken
        if steps >= self._every or (steps > 0 and time.monotonic() - self._begun_at >= self._seconds):
            self._begin()

    def last(self) -> None:
        """The checkpoint at a clean stop: returns when it is complete, and it is noted that nothing was sent out beyond it."""
        if self._begun is not None:
            self._writer.wait()
            self._finish()
        if self._epochs.step > self._taken:
            self._complete()
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

    def _complete(self) -> None:
        self._begin()
        self._writer.wait()
        self._finish()

    def _begin(self) -> None:
        """Step 1: every metric and dead letter up to here is acknowledged. Then one moment is captured and written beside training."""
        step, position = self._epochs.step, self._epochs.position()
        self._emitter.flush()
        if self._emitter.caught_up(step):
            self._outputs_at = self._outputs.wait_for_ends()
        self._source.verify()
        segment = self._predictions.take_segment(step)
        tensors = {**self._trainer.tensors(), **position_tensors(position)}
        self._writer.begin(step, self._payload(position), tensors, self._rows, before=segment)
        self._begun, self._begun_at = (step, dict(position.next_offsets)), time.monotonic()
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

    def _payload(self, position: RunPosition) -> dict[str, Any]:
        return {
            "run_id": self._identity.run_id,
            "topic_id": self._identity.topic_id,
            "configuration": dict(self._identity.configuration),
            "environment": self._environment,
            "position": position_to_json(position),
            "outputs_at": list(self._outputs_at),
            "trainer": self._trainer.payload(),
        }
