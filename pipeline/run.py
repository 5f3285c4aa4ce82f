"""The main path: build the parts, the loop, shut down.

    source → batcher → trainer (predict, score, learn) → prediction log, emitter → checkpoint

once, or in as many passes as the offline stage is to be read: `pipeline.epochs`.

The parts and how they are wired: `pipeline.assembly.parts`. One step: `pipeline.trainer`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.assembly.config import Ports, RunConfig
from pipeline.assembly.parts import assemble
from pipeline.batching import batches
from pipeline.failpoints import failpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """What a call of `train` did.

    Attributes:
        run_id: the run's.
        step: its last step.
        trained: interactions trained by this call, recomputed ones included.
        examples: interactions of the run so far.
        metrics: fields of the last step's metrics record; empty when this call made no step.
        unread: what the topic holds that could not be read, and why: sentences for people.
    """

    run_id: str
    step: int
    trained: int
    examples: int
    metrics: Mapping[str, Any]
    unread: Sequence[str] = ()


def train(config: RunConfig, ports: Ports) -> RunSummary:
    """Trains until the stream ends (`until_end`) or `ports.stop` says so; takes a last checkpoint.

    Whatever raises ends the run without one: the next call goes on from the newest checkpoint and recomputes to the same bits.

    Raises:
        AutoembError: every error a user can meet; see `pipeline.errors`.
    """
    with assemble(config, ports) as parts:
        parts.keeper.first()
        for source, batcher in parts.passes:
            for batch in batches(source, batcher, stop=parts.housekeeping.stopping):
                with parts.meter.step(len(batch.records)):
                    result = parts.trainer.step(batch)
                failpoint("step")
                parts.predictions.add(batch, result.scores, result.predictions, result.inputs)
                parts.emitter.emit(result.metrics, batch)
                parts.housekeeping.metrics = result.metrics
                parts.keeper.after_step()
        parts.keeper.last()
        parts.housekeeping.report()
        return RunSummary(
            run_id=parts.run_id,
            step=parts.epochs.step,
            trained=parts.meter.total,
            examples=parts.trainer.examples,
            metrics=parts.housekeeping.metrics,
            unread=parts.housekeeping.unread(),
        )
