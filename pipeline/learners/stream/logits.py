"""Free logits per id (DARTS) as a gate of the stream learner: rows of their own tables, with their own optimiser.

Shape legend: B new interactions, n distinct ids of a side, N spaces and blocks; 2 sides, users first.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.logits import softmax_rows, softmax_slopes
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.packing import read
from autoemb_pipeline.learners.search.config import LOGIT_TABLES
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.gates import SLOTS, Numbers, descend
from autoemb_pipeline.open_batch import OpenBatch
from autoemb_pipeline.records import FloatArray
from autoemb_pipeline.rows import RowStore, TableSpec


def logit_tables(config: StreamConfig) -> tuple[TableSpec, ...]:
    """A row: [N logits | state of their optimiser], zeros for a new id."""
    width = len(config.dims) * (1 + SLOTS[config.logit_optimiser])
    return tuple(TableSpec(name=name, width=width, dtype=config.row_dtype) for name in LOGIT_TABLES)


class LogitGate:
    """Soft selection by an id's own logits.

    Args:
        config: their optimiser and rate.
        store: holds `logit_tables`.
        blocks: of the rows.
    """

    def __init__(self, config: StreamConfig, store: RowStore, blocks: Blocks) -> None:
        self._store, self._blocks, self._spaces = store, blocks, len(config.dims)
        self._optimiser, self._rate = config.logit_optimiser, config.logit_rate
        self._steps = 0
        self._rows: list[tuple[tuple[str, ...], NDArray[np.int64], Numbers]] = []
        self.weights: Numbers | None = None

    def open(self, opened: OpenBatch) -> FloatArray:
        """The uses that the logits' softmax gives."""
        self._rows, weights = [], []
        for field, table in enumerate(LOGIT_TABLES):
            ids = tuple(opened.ids[field][: opened.new[field]])
            local = opened.interactions.local[field, opened.carried :].copy()
            rows = np.array(self._store.gather(table, ids))
            own = rows[:, : self._spaces].copy()
            softmax_rows(own)
            self._rows.append((ids, local, rows))
            weights.append(own[local])
        self.weights = np.stack(weights)
        return np.stack([self._blocks.use_of(side.astype(np.float64)) for side in self.weights])

    def learn(self, slopes: Numbers) -> None:
        """One step of every id's logits."""
        if self.weights is None or not self._rows:
            raise RuntimeError("learn() without open()")
        self._steps += 1
        n = self._spaces
        for table, weights, side, (ids, local, rows) in zip(LOGIT_TABLES, self.weights, slopes, self._rows, strict=True):
            error = np.empty_like(weights)
            softmax_slopes(weights, np.ascontiguousarray(side, dtype=weights.dtype), error)
            gradient = np.zeros((len(ids), n), dtype=weights.dtype)
            np.add.at(gradient, local, error)
            parts = rows.reshape(len(ids), -1, n).swapaxes(0, 1).reshape(-1, len(ids) * n)  # logits, then each slot
            descend(self._optimiser, self._rate, self._steps, parts[0], parts[1:], gradient.ravel())
            self._store.scatter(table, ids, parts.reshape(-1, len(ids), n).swapaxes(0, 1).reshape(len(ids), -1))
        self._rows = []

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The step counter; the logits are rows."""
        return {"logits/steps": np.array(self._steps, dtype=np.int64)}

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        self._rows, self.weights = [], None
        self._steps = int(read(state, "logits/steps"))
