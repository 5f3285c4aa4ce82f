"""Validation through an id's next occurrence (`trace`), however far: the second-order term of the hypergradient, kept per row.

When an id was last learnt, its block j changed by Δe_j, in proportion to its use A_j of that moment (steps' preconditioners taken as
constants). When it comes again its loss L, of a prediction made before its label was learnt, tells whether that change helped:
∂L/∂A_j = ⟨∂L/∂e_j, Δe_j⟩ / A_j. So the controllers' loss gains Σ_j stopgrad(⟨∂L/∂e_j, Δe_j⟩ / max(A_j, ε)) · A_j(Θ; x), x being the
controller's input of that moment.

The kernel is called once per operation, to see every row before and after it: a slow way, for research.

Shape legend: E interactions of the open mini-batch, n rows, N blocks, D numbers of a row, K controller inputs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels import LEARN, Interactions, Model, Operations, Predicted, State, run
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.gates import ControllerGate
from autoemb_pipeline.open_batch import OpenBatch
from autoemb_pipeline.records import FloatArray
from autoemb_pipeline.rows import RowStore, TableSpec

SMALLEST_USE = 1e-3
Positions = NDArray[np.int64] | Sequence[int]
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
        gate: the controllers that learn from it.
    """

    def __init__(self, store: RowStore, blocks: Blocks, inputs: int, gate: ControllerGate) -> None:
        self._store, self._blocks, self._inputs, self._gate = store, blocks, inputs, gate
        self._step = 0
        self._ids: tuple[Sequence[str], Sequence[str]] = ((), ())
        self._rows: list[FloatArray] = []
        self._waiting_inputs = np.zeros((2, 0, inputs))
        self._seen = np.zeros((2, 0, inputs))
        self.coefficients = np.zeros((2, 0, len(blocks.dims)))
        self.inputs_then = np.zeros((2, 0, inputs))
        self._opened: OpenBatch | None = None

    def begin(self, ids: tuple[Sequence[str], Sequence[str]], seen: FloatArray) -> None:
        """Opens a mini-batch. ids: of both sides, distinct; seen: [2, E, K] the controllers' inputs."""
        self._ids, self._seen = ids, seen
        self._rows = [self._store.gather(t, i).astype(np.float64) for t, i in zip(TABLES, ids, strict=True)]
        self.coefficients = np.zeros((2, seen.shape[1], len(self._blocks.dims)))
        self.inputs_then = np.zeros_like(seen)

    def run(self, opened: OpenBatch, interactions: Interactions, state: State, model: Model, out: Predicted) -> None:
        """The operations of a mini-batch one by one; validates and remembers what each does to the rows."""
        self._opened = opened
        self.begin(opened.ids, np.concatenate([self._waiting_inputs[:, opened.due], np.stack(self._gate.inputs)], axis=1))
        for k, (kind, i) in enumerate(zip(opened.operations.kinds.tolist(), opened.operations.events.tolist(), strict=True)):
            one = Operations(opened.operations.kinds[k : k + 1], opened.operations.events[k : k + 1])
            if kind != LEARN:
                run(one, interactions, state, model, out)
                continue
            place = interactions.local[:, i]
            before = self._means(opened, state, place)
            self.validate(i, place, *self._slope(i, interactions, state, model, out, before), before)
            run(one, interactions, state, model, out)
            self.remember(i, place, self._means(opened, state, place) - before, interactions.uses[:, i])

    def _means(self, opened: OpenBatch, state: State, place: Positions) -> FloatArray:
        """[2, D] both embeddings as they stand."""
        rows = [state.rows[field][opened.lent[field].slots[place[field]]] for field in range(2)]
        return np.stack(rows)[:, : self._blocks.dims[-1]].astype(np.float64)

    def _slope(
        self, i: int, interactions: Interactions, state: State, model: Model, out: Predicted, means: FloatArray
    ) -> tuple[FloatArray, float]:
        """[N] γ·A·B of the blocks that both ids hold, and ∂L/∂s of the score as the rows stand."""
        assert self._opened is not None  # noqa: S101
        place = [self._opened.lent[field].slots[interactions.local[field, i]] for field in range(2)]
        both = (state.held[0][place[0]] != 0) & (state.held[1][place[1]] != 0)
        used = interactions.uses[0, i] * interactions.uses[1, i] * both
        levels, of_products = model.levels, model.weights[:, -len(used) :]
        biases = sum(float(state.rows[field][place[field], self._blocks.dims[-1]]) for field in range(2))
        logits = out.base[i] + biases * levels + of_products @ (used * self._blocks.sums(means[0] * means[1]))
        if len(levels) == 1:
            error = 1.0 / (1.0 + np.exp(-logits[0])) - interactions.binary[i]
        else:
            shifted = np.exp(logits - logits.max())
            error = shifted @ levels / shifted.sum() - levels[interactions.classes[i]]
        return used * (levels @ of_products) / (levels @ levels), float(error)

    def validate(self, i: int, place: Positions, gates: FloatArray, error: float, means: FloatArray) -> None:
        """Asks an interaction what its ids' last changes did to its loss.

        Args:
            i: its position in the mini-batch.
            at: both ids' positions among the distinct ones.
            gates: [N] what each block's product is multiplied by.
            error: ∂L/∂s.
            means: [2, D] both embeddings before its label is learnt.
        """
        width, spaces = self._blocks.dims[-1], len(self._blocks.dims)
        for side in range(2):
            then = self._rows[side][place[side]]
            if then[-1] > 0:
                along = error * gates * self._blocks.sums(means[1 - side] * then[:width])
                self.coefficients[side, i] = along / np.maximum(then[width : width + spaces], SMALLEST_USE)
            self.inputs_then[side, i] = then[width + spaces : -1]

    def remember(self, i: int, place: Positions, changes: FloatArray, uses: FloatArray) -> None:
        """Keeps the changes [2, D] that learning an interaction made, with the uses [2, N] of that moment."""
        for side in range(2):
            self._rows[side][place[side]] = np.concatenate([changes[side], uses[side], self._seen[side, i], [self._step + 1.0]])

    def learn(self, slopes: FloatArray | None, gate: ControllerGate) -> None:
        """One step of the gate with both terms; scatters the changes kept. slopes: [2, B, N] ∂L/∂α of the first-order term."""
        if slopes is None or self._opened is None:
            raise RuntimeError("learn() without run()")
        self._step += 1
        again = [(self.inputs_then[side], self._blocks.weights_gradient(self.coefficients[side])) for side in range(2)]
        gate.learn(slopes, again)
        for table, ids, rows in zip(TABLES, self._ids, self._rows, strict=True):
            self._store.scatter(table, ids, rows.astype(np.float32))
        rest = np.setdiff1d(np.arange(self._waiting_inputs.shape[1]), self._opened.due)
        self._waiting_inputs = np.concatenate([self._waiting_inputs[:, rest], self._seen[:, self._opened.waiting]], axis=1)
        self._opened = None

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The step, and the controllers' inputs of interactions that wait for their labels."""
        return {
            "trace/step": np.array(self._step, dtype=np.int64),
            "trace/waiting": self._waiting_inputs.copy(),
        }

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        self._step = int(state["trace/step"])
        self._waiting_inputs = state["trace/waiting"].copy()
