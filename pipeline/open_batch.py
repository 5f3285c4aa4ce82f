"""A mini-batch as arrays: what the compiled kernels take, and what context and learner share of it.

Shape legend: B interactions, n distinct ids of a side; sides are users and items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.columns import Block, Distinct, distinct
from autoemb_pipeline.kernels import Interactions, Operations
from autoemb_pipeline.records import FloatArray, Interaction, Labels, LearnerInputs
from autoemb_pipeline.rows import Lent

Records = Block | Sequence[Interaction]
"""Interactions in merged order: in columns, or, where speed does not count, as objects."""

SIDES = ("user", "item")
"""The tables of what is kept of each user and item, in the order of every pair of sides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """B interactions in merged order.

    Attributes:
        ids: of both sides the distinct ids, in order of first occurrence.
        local: [2, B] position of each interaction's ids among these.
        times: [B] event time, ms.
        labels: [B] targets.
    """

    ids: tuple[tuple[str, ...], tuple[str, ...]]
    local: NDArray[np.int64]
    times: NDArray[np.int64]
    labels: Labels


def columns_of(records: Records, labels: Labels) -> Columns:
    """A mini-batch's arrays: the one place that reads its records for context and learner. One object per distinct id is made."""
    block = records if isinstance(records, Block) else Block.of(records)
    users, items = distinct(block.user_ids), distinct(block.item_ids)
    return Columns(
        ids=(_names(users), _names(items)),
        local=np.stack([users.inverse, items.inverse]),
        times=block.time,
        labels=labels,
    )


def _names(ids: Distinct) -> tuple[str, ...]:
    return tuple(ids.values.to_strings())


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenBatch:
    """A mini-batch whose ids' records are lent: what a learner that learns event by event works on.

    Interactions of earlier mini-batches whose labels may be known only now come first ("carried"); their ids that are in no new
    interaction come last. Labels are in it, since a later interaction may know those of earlier ones: the order of `operations`, a function
    of event times alone, says from when on.

    Attributes:
        interactions: carried ones and new ones; `uses` are the learner's.
        carried: how many are.
        operations: what to predict and to learn, in order.
        due: [carried] which of the interactions that waited for their labels are the carried ones; the others go on waiting.
        waiting: [w] positions among `interactions` of those whose labels may not be known yet.
        waits: of both sides the ids of all interactions that waited for their labels, carried or not.
        ids: of both sides, distinct; those of new interactions first.
        new: how many of these are in new interactions.
        lent: both sides' records: the context's row first, then what the learner keeps.
        totals: the run's own statistics (`autoemb_pipeline.kernels.blank_totals`).
        inputs: of the new interactions; features and class estimates are NaN until the kernel has written them.
    """

    interactions: Interactions
    carried: int
    operations: Operations
    due: NDArray[np.int64]
    waiting: NDArray[np.int64]
    waits: tuple[frozenset[str], frozenset[str]]
    ids: tuple[tuple[str, ...], tuple[str, ...]]
    new: tuple[int, int]
    lent: tuple[Lent, Lent]
    totals: FloatArray
    inputs: LearnerInputs

    @property
    def contexts(self) -> tuple[FloatArray, FloatArray]:
        """Both sides' context rows."""
        return self.lent[0].slabs[0], self.lent[1].slabs[0]

    @property
    def counts(self) -> FloatArray:
        """[2, B] interactions of each new interaction's ids before it."""
        return np.stack([self.inputs.users.count, self.inputs.items.count])
