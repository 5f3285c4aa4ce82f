"""The stream architecture: context features, and nested embeddings whose rows learn inside the mini-batch.

logit = x0 + w·z(x) + b_u + b_i + Σ_j γ_j A_j(u) B_j(i) ⟨p_j, q_j⟩

z holds the context features and their products; A and B come from the controllers (`pipeline.learners.gates`); γ is one gain per
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

from pipeline.errors import AutoembError, CheckpointError
from pipeline.learners.budget import MemoryBudget, SideDemand
from pipeline.learners.encoding import distinct
from pipeline.learners.gates import Gate
from pipeline.learners.kalman import Beliefs, Index, KalmanConfig, Pair, learn, products
from pipeline.learners.stream_rows import SideRows
from pipeline.learners.stream_trace import Trace
from pipeline.models.interactions import Link, dense_inputs
from pipeline.models.losses import prediction_losses
from pipeline.newton import OnlineNewton
from pipeline.records import FloatArray, Labels, LearnerInputs, Predictions


@dataclass(kw_only=True, slots=True)
class _Open:
    """The mini-batch between `begin` and `update`.

    Attributes:
        inputs: as given.
        user_ids, item_ids: distinct ids.
        rows: [2, B] each interaction's user and item among the rows of `pair`.
        users, items: their beliefs, views of `pair`, changed as parts are learnt.
        pair: both sides' rows; those of items follow those of users.
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
    pair: Pair
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
class StreamParts:
    """What a `StreamLearner` is made of.

    Attributes:
        users, items: the rows.
        kalman: how they learn.
        gate: factors of the blocks' products, searched or fixed.
        newton: the dense weights.
        link: the task.
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
    quadratic: bool
    trace: Trace | None = None
    budget: MemoryBudget | None = None


class StreamLearner:
    """`pipeline.learners.base.MicroBatchLearner` of the stream architecture.

    Args:
        parts: what it is made of.
    """

    def __init__(self, parts: StreamParts) -> None:
        self._parts = parts
        self._open: _Open | None = None

    def begin(self, inputs: LearnerInputs) -> None:
        """Opens a mini-batch: all that can be computed before any of its labels. Changes no parameter and no stored row."""
        if not len(inputs.user_ids):
            raise AutoembError("an empty mini-batch was given to a learner", remedy="skip mini-batches without records")
        parts = self._parts
        user_ids, user = distinct(inputs.user_ids)
        item_ids, item = distinct(inputs.item_ids)
        factors = parts.gate.open(inputs)
        users, items = parts.users.gather(user_ids), parts.items.gather(item_ids)
        worth = self._ration(inputs, (user_ids, item_ids), (user, item), (users, items))
        opened = factors * (users.held[user] & items.held[item])
        dense = dense_inputs(inputs.features, quadratic=parts.quadratic)
        weights = parts.newton.weights[:, : dense.shape[1]]
        of_products = parts.newton.weights[:, dense.shape[1] :]
        levels = parts.link.levels
        gains = levels @ of_products / (levels @ levels)
        count, outputs = len(user), len(levels)
        biases = np.ones((count, 1))
        factors = np.concatenate([opened, biases], axis=1)
        self._open = _Open(
            inputs=inputs,
            user_ids=user_ids,
            item_ids=item_ids,
            rows=np.stack([user, item + len(user_ids)]),
            users=users,
            items=items,
            pair=Pair(users, items),
            dense=dense,
            offsets=parts.link.offsets(inputs) + dense @ weights.T,
            factors=factors,
            gains=gains,
            gates=np.concatenate([opened * gains, biases], axis=1),
            weights=np.concatenate([of_products, levels[:, None]], axis=1).T,
            products=np.zeros_like(factors),
            predicted=np.zeros((count, outputs)),
            done=np.zeros(count),
            worth=worth,
        )
        if parts.trace is not None:
            parts.trace.begin(user_ids, item_ids, count)

    def _ration(
        self, inputs: LearnerInputs, ids: tuple[tuple[str, ...], ...], index: tuple[Index, Index], sides: tuple[Beliefs, Beliefs]
    ) -> list[FloatArray | None]:
        """Lets ids have blocks as the budget allows, and clears the means of those they do not have. Returns what blocks are worth.

        Worth is that at an id's first interaction of the mini-batch: what it is at later ones, the earlier ones may not know.
        """
        parts, budget = self._parts, self._parts.budget
        if budget is None:
            return [None, None]
        counts = (inputs.users.count, inputs.items.count)

        def demand(k: int) -> SideDemand:
            first = np.unique(index[k], return_index=True)[1]
            worth = budget.worth((parts.users, parts.items)[k].plan, counts[k][first], parts.gate.uses[k][first])
            return SideDemand(ids=ids[k], first=first, held=sides[k].held, worth=worth)

        demands = (demand(0), demand(1))
        held = budget.admit(demands)
        for beliefs, now in zip(sides, held, strict=True):
            beliefs.held = now
            beliefs.means *= parts.kalman.blocks.spread(now.astype(np.float64))
        return [side.worth for side in demands]

    def predict_part(self, rows: Index) -> FloatArray:
        """Predicts the named interactions of the open mini-batch with the rows as they stand.

        Returns:
            [m] probabilities, or [m, C] for the rating task.
        """
        at, parts = self._opened(), self._parts
        found = products(parts.kalman, at.pair, at.rows[:, rows])
        at.products[rows] = found
        predicted = parts.link.predict(at.offsets[rows] + (at.factors[rows] * found) @ at.weights)
        at.predicted[rows] = predicted
        at.done[rows] = 1
        return predicted[:, 0] if parts.link.task == "binary" else predicted

    def learn_part(self, rows: Index, labels: Labels) -> None:
        """Updates the rows of interactions that were predicted. labels: of these m interactions, in the order of `rows`."""
        at, parts = self._opened(), self._parts
        if not (at.done[rows] == 1).all():
            raise AutoembError("labels came for interactions that were not predicted, or were learnt already")
        at.done[rows] = 2
        predicted = at.predicted[rows]
        error = parts.link.error(predicted, parts.link.wanted(labels))
        of, gates, pair = at.rows[:, rows], at.gates[rows], at.pair
        if parts.trace is None:
            learn(parts.kalman, pair, of, gates, error, parts.link.curvature(predicted))
            return
        index = (of[0], of[1] - pair.users)
        before = pair.means[of, :-1]
        parts.trace.validate(rows, index, gates[:, :-1], error, (before[0], before[1]))
        learn(parts.kalman, pair, of, gates, error, parts.link.curvature(predicted))
        users, items = pair.means[of, :-1] - before
        parts.trace.remember(rows, index, (users, items), parts.gate)

    def predictions(self) -> Predictions:
        """All of the open mini-batch's predictions, each as it was made.

        Raises:
            AutoembError: some were not made, or are no numbers.
        """
        at = self._opened()
        if not at.done.all():
            raise AutoembError(f"{int((at.done == 0).sum())} interactions of the mini-batch were not predicted")
        if not np.isfinite(at.predicted).all():
            raise AutoembError("the predictions are not finite", why="the parameters diverged", remedy="lower the variances of new rows")
        alpha, beta = self._parts.gate.weights or (None, None)
        predicted = at.predicted[:, 0] if self._parts.link.task == "binary" else at.predicted
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
        predictions, at, parts = self.predictions(), self._opened(), self._parts
        if len(labels.binary) != len(at.done):
            raise AutoembError(f"{len(labels.binary)} labels came for {len(at.done)} predictions")
        rest = np.flatnonzero(at.done == 1)
        if len(rest):
            self.learn_part(rest, Labels(binary=labels.binary[rest], classes=labels.classes[rest]))
        wanted = parts.link.wanted(labels)
        inner = at.products[:, :-1]
        slopes = parts.link.error(at.predicted, wanted)[:, None] * inner
        parts.newton.step(np.concatenate([at.dense, at.factors[:, :-1] * inner], axis=1), at.predicted, wanted)
        if parts.trace is not None:
            parts.trace.learn(slopes * at.gains, parts.gate)
        else:
            parts.gate.learn(slopes * at.gains)
        if parts.budget is None:
            _keep_used(at.users.held, at.rows[0], parts.gate.uses[0])
            _keep_used(at.items.held, at.rows[1] - at.pair.users, parts.gate.uses[1])
        step = parts.budget.step if parts.budget is not None else 0
        parts.users.scatter(at.user_ids, at.users, at.worth[0], step)
        parts.items.scatter(at.item_ids, at.items, at.worth[1], step)
        if parts.budget is not None:
            parts.budget.commit()
            parts.budget.sweep()
        self._open = None
        return prediction_losses(predictions.probabilities, labels)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Dense weights and the gate; copies on the CPU."""
        newton = {f"newton/{name}": torch.from_numpy(value) for name, value in self._parts.newton.state().items()}
        optional = [part.state_dict() for part in (self._parts.trace, self._parts.budget) if part is not None]
        return {**newton, **self._parts.gate.state_dict(), **{name: tensor for state in optional for name, tensor in state.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned; a mini-batch that was open is forgotten.

        Raises:
            CheckpointError: a tensor is missing or of another shape.
        """
        self._open = None
        own = self._parts.newton.state()
        for name, value in own.items():
            found = state.get(f"newton/{name}")
            if found is None or tuple(found.shape) != value.shape:
                raise CheckpointError(
                    f"the checkpoint's tensor newton/{name} is missing or of another shape", remedy="start with its options"
                )
        self._parts.newton.load_state({name: state[f"newton/{name}"].numpy() for name in own})
        self._parts.gate.load_state_dict(state)
        for part in (self._parts.trace, self._parts.budget):
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
