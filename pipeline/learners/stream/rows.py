"""One side's rows of the stream learner: what it adds to the records of users and items in the row store.

A record's parts behind the context's: the row [D embedding | bias | N block variances | bias variance], which the compiled kernels read
and write where it lies; which blocks the id holds (`autoemb_pipeline.kernels`: ABSENT, HELD); and where dimensions are searched, what the
id remembers (`memory`). Of a block that an id does not hold, the store keeps nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels import ABSENT
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.rows import Lent, RecordSpec, Rows, TableSpec, hashed_uniform

CONTEXT, ROW, HOLDS, REMEMBERED = range(4)  # positions of the parts in a record
REMEMBERED_BYTES = 160
FIXED_WIDTH = 146
"""Numbers of the paper's fixed-size embedding, with which bytes are compared."""


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
        context_bytes: of an id's context row.
        precision: of the embedding's numbers as stored.
        searched: ids remember interactions until they have all blocks.
    """

    name: str
    blocks: Blocks
    std: float
    variance: float
    bias_variance: float
    seed: int
    dtype: Literal["f4", "f8"]
    context_bytes: int
    precision: Literal["float32", "int16"] = "float32"
    searched: bool = False

    @property
    def spaces(self) -> int:
        """N."""
        return len(self.blocks.dims)

    def columns(self, block: int) -> tuple[int, ...]:
        """Columns of the row that are a block's own: its numbers and its variance."""
        own = self.blocks.bounds(block)
        return (*range(own.start, own.stop), self.blocks.dims[-1] + 1 + block)

    def spec(self) -> RecordSpec:
        """The parts behind the context's."""
        stored: Literal["whole", "int16"] = "int16" if self.precision == "int16" else "whole"
        width = self.blocks.dims[-1] + self.spaces + 2
        parts = [
            TableSpec(name="row", width=width, dtype=self.dtype, initial=partial(new_rows, plan=self), stored=stored),
            TableSpec(name="held", width=self.spaces, dtype="i1"),
        ]
        if self.searched:
            parts.append(TableSpec(name="remembered", width=REMEMBERED_BYTES, dtype="i1", stored="sized"))
        return RecordSpec(
            name=self.name,
            parts=tuple(parts),
            held=1,
            optional=0,
            blocks=tuple(self.columns(block) for block in range(self.spaces)),
            numbers=tuple((own.start, own.stop) for own in map(self.blocks.bounds, range(self.spaces))),
        )


def new_rows(ids: Sequence[str], *, plan: SidePlan) -> Rows:
    """[n, D + N + 2] rows of ids that have learnt nothing."""
    width = plan.blocks.dims[-1]
    rows = np.zeros((len(ids), width + plan.spaces + 2), dtype=np.float32 if plan.dtype == "f4" else np.float64)
    for block, size in enumerate(plan.blocks.sizes.astype(int).tolist()):
        table = f"embedding.{plan.name}.{block + 1}"
        rows[:, plan.blocks.bounds(block)] = hashed_uniform(ids, seed=plan.seed, table=table, width=size, std=plan.std)
    rows[:, width + 1 : -1], rows[:, -1] = plan.variance, plan.bias_variance
    return rows


def take(plan: SidePlan, lent: Lent, levels: NDArray[np.int64]) -> None:
    """Takes blocks from ids whose records are lent, down to these levels [n]; their numbers are new ones again."""
    fresh = new_rows(lent.ids, plan=plan)
    for block in range(plan.spaces):
        fewer = np.flatnonzero(levels <= block)
        columns, slots = np.array(plan.columns(block)), lent.slots[fewer]
        lent.slabs[ROW][slots[:, None], columns] = fresh[fewer[:, None], columns]
        lent.slabs[HOLDS][slots, block] = ABSENT
