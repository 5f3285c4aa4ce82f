"""Where the interactions of the validation loss come from. The paper samples earlier ones; DARTS splits; a stream has the next batch."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.paper.reservoir import Reservoir
from autoemb_pipeline.learners.search.encoding import take
from autoemb_pipeline.records import Labels, LearnerInputs

Sample = tuple[LearnerInputs, Labels] | None


def trainable(inputs: LearnerInputs) -> NDArray[np.int64]:
    """Positions whose labels W may learn from: all that is not held out."""
    return np.arange(len(inputs.user_ids)) if inputs.held_out is None else np.flatnonzero(~inputs.held_out)


class AfterTraining(Protocol):
    """A source that is asked once W was trained on the newest mini-batch, as in Algorithm 1, lines 8, 2 and 3."""

    def next(self, inputs: LearnerInputs, labels: Labels) -> Sample:
        """Interactions to validate on after this mini-batch; None for no step of Θ."""
        ...

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """What the source keeps."""
        ...

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        ...


class Replay:
    """A uniform sample of all interactions so far (the paper's).

    Args:
        reservoir: of them.
        size: interactions per validation batch.
    """

    def __init__(self, reservoir: Reservoir, size: int) -> None:
        self._reservoir = reservoir
        self._size = size

    def next(self, inputs: LearnerInputs, labels: Labels) -> Sample:
        """Adds the newest mini-batch, unless its interactions were offered in an earlier epoch, then draws."""
        if not inputs.reread:
            self._reservoir.add(inputs, labels, trainable(inputs))
        return self._reservoir.sample(self._size)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The reservoir."""
        return self._reservoir.state_dict()

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        self._reservoir.load_state_dict(state)


class Holdout:
    """The newest mini-batch's held-out interactions: their labels enter neither W nor any statistic, only Θ."""

    def next(self, inputs: LearnerInputs, labels: Labels) -> Sample:
        """The held-out interactions.

        Raises:
            ConfigurationError: nothing says which are held out.
        """
        if inputs.held_out is None:
            raise ConfigurationError(
                "validation source holdout got a mini-batch without held_out",
                why="the context must leave these labels out of its statistics",
                remedy="draw them with PaperConfig.held_out and give them to the context",
            )
        rows = np.flatnonzero(inputs.held_out)
        if not len(rows):
            return None
        return take(inputs, rows), Labels(binary=labels.binary[rows], classes=labels.classes[rows])

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Arrays) -> None:
        """Nothing to restore."""
