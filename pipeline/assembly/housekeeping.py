"""What must happen beside the steps, also while the stream is silent: acknowledgements, ends of checkpoints, the runtime record."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.checkpoint.keeper import CheckpointKeeper
from pipeline.epochs import Epochs
from pipeline.failpoints import failpoint
from pipeline.meter import Meter
from pipeline.sink.emitter import Emitter
from pipeline.sink.runtime import RuntimeSink
from pipeline.source.kafka import KafkaSource

RUNTIME_SECONDS = 2.0
_NOTABLE_SECONDS = 1.0  # a shorter wait is a fetch under way
_NAMED = 2  # partitions; all of them would fill the screen

Observer = Callable[[Mapping[str, Any], Mapping[str, Any]], None]


class Housekeeping:
    """Called between polls of the source.

    Args:
        run_id: the run's.
        observers: called every two seconds, and at the end, with the last step's metrics and the runtime record.
        stop: asked after each round.
        others: the parts looked after.
    """

    def __init__(
        self,
        *,
        run_id: str,
        meter: Meter,
        runtime: RuntimeSink,
        keeper: CheckpointKeeper,
        emitter: Emitter,
        source: KafkaSource,
        epochs: Epochs,
        stop: Callable[[], bool],
        observers: tuple[Observer, ...],
    ) -> None:
        self._run_id = run_id
        self._meter = meter
        self._runtime = runtime
        self._keeper = keeper
        self._emitter = emitter
        self._source = source
        self._epochs = epochs
        self._stop = stop
        self._observers = observers
        self.metrics: Mapping[str, Any] = {}

    def stopping(self) -> bool:
        """One round, cheap when nothing is due; then whether to stop."""
        failpoint("poll")
        self._emitter.tick()
        self._keeper.tick()
        if self._meter.age >= RUNTIME_SECONDS:
            self.report()
        return self._stop()

    def report(self) -> None:
        """Emits a runtime record now and tells the observers."""
        record = {
            "run_id": self._run_id,
            "step": self._epochs.step,
            "wall_time": time.time_ns() // 1_000_000,
            "lag": self._source.lag(),
            "checkpoint_age_seconds": self._keeper.age_seconds,
            "checkpoint_bytes": self._keeper.fresh_bytes,
            "buffer_size": {"source": self._source.buffered},
            "held_back_by": held_back_text(self._source.held_back_by),
            **self._meter.snapshot(),
        }
        self._runtime.emit(record)
        for observe in self._observers:
            observe(self.metrics, record)


def held_back_text(partitions: Mapping[int, float]) -> str | None:
    """Partition -> seconds that others wait for it, for people, the longest first: ``partition 3 for 4 s``; None below a second."""
    notable = sorted((-seconds, p) for p, seconds in partitions.items() if seconds >= _NOTABLE_SECONDS)
    names = [f"partition {p} for {-seconds:.0f} s" for seconds, p in notable[:_NAMED]]
    more = [f"{len(notable) - _NAMED} more"] if len(notable) > _NAMED else []
    return ", ".join(names + more) or None
