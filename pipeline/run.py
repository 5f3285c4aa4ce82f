"""The main path: build the parts, the loop, shut down.

    source → batcher → trainer (predict, score, learn) → prediction log, emitter → checkpoint

The offline stage may be read more than once: `epochs`. How the parts are built and closed: `wiring`. One step:
`autoemb_pipeline.trainer`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoemb_pipeline.config import Ports, RunConfig
from autoemb_pipeline.failpoints import failpoint
from autoemb_pipeline.wiring import build


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
    unread: tuple[str, ...] = ()


def train(config: RunConfig, ports: Ports) -> RunSummary:
    """Trains until the stream ends (`until_end`) or `ports.stop` says so; takes a last checkpoint.

    Whatever raises ends the run without one: the next call goes on from the newest checkpoint and recomputes to the same bits.

    Raises:
        AutoembError: every error a user can meet; see `autoemb_pipeline.errors`.
    """
    metrics: Mapping[str, Any] = {}
    with build(config, ports) as run:
        run.checkpoints.first()
        for batch in run.batches:
            if batch is not None:
                with run.meter.step(len(batch)):
                    result = run.trainer.step(batch)
                failpoint("step")
                run.predictions.add(batch, result.scores, result.predictions, result.inputs, result.metrics)
                run.emitter.emit(result.metrics, batch)
                metrics = result.metrics
            run.emitter.tick()
            run.checkpoints.tick()
            run.reporter.tick(metrics)
            failpoint("poll")
            if ports.stop():
                break
        run.checkpoints.last()
        run.reporter.report(metrics)
        return RunSummary(
            run_id=run.run_id,
            step=run.epochs.step,
            trained=run.meter.total,
            examples=run.trainer.examples,
            metrics=metrics,
            unread=run.source.unread(),
        )
