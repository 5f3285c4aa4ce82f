"""The interface every method implements."""

from collections.abc import Mapping
from typing import Protocol

import torch

from pipeline.records import FloatArray, Labels, LearnerInputs, Predictions
from pipeline.rows import TableSpec


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


__all__ = ["Learner", "TableSpec"]
