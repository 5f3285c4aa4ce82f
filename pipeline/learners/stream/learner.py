"""The stream learner: context features, and embeddings whose rows learn inside the mini-batch.

logit = x0 + w·z(x) + b_u + b_i + Σ_j γ_j A_j(u) B_j(i) ⟨p_j, q_j⟩

z holds the context features and their products; A and B come from the controllers (`learners.stream.gates`); γ is one gain per
block, learnt with w. Two speeds: context and rows learn event by event in compiled code (`autoemb_pipeline.kernels`), w and γ by one Newton
step and the controllers by one Adam step per mini-batch.

Shape legend: E interactions, those that waited and B new ones; N blocks; M dense inputs and products; C outputs; 2 sides, users first.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.errors import AutoembError
from autoemb_pipeline.kernels import (
    CONTEXT_FEATURES,
    HELD,
    QUADRATIC_FEATURES,
    Interactions,
    Model,
    Predicted,
    State,
    mixture_slopes,
    newton_descend,
    newton_observe,
    run,
)
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.packing import read, restored
from autoemb_pipeline.learners.stream.budget import MemoryBudget, SideDemand
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.gates import ControllerGate, Gate
from autoemb_pipeline.learners.stream.rows import HOLDS, ROW, WORTH, SidePlan
from autoemb_pipeline.learners.stream.trace import Trace
from autoemb_pipeline.open_batch import OpenBatch
from autoemb_pipeline.records import RATING_CLASSES, FloatArray, LearnerInputs, Predictions


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamComponents:
    """What a `StreamLearner` is made of.

    Attributes:
        plans: both sides' rows.
        gate: uses of the blocks, searched or fixed.
        trace: validation through an id's next occurrence, or None.
        budget: bound on the rows' bytes, or None.
    """

    plans: tuple[SidePlan, SidePlan]
    gate: Gate
    trace: Trace | None = None
    budget: MemoryBudget | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Open:
    """The mini-batch between `run` and `end`, as the kernel left it."""

    batch: OpenBatch
    interactions: Interactions
    model: Model
    out: Predicted


class StreamLearner:
    """`autoemb_pipeline.learners.base.EventLearner` with context features.

    Args:
        config: task, priors, cost.
        components: what it is made of.
    """

    def __init__(self, config: StreamConfig, components: StreamComponents) -> None:
        self._components = components
        self._config = config
        blocks = components.plans[0].blocks
        rating = config.task == "rating"
        self._classes = RATING_CLASSES if rating else 0
        self._levels = np.linspace(-1.0, 1.0, RATING_CLASSES) if rating else np.ones(1)
        self._quadratic = config.quadratic and not rating
        dense = CONTEXT_FEATURES + (QUADRATIC_FEATURES if self._quadratic else 0)
        ridge = np.full(dense + len(blocks.dims), config.gain_ridge)
        ridge[:CONTEXT_FEATURES] = config.ridge
        ridge[CONTEXT_FEATURES:dense] = config.quadratic_ridge
        self._weights = np.zeros((len(self._levels), len(ridge)))
        self._weights[:, dense:] = self._levels[:, None]  # of the products: so that their gains start at 1
        self._precision = np.diag(np.tile(ridge, len(self._levels)))
        self._gradient = np.zeros_like(self._weights)
        self._waiting_base = np.zeros((0, len(self._levels)))
        self._waiting_uses = np.zeros((2, 0, len(blocks.dims)))
        self._model = self._fixed_model()
        self._open: _Open | None = None

    def run(self, opened: OpenBatch) -> tuple[LearnerInputs, Predictions]:
        """See `EventLearner.run`.

        Raises:
            AutoembError: the mini-batch is empty, or the predictions are no numbers.
        """
        if not len(opened.inputs.user_ids):
            raise AutoembError("an empty mini-batch was given to a learner", remedy="skip mini-batches without records")
        gate, trace, new = self._components.gate, self._components.trace, slice(opened.carried, None)
        uses = np.empty((2, len(opened.interactions.times), self._waiting_uses.shape[2]))
        uses[:, : opened.carried], uses[:, new] = self._waiting_uses[:, opened.due], gate.open(opened)
        interactions, model, out = opened.interactions._replace(uses=uses), self._model, self._nothing_predicted(opened)
        self._open = _Open(batch=opened, interactions=interactions, model=model, out=out)
        self._hold(opened, uses)
        held = (opened.lent[0].slabs[HOLDS], opened.lent[1].slabs[HOLDS])
        state = State((opened.lent[0].slabs[ROW], opened.lent[1].slabs[ROW]), held, opened.contexts, opened.totals)
        if trace is None:
            run(opened.operations, interactions, state, model, out)
        else:
            trace.run(opened, interactions, state, model, out)
        probabilities = out.probabilities[new]
        if not np.isfinite(probabilities).all():
            raise AutoembError("the predictions are not finite", why="the parameters diverged", remedy="lower the variances of new rows")
        alpha, beta = (None, None) if gate.weights is None else gate.weights.astype(np.float64)
        inputs = replace(opened.inputs, features=out.inputs[new], class_probabilities=out.classes[new] if self._classes else None)
        predicted = probabilities if self._classes else probabilities[:, 0]
        return inputs, Predictions(probabilities=predicted.copy(), user_weights=alpha, item_weights=beta)

    def _fixed_model(self) -> Model:
        """What the kernel reads of the learner; the weights are the learner's own array, stepped in place."""
        plans, config = self._components.plans, self._config
        blocks = plans[0].blocks
        return Model(
            weights=self._weights,
            levels=self._levels,
            ends=np.array(blocks.dims, dtype=np.int64),
            directions=np.append(np.minimum(blocks.sizes, config.rank), 1.0),
            largest=np.repeat([[plan.variance] for plan in plans], len(blocks.dims), axis=1),
            drift=config.drift,
            quadratic=int(self._quadratic),
        )

    def _nothing_predicted(self, opened: OpenBatch) -> Predicted:
        count, outputs, spaces = len(opened.interactions.times), len(self._levels), len(self._components.plans[0].blocks.dims)
        out = Predicted(
            inputs=np.zeros((count, self._weights.shape[1])),
            products=np.zeros((count, 1, spaces)),
            base=np.zeros((count, outputs)),
            probabilities=np.zeros((count, outputs)),
            classes=np.zeros((count, self._classes)),
        )
        out.base[: opened.carried] = self._waiting_base[opened.due]
        return out

    def _hold(self, opened: OpenBatch, uses: FloatArray) -> None:
        """Decides before anything is predicted which blocks the ids hold.

        Without a budget those that some interaction has used: an unused block is as it was, so the store need not hold it.
        Under a budget worth is that at an id's first new interaction: what it is at later ones, the earlier ones may not know.
        """
        budget, local = self._components.budget, opened.interactions.local
        if budget is None:
            for field, lent in enumerate(opened.lent):
                used = np.zeros((len(lent.slots), uses.shape[2]), dtype=np.bool_)
                np.logical_or.at(used, local[field], uses[field] > 0)
                lent.slabs[HOLDS][lent.slots] = np.where(used, np.int8(HELD), lent.slabs[HOLDS][lent.slots])
            return
        demands = [self._demand(budget, opened, uses, field) for field in range(2)]
        for field, held in enumerate(budget.admit((demands[0], demands[1]))):
            lent, new = opened.lent[field], opened.new[field]
            slots = lent.slots[:new]
            lent.slabs[HOLDS][slots] = np.where(held, np.int8(HELD), np.int8(0))
            lent.slabs[WORTH][slots, :-1] = demands[field].worth
            lent.slabs[WORTH][slots, -1] = budget.step

    def _demand(self, budget: MemoryBudget, opened: OpenBatch, uses: FloatArray, field: int) -> SideDemand:
        carried, new, lent = opened.carried, opened.new[field], opened.lent[field]
        first: NDArray[np.int64] = np.unique(opened.interactions.local[field, carried:], return_index=True)[1]
        worth = budget.worth(self._components.plans[field], opened.counts[field][first], uses[field, carried:][first])
        held = lent.slabs[HOLDS][lent.slots[:new]] != 0
        ids = opened.ids[field][:new]
        asks = np.array([identifier not in opened.waits[field] for identifier in ids], dtype=np.bool_)
        return SideDemand(ids=ids, first=first, held=held, worth=worth, asks=asks)

    def update(self) -> None:
        """Steps the dense weights and the gate; keeps what the learning of labels that wait will need."""
        opened = self._opened()
        batch, interactions, out = opened.batch, opened.interactions, opened.out
        which = np.arange(batch.carried, len(interactions.times))
        newton_observe(out.inputs, which, out.probabilities, interactions.binary, interactions.classes, self._precision, self._gradient)
        slopes = self._slopes(opened)  # with the weights of the predictions, before they step
        newton_descend(self._weights, self._precision, self._gradient)
        gate, trace = self._components.gate, self._components.trace
        if trace is not None and isinstance(gate, ControllerGate):
            trace.learn(slopes, gate)
        elif slopes is not None:
            gate.learn(slopes)
        rest = np.setdiff1d(np.arange(len(self._waiting_base)), batch.due)
        self._waiting_base = np.concatenate([self._waiting_base[rest], out.base[batch.waiting]])
        self._waiting_uses = np.concatenate([self._waiting_uses[:, rest], interactions.uses[:, batch.waiting]], axis=1)

    def _slopes(self, opened: _Open) -> FloatArray | None:
        """[2, B, N] ∂L/∂α of the mini-batch's loss and cost; None where nothing is searched."""
        weights, batch, config = self._components.gate.weights, opened.batch, self._config
        if weights is None:
            return None
        count, carried = len(opened.interactions.times), batch.carried
        every = np.zeros((2, count, weights.shape[2]), dtype=weights.dtype)
        every[:, carried:] = weights
        counts = np.zeros((2, count))
        counts[:, carried:] = batch.counts
        slopes = np.empty_like(every)
        costs = config.cost * np.array(config.dims, dtype=np.float64)
        mixture_slopes(
            opened.interactions, opened.model, opened.out, every, counts, costs, config.amortised, 0.0, config.nested, slopes
        )  # fmt: skip
        known: FloatArray = slopes[:, carried:]
        return known

    def end(self) -> None:
        """Enters who was given blocks, and takes blocks from ids that are worth too little."""
        self._open = None
        if self._components.budget is not None:
            self._components.budget.commit()
            self._components.budget.sweep()

    def _arrays(self) -> dict[str, FloatArray]:
        return {"newton/weights": self._weights, "newton/precision": self._precision}

    def state_dict(self) -> Arrays:
        """Dense weights, the gate, and what waits for its labels; copies."""
        own = {**self._arrays(), "waiting/base": self._waiting_base, "waiting/uses": self._waiting_uses}
        optional = [part.state_dict() for part in (self._components.trace, self._components.budget) if part is not None]
        return {
            **{name: array.copy() for name, array in own.items()},
            **self._components.gate.state_dict(),
            **{name: array for state in optional for name, array in state.items()},
        }

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` returned; a mini-batch that was open is forgotten.

        Raises:
            CheckpointError: an array is missing or of another shape.
        """
        self._open = None
        for name, array in self._arrays().items():
            array[...] = restored(state, name, array)
        self._gradient[:] = 0.0
        self._waiting_base, self._waiting_uses = read(state, "waiting/base"), read(state, "waiting/uses")
        self._components.gate.load_state_dict(state)
        for part in (self._components.trace, self._components.budget):
            if part is not None:
                part.load_state_dict(state)

    def _opened(self) -> _Open:
        if self._open is None:
            raise AutoembError("an update came without a mini-batch", why="a learner predicts before it sees labels")
        return self._open
