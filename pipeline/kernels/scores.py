"""An interaction's score from its base logits and the rows as they stand, and the Kalman step of its label; what other kernels call."""

from math import exp
from typing import NamedTuple

import numpy as np

from autoemb_pipeline.kernels.compiling import allocating, helper
from autoemb_pipeline.kernels.layout import HELD, Bytes, Floats, Integers, Model, State
from autoemb_pipeline.kernels.rows import SMALLEST_CURVATURE, innovations, move, move_biases, slope_squares


class Work(NamedTuple):
    """Scratch of one interaction.

    In order: slots, γ, c, products and squared lengths as rows stand, |d|², variances, steps' factors, rows before; of each prefix S,
    (y-p)/(hS) and probabilities; the logits without products; and which fields' rows learn.
    """

    place: Integers
    gains: Floats
    gates: Floats
    products: Floats
    squares: Floats
    slopes: Floats
    variances: Floats
    factors: Floats
    before: Floats
    totals: Floats
    steps: Floats
    prefixes: Floats
    logits: Floats
    learns: Bytes


@allocating
def work_space(state: State, model: Model, pairs: int) -> Work:
    """Scratch for one call of a kernel, with the products' gains filled in. pairs: P."""
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
    return Work(
        np.empty(fields, dtype=np.int64),
        gains,
        np.empty((pairs, spaces)),
        np.empty((pairs, spaces)),
        np.empty((fields, spaces)),
        np.empty((fields, spaces)),
        np.empty((fields, spaces + 1)),
        np.empty(fields),
        np.empty((fields, model.ends[-1])),
        np.empty(spaces + 1),
        np.empty(spaces + 1),
        np.empty((spaces + 1, outputs)),
        np.empty(outputs),
        np.ones(fields, dtype=np.int8),
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
def score(model: Model, work: Work) -> None:
    """Probabilities of every prefix into work.prefixes, from work.logits and the products as rows stand. work.gates: R."""
    pairs, spaces = work.products.shape
    first = model.weights.shape[1] - pairs * spaces
    for j in range(spaces + 1):
        own = work.prefixes[j]
        for c in range(len(model.levels)):
            if j:
                for p in range(pairs):
                    work.logits[c] += work.gates[p, j - 1] * work.products[p, j - 1] * model.weights[c, first + p * spaces + j - 1]
            own[c] = work.logits[c]
        if len(model.levels) == 1:
            own[0] = sigmoid(own[0])
        else:
            softmax(own)


@helper
def level_of(held: Bytes) -> int:
    """How many blocks an id holds, from the first on."""
    level = 0
    while level < len(held) and held[level] == HELD:
        level += 1
    return level


@helper
def error_of(probabilities: Floats, binary: float, klass: int, model: Model) -> tuple[float, float]:
    """∂L/∂s of the cross-entropy, and its curvature."""
    if len(model.levels) == 1:
        p = probabilities[0]
        return p - binary, p * (1.0 - p)
    error, mean, square = -model.levels[klass], 0.0, 0.0
    for c in range(len(model.levels)):
        mean += probabilities[c] * model.levels[c]
        square += probabilities[c] * model.levels[c] * model.levels[c]
    return error + mean, square - mean * mean


@helper
def learn_rows(binary: float, klass: int, state: State, model: Model, work: Work, first: int, biases: bool) -> None:
    """The Kalman step of a label whose products, lengths, gates and prefixes stand in `work`, for blocks from the `first` on."""
    pairs, spaces = work.products.shape
    for p in range(pairs):
        for j in range(spaces):
            work.gates[p, j] *= work.gains[p, j]
    slope_squares(state.rows, work.gates, work.products, work.squares, work.slopes)
    innovations(state.rows, work.place, work.gates, work.slopes, model.largest, model.drift, work.variances, work.totals)
    for j in range(spaces):
        error, curvature = error_of(work.prefixes[j + 1], binary, klass, model)
        h = max(curvature, SMALLEST_CURVATURE)
        work.totals[j] += 1.0 / h
        work.steps[j] = -error / (h * work.totals[j])
    move(
        state.rows,
        state.held,
        work.place,
        model.ends,
        work.gates,
        work.slopes,
        work.variances,
        model.directions,
        work.steps,
        work.totals,
        work.learns,
        first,
        work.factors,
        work.before,
    )
    if biases:
        move_biases(state.rows, work.place, model.ends[-1], work.variances, work.steps[spaces - 1], work.totals[spaces - 1])
