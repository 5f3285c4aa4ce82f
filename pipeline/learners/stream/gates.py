"""By how much each block of each id is used: the stream learner's place for dimension search and for its baselines.

Shape legend: B new interactions, N spaces and blocks, K controller inputs, Q parameters of a controller; 2 sides, users first.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
from autoemb_pipeline.learners.common.layers import seeded_generator
from autoemb_pipeline.learners.common.packing import restored
from autoemb_pipeline.learners.search.controller import Controller
from autoemb_pipeline.learners.search.encoding import EncodedBatch
from autoemb_pipeline.learners.search.selectors import Selector, Theta
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.open_batch import OpenBatch
from autoemb_pipeline.records import FloatArray

CONTROLLERS = ("user_controller", "item_controller")
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
        self._slots = {"sgd": 0, "adagrad": 1, "adam": 2}[self._optimiser]
        self._moments = [np.zeros((self._slots, len(network)), dtype=self._dtype) for network in self.networks]
        self._steps = 0
        self._taken: list[list[Numbers]] = []
        self.inputs: list[Numbers] = []
        self.weights: Numbers | None = None

    def _initial(self, config: StreamConfig, name: str) -> Numbers:
        made = Controller(
            len(config.dims),
            config.controller_hidden,
            seeded_generator(config.seed, name),
            activation=config.controller_activation,
            start=config.start,
        )
        parameters = np.concatenate([p.detach().numpy().ravel() for p in made.parameters()]).astype(self._dtype)
        if len(parameters) != parameter_count(self.sizes):
            raise AssertionError("the kernels' controllers have another shape than the learners'")
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
            self._step(network, self._moments[field], gradient)

    def _step(self, network: Numbers, moments: Numbers, gradient: Numbers) -> None:
        if self._optimiser == "adam":
            adam(network, moments, gradient, self._steps, self._rate)
        elif self._optimiser == "adagrad":
            adagrad(network, moments[0], gradient, self._rate)
        else:
            network -= self._dtype(self._rate) * gradient

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


class LogitGate:
    """Free logits per id (DARTS), by torch: rows of their own tables, with their own optimiser.

    Args:
        selector: the logits.
        blocks: of the rows.
        dtype: of the arithmetic.
    """

    def __init__(self, selector: Selector, blocks: Blocks, dtype: torch.dtype) -> None:
        self._selector, self._blocks, self._dtype = selector, blocks, dtype
        self._opened: tuple[Theta, tuple[Tensor, Tensor]] | None = None
        self.weights: Numbers | None = None

    def open(self, opened: OpenBatch) -> FloatArray:
        """The uses that the logits' softmax gives."""
        nothing = torch.zeros((0, 0), dtype=self._dtype)
        users, items = (torch.from_numpy(opened.interactions.local[field, opened.carried :].copy()) for field in range(2))
        batch = EncodedBatch(
            user_ids=opened.ids[0][: opened.new[0]],
            item_ids=opened.ids[1][: opened.new[1]],
            user_index=users,
            item_index=items,
            user_inputs=nothing,
            item_inputs=nothing,
            features=nothing,
        )
        theta = self._selector.gather(batch)
        weights = theta.weights(batch)
        if weights is None:
            raise ValueError("a gate needs a selector with weights")
        self._opened = (theta, weights)
        self.weights = np.stack([w.detach().numpy() for w in weights])
        return np.stack([self._blocks.use_of(w.astype(np.float64)) for w in self.weights])

    def learn(self, slopes: Numbers) -> None:
        """One step of every id's logits."""
        if self._opened is None:
            raise RuntimeError("learn() without open()")
        theta, weights = self._opened
        loss = torch.stack([(w * torch.from_numpy(s).to(w.dtype)).sum() for w, s in zip(weights, slopes, strict=True)]).sum()
        self._selector.apply([(theta, torch.autograd.grad(loss, list(theta.leaves)))])
        self._opened = None

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The step counter; the logits are rows."""
        return self._selector.state_dict()

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        self._opened = None
        self._selector.load_state_dict(state)
