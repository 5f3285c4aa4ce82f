"""The interface every method implements."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from autoemb_pipeline.records import FloatArray, Labels, LearnerInputs, Predictions
from autoemb_pipeline.rows import TableSpec


class Learner(Protocol):
    """One method under prequential evaluation: for every mini-batch `predict`, then `update`, in turns.

    A learner reaches per-id rows only through its RowStore and knows nothing of Kafka, RocksDB or the labels it predicts.
    """

    def predict(self, inputs: LearnerInputs) -> Predictions:
        """Predictions with the current parameters. Changes no parameter and no row."""
        ...

    def update(self, labels: Labels) -> FloatArray:
        """Learns from the labels of the batch last predicted; scatters the changed rows.

        Returns:
            [B] loss of each prediction made by the preceding `predict` (squared error or cross-entropy).
        """
        ...

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """Everything but rows: dense parameters, optimiser state, RNG and reservoirs, as tensors (copies, on the CPU)."""
        ...

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores what `state_dict` returned: the learner then goes on to the same bits."""
        ...


@runtime_checkable
class MicroBatchLearner(Learner, Protocol):
    """A learner whose rows learn inside the mini-batch: `begin`, then per part `predict_part` and `learn_part`, then `update`.

    Who calls decides the parts (`autoemb_pipeline.learners.stream.micro_batches`) and gives a part's labels only after its predictions.
    `predict` followed by `update` is the same with the whole mini-batch as one part.
    """

    @property
    def micro_batch(self) -> int:
        """Interactions of a part, at least; 1: rows are updated after each."""
        ...

    def begin(self, inputs: LearnerInputs) -> None:
        """Opens a mini-batch. Changes no parameter and no stored row."""
        ...

    def predict_part(self, rows: NDArray[np.int64]) -> FloatArray:
        """Predicts the interactions at the positions `rows`: [m] or [m, C] probabilities."""
        ...

    def learn_part(self, rows: NDArray[np.int64], labels: Labels) -> None:
        """Learns interactions that were predicted. labels: of these m, in the order of `rows`."""
        ...

    def predictions(self) -> Predictions:
        """Every prediction of the open mini-batch, as it was made."""
        ...


__all__ = ["Learner", "MicroBatchLearner", "TableSpec"]
