"""The paper's network under any of its methods: predict, remember the graph, learn from it when the labels come.

Shape legend: B interactions, N spaces, C outputs.
"""

import numpy as np
import torch
from torch import Tensor

from autoemb_pipeline.errors import AutoembError
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.losses import prediction_losses, probabilities
from autoemb_pipeline.learners.common.transfer import to_host
from autoemb_pipeline.learners.paper.forward import PaperModel
from autoemb_pipeline.learners.paper.strategies import Predicted, Strategy
from autoemb_pipeline.learners.search.selectors import Weights
from autoemb_pipeline.records import FloatArray, Labels, LearnerInputs, Predictions
from autoemb_pipeline.rows import Lent


class NetworkLearner:
    """`autoemb_pipeline.learners.base.Learner` of the paper's architecture.

    Args:
        model: W and Θ.
        strategy: how they learn.
    """

    def __init__(self, model: PaperModel, strategy: Strategy) -> None:
        self._model = model
        self._strategy = strategy
        self._pending: tuple[Predicted, Predictions] | None = None

    def predict(self, inputs: LearnerInputs) -> Predictions:
        """Predictions with the current parameters; keeps the graph for `update`, changes nothing else.

        Raises:
            AutoembError: the mini-batch is empty, or the parameters diverged.
        """
        if not len(inputs.user_ids):
            raise AutoembError(
                "an empty mini-batch was given to a learner", why="there is nothing to predict", remedy="skip mini-batches without records"
            )
        forward = self._model.forward(self._model.encode(inputs))
        logits, alpha, beta = _on_the_host(forward.logits, forward.weights if self._model.selector.searches else None)
        if not np.isfinite(logits).all():
            raise AutoembError("the predictions are not finite", why="the parameters diverged", remedy="lower the learning rates")
        predictions = Predictions(probabilities=probabilities(logits), user_weights=alpha, item_weights=beta)
        self._pending = (Predicted(inputs=inputs, forward=forward), predictions)
        return predictions

    def update(self, labels: Labels) -> FloatArray:
        """Learns from the mini-batch last predicted.

        Returns:
            [B] losses of its predictions.

        Raises:
            AutoembError: no prediction is waiting for labels, they are of another length.
        """
        if self._pending is None:
            raise AutoembError("update came without predict", why="a learner predicts each mini-batch before it sees its labels")
        predicted, predictions = self._pending
        if len(labels.binary) != len(predicted.inputs.user_ids):
            raise AutoembError(f"{len(labels.binary)} labels came for {len(predicted.inputs.user_ids)} predictions")
        losses = prediction_losses(predictions.probabilities, labels)
        self._strategy.learn(predicted, labels)
        self._pending = None
        return losses

    def forget(self, field: int, lent: Lent) -> None:
        """See `Learner.forget`: rows that are still on their way to the store must not come after."""
        del field, lent
        self._model.recommender.settle()
        self._model.selector.settle()

    def state_dict(self) -> Arrays:
        """Dense parameters, optimiser state and whatever the method keeps between mini-batches; copies."""
        return self._model.recommender.state_dict() | self._model.selector.state_dict() | self._strategy.state_dict()

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` returned; a prediction made before waits no longer.

        Raises:
            CheckpointError: an array is missing or of another shape.
        """
        self._pending = None
        self._model.recommender.load_state_dict(state)
        self._model.selector.load_state_dict(state)
        self._strategy.load_state_dict(state)


def _on_the_host(logits_BC: Tensor, weights: Weights) -> tuple[FloatArray, FloatArray | None, FloatArray | None]:
    """Logits, α and β in one copy: the only one that a step waits for."""
    parts = [logits_BC] if weights is None else [logits_BC, *weights]
    arrived = to_host(torch.cat([part.detach() for part in parts], dim=1)).wait().astype(np.float64)
    logits, *others = np.split(arrived, np.cumsum([part.shape[1] for part in parts])[:-1], axis=1)
    alpha, beta = others or (None, None)
    return logits, alpha, beta
