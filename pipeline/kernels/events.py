"""The event-order kernel: context, prediction and learning of a mini-batch's interactions, one operation after the other."""

from math import exp
from typing import NamedTuple

import numpy as np

from autoemb_pipeline.kernels.compiling import allocating, helper, kernel
from autoemb_pipeline.kernels.features import learn_class, learn_statistics, write_classes, write_features, write_squares
from autoemb_pipeline.kernels.layout import (
    ABSENT,
    COUNT,
    LAST_TIME,
    LEARN_ROWS,
    LEARN_STATISTICS,
    PREDICT,
    Floats,
    Integers,
    Interactions,
    Model,
    Operations,
    Predicted,
    State,
)
from autoemb_pipeline.kernels.rows import SMALLEST_CURVATURE, innovation, measure, move, pair_of, slope_squares
from autoemb_pipeline.kernels.sums import dot

SMALLEST_CLASS = 1e-12


class _Work(NamedTuple):
    """Scratch of one interaction: slots, γ, c, products and squared lengths as rows stand, |d|², variances, probabilities."""

    place: Integers
    gains: Floats
    gates: Floats
    products: Floats
    squares: Floats
    slopes: Floats
    variances: Floats
    factors: Floats
    before: Floats
    probabilities: Floats


@allocating
def _work(state: State, model: Model, pairs: int) -> _Work:
    fields, spaces, outputs = len(state.rows), len(model.ends), len(model.levels)
    gains = np.zeros((pairs, spaces))
    dense = model.weights.shape[1] - pairs * spaces
    norm = 0.0
    for c in range(outputs):
        norm += model.levels[c] * model.levels[c]
    for p in range(pairs):
        for j in range(spaces):
            for c in range(outputs):
                gains[p, j] += model.levels[c] * model.weights[c, dense + p * spaces + j]
            gains[p, j] /= norm
    return _Work(
        np.empty(fields, dtype=np.int64),
        gains,
        np.empty((pairs, spaces)),
        np.empty((pairs, spaces)),
        np.empty((fields, spaces)),
        np.empty((fields, spaces)),
        np.empty((fields, spaces + 1)),
        np.empty(fields),
        np.empty((fields, model.ends[-1])),
        np.empty(outputs),
    )


@helper
def sigmoid(x: float) -> float:
    """1/(1+exp(-x)), stable for large |x|."""
    small = exp(-abs(x))
    return (1.0 if x >= 0.0 else small) / (1.0 + small)


@helper
def softmax(logits: Floats) -> None:
    """In place."""
    top = logits[0]
    for c in range(1, len(logits)):
        top = max(top, logits[c])
    total = 0.0
    for c in range(len(logits)):
        logits[c] = exp(logits[c] - top)
        total += logits[c]
    for c in range(len(logits)):
        logits[c] /= total


@helper
def _find(i: int, events: Interactions, work: _Work) -> None:
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
        row[LAST_TIME] = seconds


@helper
def _gate(i: int, events: Interactions, state: State, work: _Work) -> None:
    """R = A_f A_g of every pair's blocks into work.gates, 0 where one of them is absent."""
    fields, spaces = len(state.rows), work.slopes.shape[1]
    for f in range(fields):
        for g in range(f + 1, fields):
            p = pair_of(f, g, fields)
            for j in range(spaces):
                both = state.held[f][work.place[f], j] != ABSENT and state.held[g][work.place[g], j] != ABSENT
                work.gates[p, j] = events.uses[f, i, j] * events.uses[g, i, j] if both else 0.0


@helper
def _score(i: int, biases: float, model: Model, out: Predicted, work: _Work) -> None:
    """Probabilities of an interaction into `work`, from its base logits and the products and biases as rows stand. work.gates: R."""
    pairs, spaces = work.products.shape
    first = model.weights.shape[1] - pairs * spaces
    for c in range(len(model.levels)):
        total = out.base[i, c] + biases * model.levels[c]
        for p in range(pairs):
            for j in range(spaces):
                total += work.gates[p, j] * work.products[p, j] * model.weights[c, first + p * spaces + j]
        work.probabilities[c] = total
    if len(model.levels) == 1:
        work.probabilities[0] = sigmoid(work.probabilities[0])
    else:
        softmax(work.probabilities)


@helper
def _predict(i: int, events: Interactions, state: State, model: Model, out: Predicted, work: _Work) -> None:
    """Predicts an interaction from the context and the rows as they stand, and leaves all that learning its label needs."""
    pairs, spaces = work.products.shape
    first = model.weights.shape[1] - pairs * spaces
    _context(i, events, state, model, out)
    x = out.inputs[i]
    for c in range(len(model.levels)):
        offset = x[0] if len(model.levels) == 1 else np.log(max(out.classes[i, c], SMALLEST_CLASS))
        out.base[i, c] = offset + dot(x, model.weights[c], 0, first)
    biases = measure(state.rows, state.held, work.place, model.ends, work.products, work.squares)
    _gate(i, events, state, work)
    _score(i, biases, model, out, work)
    for p in range(pairs):
        for j in range(spaces):
            out.products[i, p, j] = work.products[p, j]
            x[first + p * spaces + j] = work.gates[p, j] * work.products[p, j]
    for c in range(len(model.levels)):
        out.probabilities[i, c] = work.probabilities[c]


@helper
def _error(i: int, events: Interactions, model: Model, work: _Work) -> tuple[float, float]:
    """∂L/∂s of the cross-entropy, and its curvature."""
    if len(model.levels) == 1:
        p = work.probabilities[0]
        return p - events.binary[i], p * (1.0 - p)
    error, mean, square = -model.levels[events.classes[i]], 0.0, 0.0
    for c in range(len(model.levels)):
        mean += work.probabilities[c] * model.levels[c]
        square += work.probabilities[c] * model.levels[c] * model.levels[c]
    return error + mean, square - mean * mean


@helper
def _learn_rows(i: int, events: Interactions, state: State, model: Model, work: _Work) -> None:
    """The Kalman step of an interaction whose products, lengths, gates and probabilities stand in `work`."""
    pairs, spaces = work.products.shape
    for p in range(pairs):
        for j in range(spaces):
            work.gates[p, j] *= work.gains[p, j]
    error, curvature = _error(i, events, model, work)
    slope_squares(state.rows, work.gates, work.products, work.squares, work.slopes)
    uncertainty = innovation(state.rows, work.place, work.gates, work.slopes, model.largest, model.drift, work.variances)
    h = max(curvature, SMALLEST_CURVATURE)
    total = 1.0 / h + uncertainty
    move(
        state.rows,
        state.held,
        work.place,
        model.ends,
        work.gates,
        work.slopes,
        work.variances,
        model.directions,
        -error / (h * total),
        total,
        work.factors,
        work.before,
    )


@helper
def _learn_context(i: int, events: Interactions, state: State, classes: int) -> None:
    user = state.contexts[0][events.slots[0][events.local[0, i]]]
    item = state.contexts[1][events.slots[1][events.local[1, i]]]
    learn_statistics(user, item, events.binary[i], state.totals)
    if classes:
        learn_class(user, item, events.classes[i], classes, state.totals)


@helper
def _perform(operations: Operations, events: Interactions, state: State, model: Model, out: Predicted, work: _Work) -> None:
    predicted = -1  # whose score stands in `work`
    for k in range(len(operations.events)):
        kind, i = operations.kinds[k], operations.events[k]
        _find(i, events, work)
        if kind == PREDICT:
            _predict(i, events, state, model, out, work)
            predicted = i
            continue
        if kind != LEARN_STATISTICS:
            if predicted != i:
                biases = measure(state.rows, state.held, work.place, model.ends, work.products, work.squares)
                _gate(i, events, state, work)
                _score(i, biases, model, out, work)
            _learn_rows(i, events, state, model, work)
            predicted = -1
        if kind != LEARN_ROWS:
            _learn_context(i, events, state, out.classes.shape[1])


@kernel
def run(operations: Operations, events: Interactions, state: State, model: Model, out: Predicted) -> None:
    """Performs the operations in their order, on `state` and `out` in place.

    PREDICT i fills row i of `out` and counts the interaction. LEARN i takes its label into the rows, from the score that the rows as they
    stand give (right after its own PREDICT: the prediction itself), and into the label statistics. LEARN_ROWS and LEARN_STATISTICS do one
    of both; what LEARN and LEARN_ROWS need of `out` is the base logits.
    """
    _perform(operations, events, state, model, out, _work(state, model, out.products.shape[1]))


@kernel
def observe(operations: Operations, events: Interactions, state: State, model: Model, out: Predicted) -> None:
    """The same of the context alone, for learners that keep their rows elsewhere: features, classes, counts and label statistics."""
    for k in range(len(operations.events)):
        kind, i = operations.kinds[k], operations.events[k]
        if kind == PREDICT:
            _context(i, events, state, model, out)
        elif kind != LEARN_ROWS:
            _learn_context(i, events, state, out.classes.shape[1])
