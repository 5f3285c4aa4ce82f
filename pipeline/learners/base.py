"""The interface every method implements."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from autoemb_pipeline.open_batch import OpenBatch
from autoemb_pipeline.records import FloatArray, Labels, LearnerInputs, Predictions
from autoemb_pipeline.rows import Lent, TableSpec

Arrays = Mapping[str, NDArray[Any]]
"""Name in a checkpoint -> numbers."""


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

    def forget(self, field: int, lent: Lent) -> None:
        """The ids' records are about to be removed, with their rows in every table of their side. field: 0 for users, 1 for items."""
        ...

    def state_dict(self) -> Arrays:
        """Everything but rows: dense parameters, optimiser state, RNG and reservoirs, as arrays (copies)."""
        ...

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` returned: the learner then goes on to the same bits."""
        ...


class EventLearner(Protocol):
    """A learner whose rows learn inside the mini-batch, event by event: `run`, `update`, and when the records are kept, `end`.

    No prediction is given a label that the context mode forbids: `OpenBatch.operations` orders what is predicted and learnt, by event times
    alone, and compiled code performs it, reading a label when its operation comes.
    """

    def prepare(self, opened: OpenBatch) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Decides what does not depend on labels.

        Returns:
            For each side further ids whose records `run` needs.
        """
        ...

    def run(self, opened: OpenBatch) -> tuple[LearnerInputs, Predictions]:
        """Predicts the new interactions and learns rows and context in the order of the operations; the mini-batch stays open.

        Returns:
            The inputs with their features, and every prediction as it was made.
        """
        ...

    def update(self) -> None:
        """Learns what is learnt once per mini-batch, from the labels of the new interactions."""
        ...

    def end(self) -> None:
        """Work between mini-batches, when the context has kept the records."""
        ...

    def forget(self, field: int, lent: Lent) -> None:
        """As of `Learner`."""
        ...

    def report(self) -> Mapping[str, float | None]:
        """Fields of the metrics topic that only this learner knows."""
        ...

    def state_dict(self) -> Arrays:
        """As of `Learner`."""
        ...

    def load_state_dict(self, state: Arrays) -> None:
        """As of `Learner`."""
        ...


__all__ = ["Arrays", "EventLearner", "Learner", "TableSpec"]
