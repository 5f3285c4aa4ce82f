"""Embedding tables behind the row store: gather a mini-batch's distinct rows, step them, scatter them back.

A row is ``[weights | optimiser state]``; nothing here holds more rows than a mini-batch names (docs/architecture.md, invariant 5).

Shape legend: n distinct ids, D weights per row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from autoemb_pipeline.learners.common.optimisers import Optimiser, State, stepped
from autoemb_pipeline.learners.common.transfer import Arriving, to_device, to_host
from autoemb_pipeline.rows import Rows, RowStore, TableSpec, hashed_uniform


@dataclass(frozen=True, kw_only=True, slots=True)
class GatheredRows:
    """Rows of distinct ids at one moment.

    Attributes:
        ids: n distinct ids.
        values: [n, D] weights, a leaf that takes gradients.
        state: the optimiser's [n, D] tensors.
    """

    ids: tuple[str, ...]
    values: Tensor
    state: State


def initial_rows(ids: Sequence[str], *, seed: int, table: str, width: int, std: float, state: int, fill: float) -> Rows:
    """Rows of ids never trained, [n, width + state]: hashed uniform weights (zeros where std is 0), then the optimiser's numbers."""
    rows = np.full((len(ids), width + state), fill, dtype=np.float32)
    rows[:, :width] = hashed_uniform(ids, seed=seed, table=table, width=width, std=std)
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class TablePlan:
    """What one table is, before any store exists.

    Attributes:
        name: the table's.
        width: D.
        std: standard deviation of new weights.
        optimiser: steps the rows; decides how wide a stored row is.
        seed: of new weights.
        dtype: of rows and arithmetic.
    """

    name: str
    width: int
    std: float
    optimiser: Optimiser
    seed: int
    dtype: torch.dtype

    def spec(self) -> TableSpec:
        """The row store's table: width D · (1 + optimiser slots)."""
        state = self.width * self.optimiser.slots
        initial = partial(
            initial_rows, seed=self.seed, table=self.name, width=self.width, std=self.std, state=state, fill=self.optimiser.initial
        )
        return TableSpec(name=self.name, width=self.width + state, dtype="f4" if self.dtype == torch.float32 else "f8", initial=initial)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Late:
    """Rows that were stepped on the device and that the store has not yet.

    Attributes:
        ids: n distinct ids.
        rows: [n, width] on the device, as stored.
        arriving: the same on their way to the host.
    """

    ids: tuple[str, ...]
    rows: Tensor
    arriving: Arriving

    def over(self, stored: Tensor, ids: tuple[str, ...]) -> Tensor:
        """The store's rows of `ids`, with those of this step in the place of their older ones; computed on the device."""
        places = {identifier: n for n, identifier in enumerate(self.ids)}
        pairs = [(here, places[identifier]) for here, identifier in enumerate(ids) if identifier in places]
        if not pairs:
            return stored
        index = to_device(np.array(pairs, dtype=np.int64).T.copy(), device=stored.device)
        return stored.index_copy(0, index[0], self.rows.index_select(0, index[1]))


class EmbeddingTable:
    """One table seen through its store.

    Args:
        plan: what the table is.
        store: holds its rows; must have been made with `plan.spec()`.
        device: of the arithmetic.
        deferred: whether stepped rows reach the store later, so that no step waits for their copy: with the next `apply`, before which
            somebody waited for predictions, or with `settle`. Until then `gather` takes them from the device. None: on CUDA.
    """

    def __init__(self, plan: TablePlan, store: RowStore, device: torch.device, *, deferred: bool | None = None) -> None:
        self.plan = plan
        self._store = store
        self._device = device
        self._deferred = device.type == "cuda" if deferred is None else deferred
        self._late: _Late | None = None

    def gather(self, ids: tuple[str, ...]) -> GatheredRows:
        """Rows of distinct ids, copied to the device."""
        stored = to_device(np.ascontiguousarray(self._store.gather(self.plan.name, ids)), device=self._device, dtype=self.plan.dtype)
        if self._late is not None:
            stored = self._late.over(stored, ids)
        parts = torch.split(stored, self.plan.width, dim=1)
        return GatheredRows(ids=ids, values=parts[0].clone().requires_grad_(), state=tuple(parts[1:]))

    def apply(self, rows: GatheredRows, gradient: Tensor, step: int) -> None:
        """Steps the rows by their optimiser and scatters them. gradient: [n, D]; step: of the whole table."""
        self.settle()
        (values,), (state,) = stepped(self.plan.optimiser, [rows.values], [gradient], [rows.state], step)
        stored = torch.cat([values, *state], dim=1)
        self._late = _Late(ids=rows.ids, rows=stored, arriving=to_host(stored))
        if not self._deferred:
            self.settle()

    def settle(self) -> None:
        """The store has every row after it. Waits for rows that are still on their way."""
        late, self._late = self._late, None
        if late is not None:
            self._store.scatter(self.plan.name, late.ids, late.arriving.wait())
