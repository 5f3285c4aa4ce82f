"""Random states and mini-batches for kernels, in float64."""

import numpy as np

from autoemb_pipeline.kernels import HELD, Interactions, Memory, Model, Predicted, State, blank_context, blank_totals, no_memory

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
        choices=np.zeros((fields, BATCH), dtype=np.int64),
        foreseen=np.zeros((fields, BATCH), dtype=np.int8),
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
        prefixes=np.zeros((BATCH, spaces + 1, len(levels))),
        levels=np.zeros((fields, BATCH), dtype=np.int64),
    )
    out.inputs[:, dense - extra : dense] = rng.normal(size=(BATCH, extra))
    return events, state, model, out


def searched_world(task: str = "binary", seed: int = 0, *, revisited: bool = False) -> tuple[Interactions, State, Model, Predicted, Memory]:
    """Two fields whose ids hold some of their blocks, get more, and remember interactions of earlier mini-batches and of this one."""
    events, state, model, out = world(2, task, seed)
    rng = np.random.default_rng(seed + 10_000)
    spaces, outputs = len(ENDS), len(model.levels)
    for held in state.held:
        held[:] = np.where(np.arange(spaces) < rng.choice([0, 0, 1, 2, 3], size=(SLOTS, 1)), HELD, 0)
    events = events._replace(
        choices=rng.choice([0, 0, 0, 1, 2, 3], size=(2, BATCH)), foreseen=rng.integers(0, 2, size=(2, BATCH)).astype(np.int8)
    )
    sizes = [rng.choice([0, 1, 3], size=5) for _ in range(2)]
    totals = [int(size.sum()) for size in sizes]
    memory = no_memory(events, outputs)._replace(
        starts=tuple(np.concatenate([[0], np.cumsum(size)]) for size in sizes),
        partners=tuple(rng.integers(0, 5, size=n) for n in totals),
        offsets=tuple(rng.normal(size=(n, outputs)) for n in totals),
        labels=tuple(rng.integers(0, outputs if outputs > 1 else 2, size=n) for n in totals),
        shared=tuple(rng.integers(0, 2, size=n).astype(np.int8) for n in totals),
    )
    return events, state, model._replace(searched=1, revisited=int(revisited)), out, memory
