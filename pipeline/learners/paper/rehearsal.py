"""Further training steps of W per mini-batch, on interactions of earlier ones: what a device with time to spare can do."""

from typing import Any

from numpy.typing import NDArray

from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.paper.forward import PaperModel
from autoemb_pipeline.learners.paper.reservoir import Reservoir
from autoemb_pipeline.learners.paper.strategies import Predicted, Strategy
from autoemb_pipeline.learners.paper.validation import trainable
from autoemb_pipeline.records import Labels

PREFIX = "rehearsal/"


class Rehearsal:
    """A `Strategy` that, after another's step on the newest mini-batch, trains on samples of all interactions so far.

    Args:
        model: W and Θ.
        strategy: learns from the newest mini-batch; its `train` from the samples.
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
                self.train(Predicted(inputs=sample[0], forward=self._model.forward(self._model.encode(sample[0]))), sample[1])

    def train(self, predicted: Predicted, labels: Labels) -> None:
        """See `Strategy`."""
        self._strategy.train(predicted, labels)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The strategy's state and the reservoir."""
        return self._strategy.state_dict() | {PREFIX + name: array for name, array in self._reservoir.state_dict().items()}

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        self._strategy.load_state_dict({name: array for name, array in state.items() if not name.startswith(PREFIX)})
        self._reservoir.load_state_dict({name.removeprefix(PREFIX): a for name, a in state.items() if name.startswith(PREFIX)})
