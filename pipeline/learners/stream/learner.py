"""The stream learner: context features, and nested embeddings whose rows learn inside the mini-batch.

logit = x0 + w·z(x) + b_u + b_i + Σ_j γ_j A_j(u) B_j(i) ⟨p_j, q_j⟩

z holds the context features and their products; A and B come from the controllers (`learners.stream.gates`); γ is one gain per
block, learnt with w. Three speeds: rows learn in micro-batches by Kalman steps, w and γ by one Newton step and the controllers by
one Adam step per mini-batch.

Shape legend: B interactions, m of a part, N blocks, Z dense inputs, C outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoemb_pipeline.errors import AutoembError, CheckpointError
from autoemb_pipeline.learners.common.losses import prediction_losses
from autoemb_pipeline.learners.search.encoding import distinct
from autoemb_pipeline.learners.stream.budget import MemoryBudget, SideDemand
from autoemb_pipeline.learners.stream.gates import Gate
from autoemb_pipeline.learners.stream.kalman import Beliefs, BothSides, Index, KalmanConfig, learn, products
from autoemb_pipeline.learners.stream.link import Link, dense_inputs
from autoemb_pipeline.learners.stream.rows import SideRows
from autoemb_pipeline.learners.stream.trace import Trace
from autoemb_pipeline.newton import OnlineNewton
from autoemb_pipeline.records import FloatArray, Labels, LearnerInputs, Predictions


@dataclass(kw_only=True, slots=True)
class _Open:
    """The mini-batch between `begin` and `update`.

    Attributes:
        inputs: as given.
        user_ids, item_ids: distinct ids.
        rows: [2, B] each interaction's user and item among the rows of `both`.
        users, items: their beliefs, views of `both`, changed as parts are learnt.
        both: both sides' rows; those of items follow those of users.
        dense: [B, Z].
        offsets: [B, C] logits without the embeddings.
        factors: [B, N + 1] R = A·B, and 1 for the biases.
        gains: [N] γ.
        gates: [B, N + 1] γ·R, and 1.
        weights: [N + 1, C] what R·⟨p_j, q_j⟩ and the biases are multiplied by.
        products: [B, N + 1] ⟨p_j, q_j⟩ and the sum of the biases as predicted.
        predicted: [B, C].
        done: 0 waiting, 1 predicted, 2 learnt.
        worth: [n, N] of users' and items' blocks; None without a budget.
    """

    inputs: LearnerInputs
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    rows: Index
    users: Beliefs
    items: Beliefs
    both: BothSides
    dense: FloatArray
    offsets: FloatArray
    factors: FloatArray
    gains: FloatArray
    gates: FloatArray
    weights: FloatArray
    products: FloatArray
    predicted: FloatArray
    done: FloatArray
    worth: list[FloatArray | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamComponents:
    """What a `StreamLearner` is made of.

    Attributes:
        users, items: the rows.
        kalman: how they learn.
        gate: factors of the blocks' products, searched or fixed.
        newton: the dense weights.
        link: the task.
        micro_batch: interactions of a part.
        quadratic: products of features among the dense inputs.
        trace: validation through an id's next occurrence, or None.
        budget: bound on the rows' bytes, or None.
    """

    users: SideRows
    items: SideRows
    kalman: KalmanConfig
    gate: Gate
    newton: OnlineNewton
    link: Link
    micro_batch: int
    quadratic: bool
    trace: Trace | None = None
    budget: MemoryBudget | None = None


class StreamLearner:
    """`autoemb_pipeline.learners.base.MicroBatchLearner` with context features.

    Args:
        components: what it is made of.
    """

    def __init__(self, components: StreamComponents) -> None:
        self._components = components
        self._open: _Open | None = None

    @property
    def micro_batch(self) -> int:
        """Interactions of a part, at least; 1: rows are updated after each."""
        return self._components.micro_batch

    def begin(self, inputs: LearnerInputs) -> None:
        """Opens a mini-batch: all that can be computed before any of its labels. Changes no parameter and no stored row."""
        if not len(inputs.user_ids):
            raise AutoembError("an empty mini-batch was given to a learner", remedy="skip mini-batches without records")
        components = self._components
        user_ids, user = distinct(inputs.user_ids)
        item_ids, item = distinct(inputs.item_ids)
        factors = components.gate.open(inputs)
        users, items = components.users.gather(user_ids), components.items.gather(item_ids)
        worth = self._ration(inputs, (user_ids, item_ids), (user, item), (users, items))
        usable = factors * (users.held[user] & items.held[item])
        dense = dense_inputs(inputs.features, quadratic=components.quadratic)
        weights = components.newton.weights[:, : dense.shape[1]]
        of_products = components.newton.weights[:, dense.shape[1] :]
        levels = components.link.levels
        gains = levels @ of_products / (levels @ levels)
        count, outputs = len(user), len(levels)
        biases = np.ones((count, 1))
        factors = np.concatenate([usable, biases], axis=1)
        self._open = _Open(
            inputs=inputs,
            user_ids=user_ids,
            item_ids=item_ids,
            rows=np.stack([user, item + len(user_ids)]),
            users=users,
            items=items,
            both=BothSides(users, items),
            dense=dense,
            offsets=components.link.offsets(inputs) + dense @ weights.T,
            factors=factors,
            gains=gains,
            gates=np.concatenate([usable * gains, biases], axis=1),
            weights=np.concatenate([of_products, levels[:, None]], axis=1).T,
            products=np.zeros_like(factors),
            predicted=np.zeros((count, outputs)),
            done=np.zeros(count),
            worth=worth,
        )
        if components.trace is not None:
            components.trace.begin(user_ids, item_ids, count)

    def _ration(
        self, inputs: LearnerInputs, ids: tuple[tuple[str, ...], ...], index: tuple[Index, Index], sides: tuple[Beliefs, Beliefs]
    ) -> list[FloatArray | None]:
        """Lets ids have blocks as the budget allows, and clears the means of those they do not have. Returns what blocks are worth.

        Worth is that at an id's first interaction of the mini-batch: what it is at later ones, the earlier ones may not know.
        """
        components, budget = self._components, self._components.budget
        if budget is None:
            return [None, None]
        counts = (inputs.users.count, inputs.items.count)

        def demand(k: int) -> SideDemand:
            first = np.unique(index[k], return_index=True)[1]
            worth = budget.worth((components.users, components.items)[k].plan, counts[k][first], components.gate.uses[k][first])
            return SideDemand(ids=ids[k], first=first, held=sides[k].held, worth=worth)

        demands = (demand(0), demand(1))
        held = budget.admit(demands)
        for beliefs, now in zip(sides, held, strict=True):
            beliefs.held = now
            beliefs.means *= components.kalman.blocks.spread(now.astype(np.float64))
        return [side.worth for side in demands]

    def predict_part(self, rows: Index) -> FloatArray:
        """Predicts the named interactions of the open mini-batch with the rows as they stand.

        Returns:
            [m] probabilities, or [m, C] for the rating task.
        """
        opened, components = self._opened(), self._components
        inner = products(components.kalman, opened.both, opened.rows[:, rows])
        opened.products[rows] = inner
        predicted = components.link.predict(opened.offsets[rows] + (opened.factors[rows] * inner) @ opened.weights)
        opened.predicted[rows] = predicted
        opened.done[rows] = 1
        return predicted[:, 0] if components.link.task == "binary" else predicted

    def learn_part(self, rows: Index, labels: Labels) -> None:
        """Updates the rows of interactions that were predicted. labels: of these m interactions, in the order of `rows`."""
        opened, components = self._opened(), self._components
        if not (opened.done[rows] == 1).all():
            raise AutoembError("labels came for interactions that were not predicted, or were learnt already")
        opened.done[rows] = 2
        predicted = opened.predicted[rows]
        error = components.link.error(predicted, components.link.targets(labels))
        indices, gates, both = opened.rows[:, rows], opened.gates[rows], opened.both
        if components.trace is None:
            learn(components.kalman, both, indices, gates, error, components.link.curvature(predicted))
            return
        index = (indices[0], indices[1] - both.users)
        before = both.means[indices, :-1]
        components.trace.validate(rows, index, gates[:, :-1], error, (before[0], before[1]))
        learn(components.kalman, both, indices, gates, error, components.link.curvature(predicted))
        users, items = both.means[indices, :-1] - before
        components.trace.remember(rows, index, (users, items), components.gate)

    def predictions(self) -> Predictions:
        """All of the open mini-batch's predictions, each as it was made.

        Raises:
            AutoembError: some were not made, or are no numbers.
        """
        opened = self._opened()
        if not opened.done.all():
            raise AutoembError(f"{int((opened.done == 0).sum())} interactions of the mini-batch were not predicted")
        if not np.isfinite(opened.predicted).all():
            raise AutoembError("the predictions are not finite", why="the parameters diverged", remedy="lower the variances of new rows")
        alpha, beta = self._components.gate.weights or (None, None)
        predicted = opened.predicted[:, 0] if self._components.link.task == "binary" else opened.predicted
        return Predictions(probabilities=predicted.copy(), user_weights=alpha, item_weights=beta)

    def predict(self, inputs: LearnerInputs) -> Predictions:
        """The whole mini-batch with the rows as they stand: the context mode `batch`, or a prediction without training."""
        self.begin(inputs)
        self.predict_part(np.arange(len(inputs.user_ids)))
        return self.predictions()

    def update(self, labels: Labels) -> FloatArray:
        """Learns what no part has learnt, steps the dense weights and the gate, scatters the rows.

        Returns:
            [B] losses of the predictions.
        """
        predictions, opened, components = self.predictions(), self._opened(), self._components
        if len(labels.binary) != len(opened.done):
            raise AutoembError(f"{len(labels.binary)} labels came for {len(opened.done)} predictions")
        rest = np.flatnonzero(opened.done == 1)
        if len(rest):
            self.learn_part(rest, Labels(binary=labels.binary[rest], classes=labels.classes[rest]))
        targets = components.link.targets(labels)
        inner = opened.products[:, :-1]
        slopes = components.link.error(opened.predicted, targets)[:, None] * inner
        components.newton.step(np.concatenate([opened.dense, opened.factors[:, :-1] * inner], axis=1), opened.predicted, targets)
        if components.trace is not None:
            components.trace.learn(slopes * opened.gains, components.gate)
        else:
            components.gate.learn(slopes * opened.gains)
        if components.budget is None:
            _keep_used(opened.users.held, opened.rows[0], components.gate.uses[0])
            _keep_used(opened.items.held, opened.rows[1] - opened.both.users, components.gate.uses[1])
        step = components.budget.step if components.budget is not None else 0
        components.users.scatter(opened.user_ids, opened.users, opened.worth[0], step)
        components.items.scatter(opened.item_ids, opened.items, opened.worth[1], step)
        if components.budget is not None:
            components.budget.commit()
            components.budget.sweep()
        self._open = None
        return prediction_losses(predictions.probabilities, labels)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Dense weights and the gate; copies on the CPU."""
        newton = {f"newton/{name}": torch.from_numpy(value) for name, value in self._components.newton.state().items()}
        optional = [part.state_dict() for part in (self._components.trace, self._components.budget) if part is not None]
        return {**newton, **self._components.gate.state_dict(), **{name: tensor for state in optional for name, tensor in state.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned; a mini-batch that was open is forgotten.

        Raises:
            CheckpointError: a tensor is missing or of another shape.
        """
        self._open = None
        own = self._components.newton.state()
        for name, value in own.items():
            stored = state.get(f"newton/{name}")
            if stored is None or tuple(stored.shape) != value.shape:
                raise CheckpointError(
                    f"the checkpoint's tensor newton/{name} is missing or of another shape", remedy="start with its options"
                )
        self._components.newton.load_state({name: state[f"newton/{name}"].numpy() for name in own})
        self._components.gate.load_state_dict(state)
        for part in (self._components.trace, self._components.budget):
            if part is not None:
                part.load_state_dict(state)

    def _opened(self) -> _Open:
        if self._open is None:
            raise AutoembError("a part or an update came without a mini-batch", why="a learner predicts before it sees labels")
        return self._open


def _keep_used(held: NDArray[np.bool_], index: Index, uses: FloatArray) -> None:
    """Leaves the blocks that some interaction used; an unused one is as it was, so it need not be stored. The first holds the bias."""
    used = np.zeros_like(held)
    used[:, 0] = True
    np.logical_or.at(used, index, uses > 0)
    held &= used
