"""Whether the labels are of one class: then every metric looks excellent, and nothing is learnt."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from autoemb_pipeline.records import RATING_CLASSES, FloatArray, Labels, Task

WARN_AFTER = 2_000  # labels; a stream sorted by rating, or a rare class, may begin with fewer of one class


class LabelBalance:
    """Counts the labels of a run, in both stages. A function of the stream, whatever the mini-batches; a few numbers of state.

    Args:
        task: `binary` warns where all labels are negative or all positive, `rating` where all are of one of the five classes.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._positives = 0
        self._classes = np.zeros(RATING_CLASSES, dtype=np.int64)
        self._lowest: float | None = None
        self._highest: float | None = None

    def add(self, ratings: FloatArray, labels: Labels) -> None:
        """ratings: [B] with B > 0, and the labels made of them."""
        self._positives += int(labels.binary.sum())
        self._classes += np.bincount(labels.classes, minlength=RATING_CLASSES)
        low, high = float(ratings.min()), float(ratings.max())
        self._lowest = low if self._lowest is None else min(self._lowest, low)
        self._highest = high if self._highest is None else max(self._highest, high)

    @property
    def warning(self) -> str | None:
        """`all-negative`, `all-positive` or `one-class`; None where another class was seen, or too little."""
        count = int(self._classes.sum())
        if count < WARN_AFTER:
            return None
        if self._task == "rating":
            return "one-class" if np.count_nonzero(self._classes) == 1 else None
        return {0: "all-negative", count: "all-positive"}.get(self._positives)

    def fields(self) -> dict[str, object]:
        """What the metrics topic says of the labels so far."""
        count = int(self._classes.sum())
        return {
            "positive_share": self._positives / count if count else None,
            "rating_min": self._lowest,
            "rating_max": self._highest,
            "label_warning": self.warning,
        }

    def state(self) -> dict[str, Any]:
        """JSON-able, for the checkpoint."""
        return {
            "positives": self._positives,
            "classes": self._classes.tolist(),
            "lowest": self._lowest,
            "highest": self._highest,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self._positives, self._classes = int(state["positives"]), np.array(state["classes"], dtype=np.int64)
        self._lowest, self._highest = state["lowest"], state["highest"]
