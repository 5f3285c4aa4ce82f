"""Further training steps of the dense layers per mini-batch, on interactions of earlier ones: what a device with time to spare can do."""

from typing import Any

from numpy.typing import NDArray

from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.paper.forward import PaperModel, gradients
from autoemb_pipeline.learners.paper.reservoir import Reservoir
from autoemb_pipeline.learners.paper.strategies import Predicted, Strategy
from autoemb_pipeline.learners.paper.validation import trainable
from autoemb_pipeline.records import Labels

PREFIX = "rehearsal/"


class Rehearsal:
    """A `Strategy` that, after another's step on the newest mini-batch, trains the dense layers on samples of all interactions so far.

    Rows learn from every interaction once: those that learn from it again know it by heart (docs/research/residual.md). Θ does not
    learn from samples either; through them ξ does not look.

    Args:
        model: W and Θ.
        strategy: learns from the newest mini-batch.
        reservoir: of earlier interactions, of this strategy's own.
        size: interactions per sample.
        steps: samples per mini-batch.
    """

    def __init__(self, model: PaperModel, strategy: Strategy, reservoir: Reservoir, *, size: int, steps: int) -> None:
        self._model = model
        self._strategy = strategy
        self._reservoir = reservoir
        self._size = size
        self._steps = steps

    def learn(self, predicted: Predicted, labels: Labels) -> None:
        """The strategy's step, then the others."""
        self._strategy.learn(predicted, labels)
        self._reservoir.add(predicted.inputs, labels, trainable(predicted.inputs))
        for _ in range(self._steps):
            sample = self._reservoir.sample(self._size)
            if sample is not None:
                forward = self._model.forward(self._model.encode(sample[0]))
                loss = self._model.loss(forward.logits, self._model.targets(sample[1]))
                self._model.recommender.dense.apply(gradients(loss, list(forward.point.dense.values())))

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The strategy's state and the reservoir."""
        return self._strategy.state_dict() | {PREFIX + name: array for name, array in self._reservoir.state_dict().items()}

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        self._strategy.load_state_dict({name: array for name, array in state.items() if not name.startswith(PREFIX)})
        self._reservoir.load_state_dict({name.removeprefix(PREFIX): a for name, a in state.items() if name.startswith(PREFIX)})
