"""Random states and mini-batches for kernels, in float64."""

import numpy as np

from autoemb_pipeline.kernels import HELD, Interactions, Model, Predicted, State, blank_context, blank_totals

ENDS = np.array([2, 13, 40])
SLOTS, BATCH = 9, 40


def world(
    fields: int = 2, task: str = "binary", seed: int = 0, extra: int = 0, *, everything_held: bool = True
) -> tuple[Interactions, State, Model, Predicted]:
    """Few ids, so that each recurs. extra: dense columns behind the context's."""
    rng = np.random.default_rng(seed)
    pairs, spaces, classes = fields * (fields - 1) // 2, len(ENDS), 5 if task == "rating" else 0
    dense = (107 if task == "binary" else 16) + extra
    levels = np.linspace(-1, 1, 5) if classes else np.ones(1)
    inputs = dense + pairs * spaces
    slots = tuple(rng.choice(SLOTS, size=5, replace=False) for _ in range(fields))
    events = Interactions(
        local=rng.integers(0, 5, size=(fields, BATCH)),
        slots=slots,
        times=np.sort(rng.integers(1_000, 60_000, size=BATCH)) // 4 * 4,
        binary=rng.integers(0, 2, size=BATCH).astype(float),
        classes=rng.integers(0, 5, size=BATCH),
        uses=np.where(rng.random((fields, BATCH, spaces)) < 0.15, 0.0, rng.random((fields, BATCH, spaces))),
    )
    rows = []
    for _ in range(fields):
        made = rng.normal(size=(SLOTS, ENDS[-1] + spaces + 2)) * 0.4
        made[:, ENDS[-1] + 1 :] = rng.uniform(0.05, 0.7, size=(SLOTS, spaces + 1))
        rows.append(made)
    held = tuple(
        np.full((SLOTS, spaces), HELD, dtype=np.int8) if everything_held else rng.integers(0, 3, size=(SLOTS, spaces)).astype(np.int8)
        for _ in range(fields)
    )
    state = State(tuple(rows), held, tuple(blank_context(f, SLOTS, spaces, classes) for f in range(fields)), blank_totals())
    weights = rng.normal(size=(len(levels), inputs)) * 0.1
    weights[:, dense:] += levels[:, None]
    model = Model(
        weights=weights,
        levels=levels,
        ends=ENDS,
        directions=np.array([2.0, 8.0, 8.0, 1.0]),
        largest=rng.uniform(0.6, 0.8, size=(fields, spaces)),
        drift=1e-2,
        quadratic=0 if classes else 1,
    )
    out = Predicted(
        inputs=np.zeros((BATCH, inputs)),
        products=np.zeros((BATCH, pairs, spaces)),
        base=np.zeros((BATCH, len(levels))),
        probabilities=np.zeros((BATCH, len(levels))),
        classes=np.zeros((BATCH, classes)),
    )
    out.inputs[:, dense - extra : dense] = rng.normal(size=(BATCH, extra))
    return events, state, model, out
