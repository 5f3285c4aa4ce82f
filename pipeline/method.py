"""A method as trainer, `predict` and Figure 1 drive it: a learner of either kind with its context over one row store."""

from collections.abc import Mapping
from dataclasses import replace
from threading import Thread

import numpy as np
import structlog
from numpy.typing import NDArray

from autoemb_pipeline.context.tracker import ContextConfig, ContextTracker, context_tables
from autoemb_pipeline.kernels import compile_all, is_compiled
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.config import LearnerConfig
from autoemb_pipeline.learners.factory import learner_tables, make_learner
from autoemb_pipeline.learners.stream.learner import StreamLearner
from autoemb_pipeline.open_batch import OpenBatch, Records
from autoemb_pipeline.records import FloatArray, Labels, LearnerInputs, Predictions
from autoemb_pipeline.rows import AnySpec, RowStore, joined

Mask = NDArray[np.bool_]
_log = structlog.get_logger()


def method_tables(context: ContextConfig, learner: LearnerConfig) -> tuple[AnySpec, ...]:
    """Every table a `Method` keeps in its store."""
    return joined((*context_tables(context), *learner_tables(learner)))


def compile_kernels() -> None:
    """Compiles the kernels if nobody has on this machine, about a minute once per version, and says so; `make setup` does it beforehand."""
    if is_compiled():
        return

    def show(done: int, total: int, name: str) -> None:
        _log.info("compiling the kernels, once on this machine", done=done, of=total, now=name or "ready")

    compile_all(show)


def load_kernels_beside() -> None:
    """Loads the compiled kernels in a thread, in the time that a broker takes to answer; nothing where they must be compiled first."""
    if is_compiled():
        Thread(target=compile_all, args=(lambda *_: None,), name="load kernels").start()


class Method:
    """For every mini-batch `predict`, then, when the predictions are scored, `learn`.

    Args:
        context: how label statistics are kept.
        learner: which learner.
        store: holds `method_tables`.
    """

    def __init__(self, context: ContextConfig, learner: LearnerConfig, store: RowStore) -> None:
        compile_kernels()
        self.context = ContextTracker(context, store, [table.name for table in method_tables(context, learner)])
        self._learner = make_learner(learner, store)

    def predict(self, records: Records, labels: Labels, held_out: Mask | None = None) -> tuple[LearnerInputs, Predictions]:
        """What was known of the interactions, and their predictions. No prediction knows a label that the context mode forbids.

        Args:
            records: B interactions in merged order.
            labels: their targets. A learner that learns event by event takes each after the predictions that may not know it; the others
                see none of them before `learn`.
            held_out: [B] True where the label must enter no statistic.
        """
        learner = self._learner
        if isinstance(learner, StreamLearner):
            return learner.run(self._opened(learner, records, labels, held_out))
        inputs = self.context.observe(records, labels, held_out)
        return inputs, learner.predict(inputs)

    def _opened(self, learner: StreamLearner, records: Records, labels: Labels, held_out: Mask | None) -> OpenBatch:
        opened = self.context.open(records, labels, held_out)
        return self.context.extend(opened, learner.prepare(opened))

    def report(self) -> Mapping[str, object]:
        """Fields of the metrics topic that only the learner and the context know."""
        own = self._learner.report() if isinstance(self._learner, StreamLearner) else {}
        return {**own, **self.context.report()}

    def learn(self, labels: Labels, losses: FloatArray, predictions: Predictions, held_out: Mask | None = None) -> None:
        """Learns what is learnt once per mini-batch; keeps what the controllers see next time. losses: [B] of the predictions."""
        learner = self._learner
        if isinstance(learner, StreamLearner):
            learner.update()
        else:
            learner.update(labels)
        self.context.record(losses, predictions.user_weights, predictions.item_weights, held_out)
        if isinstance(learner, StreamLearner):
            learner.end()
        self.context.expire(learner.forget)

    def foresee(self, records: Records) -> tuple[LearnerInputs, Predictions]:
        """As `predict`, of interactions that are not to be learnt: no label of theirs enters anything."""
        count = len(records)
        nothing, held_out = Labels(binary=np.zeros(count), classes=np.zeros(count, dtype=np.int64)), np.ones(count, dtype=np.bool_)
        learner = self._learner
        if isinstance(learner, StreamLearner):
            return learner.run(self._opened(learner, records, nothing, held_out))
        inputs = replace(self.context.observe(records, nothing, held_out), held_out=None)
        return inputs, learner.predict(inputs)

    def learn_again(self, records: Records, labels: Labels) -> None:
        """Trains on interactions that were learnt before. Only a learner without context features can."""
        learner = self._learner
        if isinstance(learner, StreamLearner):
            raise TypeError("a learner that takes context features cannot read interactions again")
        learner.predict(self.context.peek(records))
        learner.update(labels)

    def tensors(self) -> Arrays:
        """The learner's."""
        return self._learner.state_dict()

    def restore(self, tensors: Arrays, context: Mapping[str, object]) -> None:
        """Restores what `tensors` and the context's `state` returned."""
        self._learner.load_state_dict(tensors)
        self.context.load_state(context)
