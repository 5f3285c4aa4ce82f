"""Validation through an id's next occurrence (`trace`), however far: the second-order term of the hypergradient, kept per row.

When an id was last learnt, its block j changed by Δe_j, in proportion to its use A_j of that moment (steps' preconditioners taken as
constants). When it comes again its loss L, of a prediction made before its label was learnt, tells whether that change helped:
∂L/∂A_j = ⟨∂L/∂e_j, Δe_j⟩ / A_j. So the controllers' loss gains Σ_j stopgrad(⟨∂L/∂e_j, Δe_j⟩ / max(A_j, ε)) · A_j(Θ; x), x being the
controller's input of that moment.

Shape legend: m interactions of a part, B of the mini-batch, n rows, N blocks, D numbers of a row, K controller inputs.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.gates import Gate, SearchedGate, SideArrays
from autoemb_pipeline.learners.stream.kalman import Index
from autoemb_pipeline.records import FloatArray
from autoemb_pipeline.rows import RowStore, TableSpec

SMALLEST_USE = 1e-3
TABLES = ("trace.user", "trace.item")


def trace_tables(blocks: Blocks, inputs: int) -> tuple[TableSpec, ...]:
    """A row: [D change | N uses | K inputs | mini-batch counted from 1, 0 where there was none]."""
    width = blocks.dims[-1] + len(blocks.dims) + inputs + 1
    return tuple(TableSpec(name=name, width=width) for name in TABLES)


class Trace:
    """Last changes of the rows, and what their next occurrences say of them.

    Args:
        store: made with `trace_tables`.
        blocks: of a row.
        inputs: K.
    """

    def __init__(self, store: RowStore, blocks: Blocks, inputs: int) -> None:
        self._store, self._blocks, self._inputs = store, blocks, inputs
        self._step = 0
        self._ids: tuple[Sequence[str], Sequence[str]] = ((), ())
        self._rows: list[FloatArray] = []
        self._coefficients: list[FloatArray] = []
        self._inputs_then: list[FloatArray] = []
        self.first_order = np.zeros(2)
        self.second_order = np.zeros(2)

    def begin(self, user_ids: Sequence[str], item_ids: Sequence[str], count: int) -> None:
        """Opens a mini-batch of `count` interactions."""
        self._ids = (user_ids, item_ids)
        self._rows = [self._store.gather(t, ids).astype(np.float64) for t, ids in zip(TABLES, self._ids, strict=True)]
        self._coefficients = [np.zeros((count, len(self._blocks.dims))) for _ in TABLES]
        self._inputs_then = [np.zeros((count, self._inputs)) for _ in TABLES]

    def validate(self, rows: Index, index: tuple[Index, Index], gates: FloatArray, error: FloatArray, means: SideArrays) -> None:
        """Asks each interaction what its ids' last changes did to its loss.

        Args:
            rows: [m] positions in the mini-batch.
            index: [m] of the users' and items' rows.
            gates: [m, N] what each block's product was multiplied by.
            error: [m] ∂L/∂s.
            means: [m, D] users' and items' embeddings at the prediction.
        """
        width, spaces = self._blocks.dims[-1], len(self._blocks.dims)
        for side, other in enumerate(reversed(means)):
            then = self._rows[side][index[side]]
            known = then[:, -1] > 0
            along = error[:, None] * gates * self._blocks.sums(other * then[:, :width])
            along /= np.maximum(then[:, width : width + spaces], SMALLEST_USE)
            self._coefficients[side][rows] = np.where(known[:, None], along, 0.0)
            self._inputs_then[side][rows] = then[:, width + spaces : -1]

    def remember(self, rows: Index, index: tuple[Index, Index], changes: SideArrays, gate: Gate) -> None:
        """Keeps the changes that learning these interactions made. changes: [m, D] per side, the whole part's for a row."""
        if not isinstance(gate, SearchedGate) or gate.batch is None:
            raise TypeError("trace needs a searched gate that was opened")
        inputs = (gate.batch.user_inputs, gate.batch.item_inputs)
        stamp = np.full((len(rows), 1), float(self._step + 1))
        for side in range(2):
            seen = inputs[side][torch.as_tensor(rows)].cpu().numpy().astype(np.float64)
            self._rows[side][index[side]] = np.concatenate([changes[side], gate.uses[side][rows], seen, stamp], axis=1)

    def learn(self, gradient: FloatArray, gate: Gate) -> None:
        """One step of the gate with both terms; scatters the changes kept. gradient: [B, N] ∂L/∂R of the first-order term."""
        if not isinstance(gate, SearchedGate):
            raise TypeError("trace needs a searched gate")
        self._step += 1
        weights = gate.weights_at(self._inputs_then[0], self._inputs_then[1])
        slopes = [self._blocks.weights_gradient(c) for c in self._coefficients]
        terms = [(w * torch.as_tensor(s, dtype=w.dtype, device=w.device)).sum() for w, s in zip(weights, slopes, strict=True)]
        for side, use in enumerate(reversed(gate.uses)):
            self.first_order[side] += np.square(gradient * use).sum()
            self.second_order[side] += np.square(self._coefficients[side]).sum()
        gate.learn(gradient, extra=torch.stack(terms).sum())
        for table, ids, rows in zip(TABLES, self._ids, self._rows, strict=True):
            self._store.scatter(table, ids, rows.astype(np.float32))

    @property
    def ratio(self) -> FloatArray:
        """[2] root mean square of the second-order term over that of the first, users and items; 0 before any."""
        return np.sqrt(np.divide(self.second_order, self.first_order, out=np.zeros(2), where=self.first_order > 0))

    def state_dict(self) -> dict[str, Tensor]:
        """The step and the sums behind `ratio`."""
        return {
            "trace/step": torch.tensor(self._step, dtype=torch.int64),
            "trace/orders": torch.from_numpy(np.stack([self.first_order, self.second_order])),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        self._step = int(state["trace/step"].item())
        self.first_order, self.second_order = (row.copy() for row in state["trace/orders"].numpy())
