"""The stream learner: context features, and embeddings whose rows learn inside the mini-batch.

logit = x0 + w·z(x) + b_u + b_i + Σ_j γ_j A_j(u) B_j(i) ⟨p_j, q_j⟩

z holds the context features and their products; A and B are 1 for the blocks that an id holds where dimensions are searched (`search`),
else what the method fixes or its free logits give (`gates`, `logits`); γ is one gain per block, learnt with w. Two speeds: context and rows
learn event by event in compiled code (`autoemb_pipeline.kernels`), w, γ and the controllers once per mini-batch.

Shape legend: E interactions, those that waited and B new ones; N blocks; M dense inputs and products; C outputs; 2 sides, users first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.errors import AutoembError
from autoemb_pipeline.kernels import (
    CONTEXT_FEATURES,
    HELD,
    QUADRATIC_FEATURES,
    Interactions,
    Measured,
    Memory,
    Model,
    Predicted,
    State,
    mixture_slopes,
    newton_descend,
    newton_observe,
    no_memory,
    round_rows,
    run,
)
from autoemb_pipeline.kernels.layout import COUNT
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.packing import read, restored
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.gates import Gate
from autoemb_pipeline.learners.stream.holdings import Holdings, bytes_report
from autoemb_pipeline.learners.stream.rows import CONTEXT, HOLDS, ROW, SidePlan
from autoemb_pipeline.learners.stream.search import Named, Search
from autoemb_pipeline.open_batch import OpenBatch
from autoemb_pipeline.records import RATING_CLASSES, FloatArray, LearnerInputs, Predictions
from autoemb_pipeline.rows import Lent


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamComponents:
    """What a `StreamLearner` is made of.

    Attributes:
        plans: both sides' rows.
        gate: uses of the blocks where they are not searched; with a search all ones.
        holdings: both sides' bytes.
        search: which blocks every id holds, or None: those that are used.
    """

    plans: tuple[SidePlan, SidePlan]
    gate: Gate
    holdings: tuple[Holdings, Holdings]
    search: Search | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Open:
    """The mini-batch between `run` and `end`, as the kernel left it; before: what its ids held."""

    batch: OpenBatch
    interactions: Interactions
    model: Model
    out: Predicted
    memory: Memory
    before: tuple[Measured, Measured]


class StreamLearner:
    """`autoemb_pipeline.learners.base.EventLearner` with context features.

    Args:
        config: task, priors, precision of rows.
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
        self._named: list[Named] = []
        self._open: _Open | None = None

    def prepare(self, opened: OpenBatch) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See `EventLearner.prepare`.

        Raises:
            AutoembError: the mini-batch is empty.
        """
        if not len(opened.inputs.user_ids):
            raise AutoembError("an empty mini-batch was given to a learner", remedy="skip mini-batches without records")
        search = self._components.search
        if search is not None or self._config.row_precision == "int16":
            self._named = [Named.of(ids, self._config.seed) for ids in opened.ids]
        return ((), ()) if search is None else search.choose(opened, self._named)

    def run(self, opened: OpenBatch) -> tuple[LearnerInputs, Predictions]:
        """See `EventLearner.run`.

        Raises:
            AutoembError: the predictions are no numbers.
        """
        gate, search, new = self._components.gate, self._components.search, slice(opened.carried, None)
        uses = np.empty((2, len(opened.interactions.times), self._waiting_uses.shape[2]))
        uses[:, : opened.carried], uses[:, new] = self._waiting_uses[:, opened.due], gate.open(opened)
        interactions, model, out = opened.interactions._replace(uses=uses), self._model, self._nothing_predicted(opened)
        before = (self._components.holdings[0].measure(opened.lent[0]), self._components.holdings[1].measure(opened.lent[1]))
        if search is None:
            memory = no_memory(interactions, len(self._levels))
            self._hold(opened, uses)
        else:
            interactions = interactions._replace(choices=search.choices, foreseen=search.foreseen)
            memory = search.memory(opened, interactions)
        self._open = _Open(batch=opened, interactions=interactions, model=model, out=out, memory=memory, before=before)
        held = (opened.lent[0].slabs[HOLDS], opened.lent[1].slabs[HOLDS])
        state = State((opened.lent[0].slabs[ROW], opened.lent[1].slabs[ROW]), held, opened.contexts, opened.totals)
        run(opened.operations, interactions, state, model, out, memory)
        probabilities = out.probabilities[new]
        if not np.isfinite(probabilities).all():
            raise AutoembError("the predictions are not finite", why="the parameters diverged", remedy="lower the variances of new rows")
        alpha, beta = self._weights_used(out.levels[:, new])
        inputs = replace(opened.inputs, features=out.inputs[new], class_probabilities=out.classes[new] if self._classes else None)
        predicted = probabilities if self._classes else probabilities[:, 0]
        return inputs, Predictions(probabilities=predicted.copy(), user_weights=alpha, item_weights=beta)

    def _weights_used(self, levels: NDArray[np.int64]) -> tuple[FloatArray | None, FloatArray | None]:
        """α and β: of a search 1 at the space that the id held, nowhere without a row; else the gate's."""
        if self._components.search is not None:
            spaces = np.arange(1, self._waiting_uses.shape[2] + 1)
            alpha, beta = (levels[:, :, None] == spaces).astype(np.float64)
            return alpha, beta
        weights = self._components.gate.weights
        return (None, None) if weights is None else (weights[0].astype(np.float64), weights[1].astype(np.float64))

    def _fixed_model(self) -> Model:
        """What the kernel reads of the learner; the weights are the learner's own array, stepped in place."""
        plans, config = self._components.plans, self._config
        blocks = plans[0].blocks
        return Model(
            weights=self._weights,
            levels=self._levels,
            ends=blocks.ends,
            directions=np.append(np.minimum(blocks.sizes, config.rank), 1.0),
            largest=np.repeat([[plan.variance] for plan in plans], len(blocks.dims), axis=1),
            drift=config.drift,
            quadratic=int(self._quadratic),
            searched=int(self._components.search is not None),
            revisited=int(config.method == "sam"),
        )

    def _nothing_predicted(self, opened: OpenBatch) -> Predicted:
        count, outputs, spaces = len(opened.interactions.times), len(self._levels), len(self._components.plans[0].blocks.dims)
        out = Predicted(
            inputs=np.zeros((count, self._weights.shape[1])),
            products=np.zeros((count, 1, spaces)),
            base=np.zeros((count, outputs)),
            probabilities=np.zeros((count, outputs)),
            classes=np.zeros((count, self._classes)),
            prefixes=np.zeros((count, spaces + 1, outputs)),
            levels=np.zeros((2, count), dtype=np.int64),
        )
        out.base[: opened.carried] = self._waiting_base[opened.due]
        return out

    def _hold(self, opened: OpenBatch, uses: FloatArray) -> None:
        """Marks the blocks that some interaction uses: an unused block is as it was, so the store need not hold it."""
        for field, lent in enumerate(opened.lent):
            used = np.zeros((len(lent.slots), uses.shape[2]), dtype=np.bool_)
            np.logical_or.at(used, opened.interactions.local[field], uses[field] > 0)
            lent.slabs[HOLDS][lent.slots] = np.where(used, np.int8(HELD), lent.slabs[HOLDS][lent.slots])

    def update(self) -> None:
        """Steps the dense weights, gate or controllers; keeps what the learning of labels that wait will need."""
        opened = self._opened()
        batch, interactions, out = opened.batch, opened.interactions, opened.out
        which = np.arange(batch.carried, len(interactions.times))
        newton_observe(out.inputs, which, out.probabilities, interactions.binary, interactions.classes, self._precision, self._gradient)
        slopes = self._slopes(opened)  # with the weights of the predictions, before they step
        newton_descend(self._weights, self._precision, self._gradient)
        if slopes is not None:
            self._components.gate.learn(slopes)
        self._settle(opened)
        rest = np.setdiff1d(np.arange(len(self._waiting_base)), batch.due)
        self._waiting_base = np.concatenate([self._waiting_base[rest], out.base[batch.waiting]])
        self._waiting_uses = np.concatenate([self._waiting_uses[:, rest], interactions.uses[:, batch.waiting]], axis=1)

    def _settle(self, opened: _Open) -> None:
        """Rows onto their grid, what is remembered into the records, bytes and controllers brought up to date."""
        search = self._components.search
        if search is not None:
            search.keep(opened.batch, opened.memory)
        for field, holdings in enumerate(self._components.holdings):
            lent = opened.batch.lent[field]
            if self._config.row_precision == "int16":
                self._round(field, lent)
            holdings.account(lent, opened.before[field])
        if search is not None:
            search.learn(opened.batch, opened.interactions, opened.out)

    def _round(self, field: int, lent: Lent) -> None:
        own = self._named[field].keys
        if len(own) < len(lent.ids):  # partners of promoted ids
            own = np.concatenate([own, Named.of(lent.ids[len(own) :], self._config.seed).keys])
        blocks = self._components.plans[field].blocks
        counts = lent.slabs[CONTEXT][lent.slots, COUNT].astype(np.uint64)
        round_rows(lent.slabs[ROW], lent.slabs[HOLDS], lent.slots, blocks.starts, blocks.ends, own + counts)

    def _slopes(self, opened: _Open) -> FloatArray | None:
        """[2, B, N] ∂L/∂α of the mini-batch's loss; None where no weights learn from it."""
        weights, batch = self._components.gate.weights, opened.batch
        if weights is None:
            return None
        count, carried = len(opened.interactions.times), batch.carried
        every = np.zeros((2, count, weights.shape[2]), dtype=weights.dtype)
        every[:, carried:] = weights
        slopes = np.empty_like(every)
        mixture_slopes(opened.interactions, opened.model, opened.out, every, self._config.nested, slopes)
        known: FloatArray = slopes[:, carried:]
        return known

    def end(self) -> None:
        """Takes blocks from ids that are worth too little."""
        opened, self._open = self._open, None
        if self._components.search is not None and opened is not None:
            self._components.search.sweep(opened.batch.totals)

    def forget(self, field: int, lent: Lent) -> None:
        """See `EventLearner.forget`."""
        self._components.holdings[field].forget(lent)

    def report(self) -> dict[str, object]:
        """What is kept for embeddings, and what the search says of it: fields of the metrics topic."""
        holdings, search = self._components.holdings, self._components.search
        return {**bytes_report(holdings), **({} if search is None else search.report())}

    def _parts(self) -> Iterator[Gate | Holdings | Search]:
        """What keeps a state of its own."""
        components = self._components
        yield components.gate
        yield from components.holdings
        if components.search is not None:
            yield components.search

    def _arrays(self) -> dict[str, FloatArray]:
        return {"newton/weights": self._weights, "newton/precision": self._precision}

    def state_dict(self) -> Arrays:
        """Dense weights, what waits for its labels, and the parts' own; copies."""
        own = {**self._arrays(), "waiting/base": self._waiting_base, "waiting/uses": self._waiting_uses}
        state = {name: array.copy() for name, array in own.items()}
        for part in self._parts():
            state |= part.state_dict()
        return state

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
        for part in self._parts():
            part.load_state_dict(state)

    def _opened(self) -> _Open:
        if self._open is None:
            raise AutoembError("an update came without a mini-batch", why="a learner predicts before it sees labels")
        return self._open
