"""The runtime record: what a run tells of itself every two seconds, also while the stream is silent."""

import time
from collections.abc import Mapping
from typing import Any

from autoemb_pipeline.checkpoint.manager import CheckpointManager
from autoemb_pipeline.config import Observer
from autoemb_pipeline.epochs import Epochs
from autoemb_pipeline.meter import Meter
from autoemb_pipeline.notices import Notices
from autoemb_pipeline.sink.runtime import RuntimeSink
from autoemb_pipeline.source.kafka import KafkaSource

RUNTIME_SECONDS = 2.0
_NOTABLE_SECONDS = 1.0  # a shorter wait is a fetch under way
_NAMED = 2  # partitions; all of them would fill the screen


class RuntimeReporter:
    """Emits runtime records, and tells the observers and the log.

    Args:
        run_id: of the run.
        meter: rates, latencies and memory.
        runtime: where the records go.
        checkpoints, source, epochs: what the records are about.
        observers: called with the last step's metrics and the runtime record.
    """

    def __init__(
        self,
        *,
        run_id: str,
        meter: Meter,
        runtime: RuntimeSink,
        checkpoints: CheckpointManager,
        source: KafkaSource,
        epochs: Epochs,
        observers: tuple[Observer, ...],
    ) -> None:
        self._run_id = run_id
        self._meter = meter
        self._runtime = runtime
        self._checkpoints = checkpoints
        self._source = source
        self._epochs = epochs
        self._observers = observers
        self._notices = Notices()

    def tick(self, metrics: Mapping[str, Any]) -> None:
        """Reports where two seconds have gone since the last time. metrics: fields of the last step's record; empty before the first."""
        if self._meter.age >= RUNTIME_SECONDS:
            self.report(metrics)

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Emits a runtime record now and tells the observers."""
        waiting = self._epochs.waiting
        record = {
            "run_id": self._run_id,
            "step": self._epochs.step,
            "wall_time": time.time_ns() // 1_000_000,
            "lag": self._source.lag() + waiting.records,
            "waiting_interactions": waiting.interactions,
            "waiting_dead_letters": waiting.dead_letters,
            "batch_closes_in_seconds": waiting.closes_in,
            "checkpoint_age_seconds": self._checkpoints.age_seconds,
            "checkpoint_bytes": self._checkpoints.fresh_bytes,
            "buffer_size": {"source": self._source.buffered},
            "held_back_by": held_back_text(self._source.held_back_by),
            **self._meter.snapshot(),
        }
        self._runtime.emit(record)
        self._notices.look(metrics, record)
        for observe in self._observers:
            observe(metrics, record)


def held_back_text(partitions: Mapping[int, float]) -> str | None:
    """Partition -> seconds that others wait for it, for people, the longest first: ``partition 3 for 4 s``; None below a second."""
    notable = sorted((-seconds, p) for p, seconds in partitions.items() if seconds >= _NOTABLE_SECONDS)
    names = [f"partition {p} for {-seconds:.0f} s" for seconds, p in notable[:_NAMED]]
    more = [f"{len(notable) - _NAMED} more"] if len(notable) > _NAMED else []
    return ", ".join(names + more) or None
