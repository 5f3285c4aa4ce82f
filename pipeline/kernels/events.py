"""The event-order kernel: context, prediction and learning of a mini-batch's interactions, one operation after the other."""

import numpy as np

from autoemb_pipeline.kernels.compiling import helper, kernel
from autoemb_pipeline.kernels.features import learn_class, learn_statistics, write_classes, write_features, write_squares
from autoemb_pipeline.kernels.giving import give, note
from autoemb_pipeline.kernels.layout import (
    ABSENT,
    COUNT,
    LAST_TIME,
    LEARN_ROWS,
    LEARN_STATISTICS,
    PAIR,
    PREDICT,
    Interactions,
    Memory,
    Model,
    Operations,
    Predicted,
    State,
)
from autoemb_pipeline.kernels.rows import measure, pair_of
from autoemb_pipeline.kernels.scores import Work, learn_rows, level_of, score, work_space
from autoemb_pipeline.kernels.sums import dot

SMALLEST_CLASS = 1e-12


@helper
def _find(i: int, events: Interactions, work: Work) -> None:
    for f in range(len(events.slots)):
        work.place[f] = events.slots[f][events.local[f, i]]


@helper
def _context(i: int, events: Interactions, state: State, model: Model, out: Predicted) -> None:
    """Features and the class estimate of an interaction, before it is counted; then counts it in every field."""
    user, item = events.slots[0][events.local[0, i]], events.slots[1][events.local[1, i]]
    seconds = events.times[i] / 1000.0
    x = out.inputs[i]
    write_features(state.contexts[0][user], state.contexts[1][item], seconds, state.totals, x)
    if model.quadratic:
        write_squares(x)
    if out.classes.shape[1]:
        write_classes(state.contexts[0][user], state.contexts[1][item], state.totals, out.classes[i])
    for f in range(len(events.slots)):
        row = state.contexts[f][events.slots[f][events.local[f, i]]]
        row[COUNT] += 1.0
        if not row[LAST_TIME] > seconds:  # NaN of a new id; a late interaction takes nobody back
            row[LAST_TIME] = seconds


@helper
def _gate(i: int, events: Interactions, state: State, work: Work) -> None:
    """R = A_f A_g of every pair's blocks into work.gates, 0 where one of them is absent."""
    fields, spaces = len(state.rows), work.slopes.shape[1]
    for f in range(fields):
        for g in range(f + 1, fields):
            p = pair_of(f, g, fields)
            for j in range(spaces):
                both = state.held[f][work.place[f], j] != ABSENT and state.held[g][work.place[g], j] != ABSENT
                work.gates[p, j] = events.uses[f, i, j] * events.uses[g, i, j] if both else 0.0


@helper
def _evaluate(i: int, events: Interactions, state: State, model: Model, out: Predicted, work: Work) -> None:
    """Products and prefixes of an interaction into `work`, from its base logits and the rows as they stand now."""
    biases = measure(state.rows, state.held, work.place, model.ends, work.products, work.squares)
    _gate(i, events, state, work)
    for c in range(len(model.levels)):
        work.logits[c] = out.base[i, c] + biases * model.levels[c]
    score(model, work)


@helper
def _predict(i: int, events: Interactions, state: State, model: Model, out: Predicted, work: Work) -> None:
    """Predicts an interaction from the context and the rows as they stand, and leaves all that learning its label needs."""
    pairs, spaces = work.products.shape
    first = model.weights.shape[1] - pairs * spaces
    _context(i, events, state, model, out)
    x = out.inputs[i]
    for c in range(len(model.levels)):
        offset = x[0] if len(model.levels) == 1 else np.log(max(out.classes[i, c], SMALLEST_CLASS))
        out.base[i, c] = offset + dot(x, model.weights[c], 0, first)
    _evaluate(i, events, state, model, out, work)
    for f in range(len(state.rows)):
        out.levels[f, i] = level_of(state.held[f][work.place[f]])
    for p in range(pairs):
        for j in range(spaces):
            out.products[i, p, j] = work.products[p, j]
            x[first + p * spaces + j] = work.gates[p, j] * work.products[p, j]
    for c in range(len(model.levels)):
        out.probabilities[i, c] = work.prefixes[spaces, c]
    _keep_prefixes(i, out, work)


@helper
def _keep_prefixes(i: int, out: Predicted, work: Work) -> None:
    for n in range(work.prefixes.shape[0]):
        for c in range(work.prefixes.shape[1]):
            out.prefixes[i, n, c] = work.prefixes[n, c]


@helper
def _learn_context(i: int, events: Interactions, state: State, classes: int) -> None:
    user = state.contexts[0][events.slots[0][events.local[0, i]]]
    item = state.contexts[1][events.slots[1][events.local[1, i]]]
    learn_statistics(user, item, events.binary[i], state.totals)
    if classes:
        learn_class(user, item, events.classes[i], classes, state.totals)


@helper
def _learn(i: int, events: Interactions, state: State, model: Model, out: Predicted, memory: Memory, work: Work) -> None:
    """Takes a label into the rows; `work` holds the interaction's score."""
    biases = 0.0
    for f in range(len(state.rows)):
        biases += state.rows[f][work.place[f], model.ends[-1]]
    learn_rows(events.binary[i], events.classes[i], state, model, work, 0, True)
    if model.searched:
        note(i, biases, events, state, model, out, memory)
    if model.revisited:
        _evaluate(i, events, state, model, out, work)
        _keep_prefixes(i, out, work)


@helper
def _perform(operations: Operations, events: Interactions, state: State, model: Model, out: Predicted, memory: Memory, work: Work) -> None:
    predicted = -1  # whose score stands in `work`
    for k in range(len(operations.events)):
        kind, i = operations.kinds[k], operations.events[k]
        if kind == PREDICT and model.searched:
            for f in range(PAIR):
                give(f, i, events, state, model, memory, work)
        _find(i, events, work)
        if kind == PREDICT:
            _predict(i, events, state, model, out, work)
            predicted = i
            continue
        if kind != LEARN_STATISTICS:
            if predicted != i:
                _evaluate(i, events, state, model, out, work)
            _learn(i, events, state, model, out, memory, work)
            predicted = -1
        if kind != LEARN_ROWS:
            _learn_context(i, events, state, out.classes.shape[1])


@kernel
def run(operations: Operations, events: Interactions, state: State, model: Model, out: Predicted, memory: Memory) -> None:
    """Performs the operations in their order, on `state`, `out` and `memory` in place.

    PREDICT i gives the ids the blocks chosen for them (`Model.searched`), fills row i of `out` and counts the interaction. LEARN i takes
    its label into the rows, from the score that the rows as they stand give (right after its own PREDICT: the prediction itself), and into
    the label statistics. LEARN_ROWS and LEARN_STATISTICS do one of both; what LEARN and LEARN_ROWS need of `out` is the base logits.
    """
    _perform(operations, events, state, model, out, memory, work_space(state, model, out.products.shape[1]))


@kernel
def observe(operations: Operations, events: Interactions, state: State, model: Model, out: Predicted) -> None:
    """The same of the context alone, for learners that keep their rows elsewhere: features, classes, counts and label statistics."""
    for k in range(len(operations.events)):
        kind, i = operations.kinds[k], operations.events[k]
        if kind == PREDICT:
            _context(i, events, state, model, out)
        elif kind != LEARN_ROWS:
            _learn_context(i, events, state, out.classes.shape[1])
