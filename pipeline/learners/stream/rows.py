"""One side's rows of the stream learner: what it adds to the records of users and items in the row store.

A record's parts behind the context's: the row [D embedding | bias | N block variances | bias variance], which the compiled kernels read
and write where it lies; which blocks the id holds (`autoemb_pipeline.kernels`: ABSENT, HELD); and under a memory budget [N | 1] what each
block was worth to the id when last seen, and the mini-batch of that. Of a block that an id does not hold, the store keeps nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from autoemb_pipeline.kernels import ABSENT
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.rows import Lent, RecordSpec, Rows, TableSpec, hashed_uniform

ROW, HOLDS, WORTH = 1, 2, 3  # positions of the parts in a record; the context's is 0
BIAS_COLUMNS = 2
BOOKKEEPING_COLUMNS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SidePlan:
    """What one side's rows are, before any store exists.

    Attributes:
        name: of the record table.
        blocks: of a row.
        std, variance: of a new row's means, and their uncertainty.
        bias_variance: of a new id's bias.
        seed: of new means.
        dtype: as stored and lent.
        budgeted: rows keep bookkeeping for `autoemb_pipeline.learners.stream.budget`.
    """

    name: str
    blocks: Blocks
    std: float
    variance: float
    bias_variance: float
    seed: int
    dtype: Literal["f4", "f8"]
    budgeted: bool = False

    @property
    def spaces(self) -> int:
        """N."""
        return len(self.blocks.dims)

    def columns(self, block: int) -> tuple[int, ...]:
        """Columns of the row that are a block's own: its numbers and its variance."""
        own = self.blocks.bounds(block)
        return (*range(own.start, own.stop), self.blocks.dims[-1] + 1 + block)

    def row_bytes(self, block: int) -> int:
        """Bytes that a block costs, bias and bookkeeping included."""
        numbers = int(self.blocks.sizes[block]) + 1 + (BIAS_COLUMNS if block == 0 else 0) + (BOOKKEEPING_COLUMNS if self.budgeted else 0)
        return numbers * (4 if self.dtype == "f4" else 8)

    def spec(self) -> RecordSpec:
        """The parts behind the context's."""
        parts = [
            TableSpec(name="row", width=self.blocks.dims[-1] + self.spaces + 2, dtype=self.dtype, initial=partial(new_rows, plan=self)),
            TableSpec(name="held", width=self.spaces, dtype="i1"),
        ]
        if self.budgeted:
            parts.append(TableSpec(name="worth", width=self.spaces + 1))
        blocks = tuple(self.columns(block) for block in range(self.spaces))
        return RecordSpec(name=self.name, parts=tuple(parts), held=1, optional=0, blocks=blocks)


def new_rows(ids: Sequence[str], *, plan: SidePlan) -> Rows:
    """[n, D + N + 2] rows of ids that have learnt nothing."""
    width = plan.blocks.dims[-1]
    rows = np.zeros((len(ids), width + plan.spaces + 2), dtype=np.float32 if plan.dtype == "f4" else np.float64)
    for block, size in enumerate(plan.blocks.sizes.astype(int).tolist()):
        table = f"embedding.{plan.name}.{block + 1}"
        rows[:, plan.blocks.bounds(block)] = hashed_uniform(ids, seed=plan.seed, table=table, width=size, std=plan.std)
    rows[:, width + 1 : -1], rows[:, -1] = plan.variance, plan.bias_variance
    return rows


def take(plan: SidePlan, lent: Lent, block: int) -> None:
    """Takes a block from ids whose records are lent; their numbers are new ones again."""
    columns = np.array(plan.columns(block))
    lent.slabs[ROW][lent.slots[:, None], columns] = new_rows(lent.ids, plan=plan)[:, columns]
    lent.slabs[HOLDS][lent.slots, block] = ABSENT
