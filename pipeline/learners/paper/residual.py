"""Preset `residual`: the paper's network added to the online logistic's logit, so that it has to learn only what that does not know.

Shape legend: B interactions, C outputs.
"""

from dataclasses import replace

import numpy as np

from autoemb_pipeline.errors import AutoembError
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.packing import restored
from autoemb_pipeline.learners.paper.learner import NetworkLearner
from autoemb_pipeline.prequential.references import Logistic
from autoemb_pipeline.records import FloatArray, Labels, LearnerInputs, Predictions, Task
from autoemb_pipeline.rows import Lent

PREFIX = "logistic"
SMALLEST = 1e-12


def logits_of(probabilities: FloatArray) -> FloatArray:
    """[B, C] logits of [B] or [B, C] probabilities, which are held between 1e-12 and 1 − 1e-12: a logit must be finite."""
    p = np.clip(probabilities, SMALLEST, 1.0 - SMALLEST)
    return np.log(p / (1.0 - p))[:, None] if p.ndim == 1 else np.log(p)


class ResidualLearner:
    """`autoemb_pipeline.learners.base.Learner`: a network whose output is added to the logits of a logistic regression of its own.

    The regression is the reference's, in the same regime: same features, same steps. It does not learn from what the network adds.

    Args:
        network: begins with output zero, hence as the regression.
        task: the loss.
    """

    def __init__(self, network: NetworkLearner, task: Task) -> None:
        self._network = network
        self._logistic = Logistic(task)
        self._pending: tuple[LearnerInputs, FloatArray] | None = None

    def predict(self, inputs: LearnerInputs) -> Predictions:
        """As of `NetworkLearner`. inputs: with class estimates in the rating task."""
        known = self._logistic.predict(inputs)
        predictions = self._network.predict(replace(inputs, offset=logits_of(known)))
        self._pending = (inputs, known)
        return predictions

    def update(self, labels: Labels) -> FloatArray:
        """As of `NetworkLearner`; then the regression learns."""
        if self._pending is None:
            raise AutoembError("update came without predict", why="a learner predicts each mini-batch before it sees its labels")
        losses = self._network.update(labels)
        self._logistic.update(*self._pending, labels)
        self._pending = None
        return losses

    def forget(self, field: int, lent: Lent) -> None:
        """As of `NetworkLearner`."""
        self._network.forget(field, lent)

    def state_dict(self) -> Arrays:
        """The network's and the regression's; copies."""
        return {**self._network.state_dict(), **{f"{PREFIX}/{name}": array for name, array in self._logistic.state().items()}}

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` returned; a prediction made before waits no longer.

        Raises:
            CheckpointError: an array is missing or of another shape.
        """
        self._pending = None
        self._logistic.load_state({name: restored(state, f"{PREFIX}/{name}", like) for name, like in self._logistic.state().items()})
        self._network.load_state_dict(state)
