"""Predictions from a checkpoint: the run's own context and learner, as they stood after its step, over rows that nobody changes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from autoemb_pipeline.checkpoint.contents import LoadedCheckpoint
from autoemb_pipeline.checkpoint.reading import OpenCheckpoint
from autoemb_pipeline.config import trainer_of
from autoemb_pipeline.context.tracker import ContextTracker
from autoemb_pipeline.learners.factory import make_learner
from autoemb_pipeline.records import FloatArray, Interaction, Labels, LearnerInputs, Predictions, SideContext
from autoemb_pipeline.rows import TableSpec
from autoemb_pipeline.trainer import TrainerConfig, trainer_tables


class Pair(NamedTuple):
    """A user, an item, and when (ms since the epoch; None: the event time the checkpoint stands at)."""

    user_id: str
    item_id: str
    timestamp: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreseen:
    """Predictions of B pairs.

    Attributes:
        predictions: as the learner gives them.
        user_counts, item_counts: [B] interactions of the ids so far; 0 for a new id.
    """

    predictions: Predictions
    user_counts: FloatArray
    item_counts: FloatArray


def tables_of(loaded: LoadedCheckpoint) -> Sequence[TableSpec]:
    """The tables of a checkpoint, with the initial rows of new ids: for `open_newest`."""
    return trainer_tables(checkpoint_trainer(loaded))


def checkpoint_trainer(loaded: LoadedCheckpoint, *, device: str = "cpu") -> TrainerConfig:
    """The configuration that a checkpoint's run was trained with."""
    return trainer_of(loaded.payload["configuration"], device=device)


class Predictor:
    """Predicts pairs as the run would at its next step.

    Sets torch's threads to the run's own, since their number decides the last bits of sums. New ids get a new id's context and rows.

    Args:
        opened: with rows opened by `tables_of`.
        device: of the arithmetic.
    """

    def __init__(self, opened: OpenCheckpoint, *, device: str = "cpu") -> None:
        loaded = opened.loaded
        self.config = checkpoint_trainer(loaded, device=device)
        self.step = loaded.step
        frontier = loaded.payload["position"]["frontier"]
        self._now: int = 0 if frontier is None else frontier[0]
        self._state: dict[str, Any] = loaded.payload["trainer"]["context"]
        torch.set_num_threads(int(loaded.payload["environment"]["threads"]))
        self._context = ContextTracker(self.config.context, opened.rows)
        self._learner = make_learner(self.config.learner, opened.rows)
        prefix = "learner."
        self._learner.load_state_dict({n.removeprefix(prefix): t for n, t in loaded.tensors.items() if n.startswith(prefix)})

    def predict(self, pairs: Sequence[Pair], *, consecutive: bool = False) -> Foreseen:
        """Predictions of B pairs, at least one, made together.

        Together, because a matrix product's last bits depend on how many rows it has.

        Args:
            pairs: what to predict.
            consecutive: the pairs are the run's next mini-batch: counts and times of earlier ones count for later ones, as in training.
                False: each is a question of its own, as if it came next.
        """
        records = [Interaction(p.user_id, p.item_id, 0.0, self._now if p.timestamp is None else p.timestamp) for p in pairs]
        inputs = self._observe(records) if consecutive else _joined([self._observe([record]) for record in records])
        return Foreseen(predictions=self._learner.predict(inputs), user_counts=inputs.users.count, item_counts=inputs.items.count)

    def _observe(self, records: Sequence[Interaction]) -> LearnerInputs:
        """What the context would say of them; it forgets them again, and no label enters it, since all are held out."""
        count = len(records)
        self._context.load_state(self._state)
        nothing = Labels(binary=np.zeros(count), classes=np.zeros(count, dtype=np.int64))
        inputs = self._context.observe(records, nothing, np.ones(count, dtype=np.bool_))
        return replace(inputs, held_out=None)


def _joined(parts: Sequence[LearnerInputs]) -> LearnerInputs:
    first = parts[0]
    classes = [p.class_probabilities for p in parts if p.class_probabilities is not None]
    return replace(
        first,
        user_ids=[i for p in parts for i in p.user_ids],
        item_ids=[i for p in parts for i in p.item_ids],
        features=np.concatenate([p.features for p in parts]),
        users=_joined_side([p.users for p in parts]),
        items=_joined_side([p.items for p in parts]),
        class_probabilities=np.concatenate(classes) if classes else None,
    )


def _joined_side(parts: Sequence[SideContext]) -> SideContext:
    return SideContext(
        count=np.concatenate([p.count for p in parts]),
        previous_weights=np.concatenate([p.previous_weights for p in parts]),
        previous_loss=np.concatenate([p.previous_loss for p in parts]),
        fading_loss=np.concatenate([p.fading_loss for p in parts]),
    )
