"""What a step sends out: its dead letters, then its metrics; nothing that an earlier life of the run has sent already."""

from collections.abc import Mapping
from typing import Any

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.errors import OffsetError
from autoemb_pipeline.failpoints import failpoint
from autoemb_pipeline.sink.dead_letters import DeadLetterSink
from autoemb_pipeline.sink.metrics import MetricsSink
from autoemb_pipeline.sink.producer import RecordProducer


class Emitter:
    """Metrics and dead letters of one run, each once.

    Args:
        producer: both sinks'.
        metrics, dead_letters: where to.
        run_id: the run's.
        last_step: M, the last step the metrics topic holds of this run; up to it the recomputation is silent.
        recorded_examples: step -> interactions of the run up to it, as the metrics topic holds them.
        known_letters: ids of dead letters that the topic holds since the checkpoint.
    """

    def __init__(
        self,
        producer: RecordProducer,
        metrics: MetricsSink,
        dead_letters: DeadLetterSink,
        *,
        run_id: str,
        last_step: int,
        recorded_examples: Mapping[int, int] | None = None,
        known_letters: frozenset[str] = frozenset(),
    ) -> None:
        self._producer = producer
        self._metrics = metrics
        self._dead_letters = dead_letters
        self._run_id = run_id
        self._last_step = last_step
        self._recorded_examples = recorded_examples or {}
        self._known_letters = known_letters

    def emit(self, metrics: Mapping[str, Any], batch: MiniBatch) -> None:
        """Sends a step's records; raises as `RecordProducer.send`, and OffsetError for a step made again of other interactions."""
        self._compare(batch.step, int(metrics["examples"]))
        for letter in batch.dead_letters:
            if letter.id not in self._known_letters:
                self._dead_letters.emit(letter)
        if batch.step > self._last_step:
            self._metrics.emit({"run_id": self._run_id, **metrics})
            failpoint("emit")

    def _compare(self, step: int, examples: int) -> None:
        recorded = self._recorded_examples.get(step, examples)
        if examples != recorded:
            raise OffsetError(
                f"Step {step} ends at {examples} interactions of the run, and ended at {recorded} when it was made first",
                why="between the same offsets the topic holds other records than then: some were deleted (retention, or compaction)",
                remedy="restore the topic, or start a new run: autoemb-pipeline train --new-run",
            )

    def caught_up(self, step: int) -> bool:
        """Whether everything the topics hold of this run lies at or before `step`."""
        return step >= self._last_step

    def tick(self) -> None:
        """About once a second, also while idle: acknowledgements, and transactions that are due."""
        self._producer.tick()

    def flush(self) -> None:
        """Returns when all that was sent is acknowledged."""
        self._producer.flush()
