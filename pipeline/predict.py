"""Predictions from a checkpoint: the run's own context and learner, as they stood after its step, over rows that nobody changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from autoemb_pipeline.checkpoint.contents import LoadedCheckpoint
from autoemb_pipeline.checkpoint.identity import restore_threads
from autoemb_pipeline.checkpoint.reading import OpenCheckpoint
from autoemb_pipeline.config import trainer_of
from autoemb_pipeline.learners.factory import resolve_device
from autoemb_pipeline.method import Method
from autoemb_pipeline.records import FloatArray, Interaction, LearnerInputs, Predictions
from autoemb_pipeline.rows import AnySpec
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


def tables_of(loaded: LoadedCheckpoint) -> Sequence[AnySpec]:
    """The tables of a checkpoint, with the initial rows of new ids: for `open_newest`."""
    return trainer_tables(checkpoint_trainer(loaded))


def checkpoint_trainer(loaded: LoadedCheckpoint, *, device: str = "cpu") -> TrainerConfig:
    """The configuration that a checkpoint's run was trained with."""
    return trainer_of(loaded.payload["configuration"], device=device)


class Predictor:
    """Predicts pairs as the run would at its next step.

    Sets torch's threads, where the learner uses it, to the run's own, since their number decides the last bits of sums. New ids get a new
    id's context and rows.

    Args:
        opened: with rows opened by `tables_of`.
        device: of the arithmetic.

    Raises:
        ConfigurationError: the learner does not compute there.
    """

    def __init__(self, opened: OpenCheckpoint, *, device: str = "cpu") -> None:
        loaded = opened.loaded
        self.config = checkpoint_trainer(loaded, device=device)
        resolve_device(device, uses_torch=self.config.learner.uses_torch)
        self.step = loaded.step
        frontier = loaded.payload["position"]["frontier"]
        self._now: int = 0 if frontier is None else frontier[0]
        self._state: dict[str, Any] = loaded.payload["trainer"]["context"]
        restore_threads(self.config.learner, loaded.payload["environment"])
        self._method = Method(self.config.context, self.config.learner, opened.rows)
        prefix = "learner."
        self._tensors = {n.removeprefix(prefix): t for n, t in loaded.tensors.items() if n.startswith(prefix)}
        self._method.restore(self._tensors, self._state)

    def predict(self, pairs: Sequence[Pair], *, consecutive: bool = False) -> Foreseen:
        """Predictions of B pairs, at least one.

        Args:
            pairs: what to predict.
            consecutive: the pairs are the run's next mini-batch: counts and times of earlier ones count for later ones, as in training.
                False: each is a question of its own, as if it came next.
        """
        records = [Interaction(p.user_id, p.item_id, 0.0, self._now if p.timestamp is None else p.timestamp) for p in pairs]
        parts = [self._foresee(part) for part in ([records] if consecutive else [[record] for record in records])]
        predictions, inputs = [p for _, p in parts], [i for i, _ in parts]
        return Foreseen(
            predictions=Predictions(
                probabilities=np.concatenate([p.probabilities for p in predictions]),
                user_weights=_stacked([p.user_weights for p in predictions]),
                item_weights=_stacked([p.item_weights for p in predictions]),
            ),
            user_counts=np.concatenate([i.users.count for i in inputs]),
            item_counts=np.concatenate([i.items.count for i in inputs]),
        )

    def _foresee(self, records: Sequence[Interaction]) -> tuple[LearnerInputs, Predictions]:
        """Predictions of a mini-batch that is forgotten again, and of which no label is learnt, since all are held out."""
        self._method.context.load_state(self._state)
        return self._method.foresee(records)


def _stacked(parts: Sequence[FloatArray | None]) -> FloatArray | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None
