"""One side's rows of the stream learner in the row store: a table per block, so that a space's rows exist only where they are used.

A row of block j is [d_j - d_(j-1) means | variance]; block 1's row goes on with the id's bias and its variance. Under a memory budget every
row ends with what it was worth to its id when last seen, and the mini-batch of that (0: the id does not hold the block).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.kalman import Beliefs
from autoemb_pipeline.records import FloatArray
from autoemb_pipeline.rows import Rows, RowStore, TableSpec, hashed_uniform

BIAS_COLUMNS = 2
BOOKKEEPING_COLUMNS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SidePlan:
    """What one side's tables are, before any store exists.

    Attributes:
        name: prefix of the tables' names.
        blocks: of a row; without any (method `context-only`) there are no tables.
        std, variance: of a new row's means, and their uncertainty.
        bias_variance: of a new id's bias.
        seed: of new means.
        dtype: as stored.
        budgeted: rows keep bookkeeping for `autoemb_pipeline.learners.stream.budget`.
    """

    name: str
    blocks: Blocks
    std: float
    variance: float
    bias_variance: float
    seed: int
    dtype: str
    budgeted: bool = False

    def table(self, block: int) -> str:
        """Name of a block's table, counted from 1."""
        return f"{self.name}.{block + 1}"

    def width(self, block: int) -> int:
        """Numbers of a block's row."""
        return int(self.blocks.sizes[block]) + 1 + (BIAS_COLUMNS if block == 0 else 0) + (BOOKKEEPING_COLUMNS if self.budgeted else 0)

    def row_bytes(self, block: int) -> int:
        """Bytes of a block's row as stored, without its id."""
        return self.width(block) * (4 if self.dtype == "f4" else 8)

    def specs(self) -> tuple[TableSpec, ...]:
        """The row store's tables."""
        return tuple(
            TableSpec(
                name=self.table(j),
                width=self.width(j),
                dtype="f4" if self.dtype == "f4" else "f8",
                initial=partial(_initial_rows, plan=self, block=j),
            )
            for j in range(len(self.blocks.dims))
        )


def _initial_rows(ids: Sequence[str], *, plan: SidePlan, block: int) -> Rows:
    size = int(plan.blocks.sizes[block])
    rows = np.zeros((len(ids), plan.width(block)), dtype=np.float64)
    rows[:, :size] = hashed_uniform(ids, seed=plan.seed, table=plan.table(block), width=size, std=plan.std)
    rows[:, size] = plan.variance
    if block == 0:
        rows[:, size + 2] = plan.bias_variance
    return rows.astype(np.float32 if plan.dtype == "f4" else np.float64)


class SideRows:
    """Gathers a mini-batch's beliefs and scatters them back.

    Args:
        plan: what the tables are.
        store: made with `plan.specs()`.
    """

    def __init__(self, plan: SidePlan, store: RowStore) -> None:
        self.plan = plan
        self._store = store

    def gather(self, ids: Sequence[str]) -> Beliefs:
        """Beliefs about distinct ids, in float64."""
        blocks, count = self.plan.blocks, len(ids)
        means, variances = np.zeros((count, blocks.dims[-1])), np.zeros((count, len(blocks.dims)))
        bias, bias_variance = np.zeros(count), np.zeros(count)
        held = np.ones((count, len(blocks.dims)), dtype=np.bool_)
        for j, size in enumerate(blocks.sizes.astype(int).tolist()):
            rows: FloatArray = self._store.gather(self.plan.table(j), ids).astype(np.float64)
            means[:, blocks.bounds(j)], variances[:, j] = rows[:, :size], rows[:, size]
            if j == 0:
                bias, bias_variance = rows[:, size + 1].copy(), rows[:, size + 2].copy()
            if self.plan.budgeted:
                held[:, j] = rows[:, -1] > 0
        largest = np.full(len(blocks.dims), self.plan.variance)
        return Beliefs(means=means, variances=variances, bias=bias, bias_variance=bias_variance, largest=largest, held=held)

    def scatter(self, ids: Sequence[str], beliefs: Beliefs, worth: FloatArray | None = None, step: int = 0) -> None:
        """Stores the beliefs about the same ids, of the blocks they hold. worth: [n, N], with `step` the bookkeeping under a budget."""
        blocks = self.plan.blocks
        for j in range(len(blocks.dims)):
            parts = [beliefs.means[:, blocks.bounds(j)], beliefs.variances[:, j : j + 1]]
            if j == 0:
                parts += [beliefs.bias[:, None], beliefs.bias_variance[:, None]]
            if worth is not None:
                parts += [worth[:, j : j + 1], np.full((len(ids), 1), float(step))]
            rows = np.concatenate(parts, axis=1).astype(np.float32 if self.plan.dtype == "f4" else np.float64)
            kept = np.flatnonzero(beliefs.held[:, j]).tolist()
            self._store.scatter(self.plan.table(j), [ids[k] for k in kept], rows[kept])
