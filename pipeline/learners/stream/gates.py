"""By how much each block of each id is used: the stream learner's place for dimension search and for its baselines.

Shape legend: B new interactions, N spaces and blocks, K controller inputs, Q parameters of a controller; 2 sides, users first.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels import (
    FIXED_INPUTS,
    adagrad,
    adam,
    backward,
    controller_inputs,
    forward,
    layers,
    parameter_count,
    uses_of,
    weights_at,
)
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.choices import OptimiserName
from autoemb_pipeline.learners.common.initial import mlp_weights, seeded_generator
from autoemb_pipeline.learners.common.packing import restored
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.open_batch import OpenBatch
from autoemb_pipeline.records import FloatArray

CONTROLLERS = ("user_controller", "item_controller")
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


class ControllerGate:
    """Soft selection by two controllers (AutoEmb, SAM) in the compiled kernels.

    They learn from ∂L/∂α of the loss of predictions made before the rows learnt their labels: each interaction is the validation of the
    rows trained on all earlier ones (first order). In first order SAM's gradient is the same.

    Args:
        config: widths, optimiser, rate, seed and precision.
    """

    def __init__(self, config: StreamConfig) -> None:
        spaces = len(config.dims)
        self._dtype = np.float32 if config.precision == "float32" else np.float64
        self._nested, self._activation = config.nested, config.controller_activation
        self._optimiser, self._rate = config.controller_optimiser, config.controller_rate
        self.sizes = (FIXED_INPUTS + spaces, *config.controller_hidden, spaces)
        self.networks = [self._initial(config, name) for name in CONTROLLERS]
        self._slots = SLOTS[self._optimiser]
        self._moments = [np.zeros((self._slots, len(network)), dtype=self._dtype) for network in self.networks]
        self._steps = 0
        self._taken: list[list[Numbers]] = []
        self.inputs: list[Numbers] = []
        self.weights: Numbers | None = None

    def _initial(self, config: StreamConfig, name: str) -> Numbers:
        parameters = np.zeros(parameter_count(self.sizes), dtype=self._dtype)
        own = layers(parameters, self.sizes)
        for (weight, _), initial in zip(own, mlp_weights(self.sizes, seeded_generator(config.seed, name)), strict=True):
            weight[...] = initial
        own[-1][1][-1] = config.start
        return parameters

    def open(self, opened: OpenBatch) -> FloatArray:
        """The uses that the controllers' weights give."""
        count = len(opened.inputs.user_ids)
        self.weights = np.empty((2, count, self.sizes[-1]), dtype=self._dtype)
        uses = np.empty((2, count, self.sizes[-1]))
        self._taken, self.inputs = [], []
        for field, network in enumerate(self.networks):
            inputs = np.zeros((count, self.sizes[0]), dtype=self._dtype)
            local = np.ascontiguousarray(opened.interactions.local[field, opened.carried :])
            slots, context = opened.lent[field].slots, opened.contexts[field]
            controller_inputs(local, slots, context, opened.totals, weights_at(field), np.zeros(count), inputs)
            self.weights[field], taken = forward(network, self.sizes, inputs, self._activation)
            uses_of(self.weights[field], self._nested, uses[field])
            self._taken.append(taken)
            self.inputs.append(inputs)
        return uses

    def learn(self, slopes: Numbers, again: Sequence[tuple[Numbers, Numbers]] = ()) -> None:
        """One step of both. again: per side (inputs [M, K], ∂L/∂α there [M, N]) of a further loss (`trace`)."""
        if self.weights is None:
            raise RuntimeError("learn() without open()")
        self._steps += 1
        for field, network in enumerate(self.networks):
            gradient = backward(network, self.sizes, self._taken[field], self.weights[field], slopes[field], self._activation)
            if again:
                inputs, further = again[field]
                weights, taken = forward(network, self.sizes, inputs.astype(self._dtype), self._activation)
                gradient += backward(network, self.sizes, taken, weights, further.astype(self._dtype), self._activation)
            descend(self._optimiser, self._rate, self._steps, network, self._moments[field], gradient)

    def _named(self) -> dict[str, Numbers]:
        """Each layer's parameters and optimiser state, views, by their names in a checkpoint."""
        known: dict[str, Numbers] = {}
        for name, network, moments in zip(CONTROLLERS, self.networks, self._moments, strict=True):
            for kind, vector in (("value", network), *((f"state{slot}", moments[slot]) for slot in range(self._slots))):
                for number, (weight, bias) in enumerate(layers(vector, self.sizes)):
                    known[f"controllers/{kind}/{name}.{number}.weight"] = weight
                    known[f"controllers/{kind}/{name}.{number}.bias"] = bias
        return known

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of the parameters, layer by layer, with the optimiser's state."""
        arrays = {name: array.copy() for name, array in self._named().items()}
        return {"controllers/steps": np.array(self._steps, dtype=np.int64), **arrays}

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave. CheckpointError: an array is missing, or of another shape or type."""
        self._steps = int(restored(state, "controllers/steps", np.zeros((), dtype=np.int64)))
        for name, array in self._named().items():
            array[...] = restored(state, name, array)
        self.weights = None
