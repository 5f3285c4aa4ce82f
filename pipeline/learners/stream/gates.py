"""By how much each block of each id is used, where that is not searched: fixed size, equal weights, counts, free logits.

Shape legend: B new interactions, N spaces and blocks, Q parameters; 2 sides, users first.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels import adagrad, adam
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.choices import OptimiserName
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.open_batch import OpenBatch
from autoemb_pipeline.records import FloatArray

SLOTS: Mapping[OptimiserName, int] = {"sgd": 0, "adagrad": 1, "adam": 2}
"""State numbers per parameter."""
Numbers = NDArray[Any]


class Gate(Protocol):
    """Opened for a mini-batch before its labels are known; may learn from its loss afterwards."""

    @property
    def weights(self) -> Numbers | None:
        """[2, B, N] α and β of the mini-batch opened; None where no weights are learnt."""
        ...

    def open(self, opened: OpenBatch) -> FloatArray:
        """[2, B, N] uses A and B of the blocks."""
        ...

    def learn(self, slopes: Numbers) -> None:
        """One step from ∂L/∂α and ∂L/∂β, [2, B, N], of the mini-batch opened."""
        ...

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Parameters and optimiser state."""
        ...

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        ...


def descend(optimiser: OptimiserName, rate: float, step: int, parameters: Numbers, moments: Numbers, gradient: Numbers) -> None:
    """One step of Q parameters, in place. step: 1 for the first; moments: [SLOTS, Q]."""
    if optimiser == "adam":
        adam(parameters, moments, gradient, step, rate)
    elif optimiser == "adagrad":
        adagrad(parameters, moments[0], gradient, rate)
    else:
        parameters -= parameters.dtype.type(rate) * gradient


class FixedGate:
    """Uses that follow from the counts alone: nothing is searched.

    Args:
        uses: from [2, B] counts to [2, B, N], see `same_use` and `threshold_use`.
    """

    weights: Numbers | None = None

    def __init__(self, uses: Callable[[FloatArray], FloatArray]) -> None:
        self._uses_of = uses

    def open(self, opened: OpenBatch) -> FloatArray:
        """The uses."""
        return self._uses_of(opened.counts)

    def learn(self, slopes: Numbers) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Arrays) -> None:
        """Nothing to restore."""


def same_use(use: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """The same uses for every id of both sides: ones for FSE, zeros for context features and biases alone. use: [N]."""
    return lambda counts: np.broadcast_to(use, (*counts.shape, len(use)))


def threshold_use(thresholds: Sequence[int], blocks: Blocks) -> Callable[[FloatArray], FloatArray]:
    """An id's space follows from its count alone: one more per threshold reached. thresholds: N - 1 increasing counts."""
    spaces = np.array([blocks.use_of(row[None, :])[0] for row in np.eye(len(blocks.dims))])
    return lambda counts: spaces[np.searchsorted(thresholds, counts, side="right")]
