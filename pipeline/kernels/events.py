"""The event-order kernel: context, prediction and learning of a mini-batch's interactions, one operation after the other."""

from math import exp
from typing import NamedTuple

import numpy as np

from autoemb_pipeline.kernels.compiling import allocating, helper, kernel
from autoemb_pipeline.kernels.features import learn_class, learn_statistics, write_classes, write_features, write_squares
from autoemb_pipeline.kernels.layout import (
    ABSENT,
    BORROWED,
    COUNT,
    HELD,
    LAST_TIME,
    LEARN_ROWS,
    LEARN_STATISTICS,
    PAIR,
    PREDICT,
    Bytes,
    Floats,
    Integers,
    Interactions,
    Memory,
    Model,
    Operations,
    Predicted,
    State,
)
from autoemb_pipeline.kernels.rows import SMALLEST_CURVATURE, innovations, measure, move, move_biases, pair_of, slope_squares
from autoemb_pipeline.kernels.sums import dot

SMALLEST_CLASS = 1e-12


class _Work(NamedTuple):
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
def _score(model: Model, work: _Work) -> None:
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
    for c in range(len(model.levels)):
        work.logits[c] = out.base[i, c] + biases * model.levels[c]
    _score(model, work)
    for f in range(len(state.rows)):
        out.levels[f, i] = _level(state.held[f][work.place[f]])
    for p in range(pairs):
        for j in range(spaces):
            out.products[i, p, j] = work.products[p, j]
            x[first + p * spaces + j] = work.gates[p, j] * work.products[p, j]
    for c in range(len(model.levels)):
        out.probabilities[i, c] = work.prefixes[spaces, c]
    _keep_prefixes(i, out, work)


@helper
def _keep_prefixes(i: int, out: Predicted, work: _Work) -> None:
    for n in range(work.prefixes.shape[0]):
        for c in range(work.prefixes.shape[1]):
            out.prefixes[i, n, c] = work.prefixes[n, c]


@helper
def _level(held: Bytes) -> int:
    """How many blocks an id holds, from the first on."""
    level = 0
    while level < len(held) and held[level] == HELD:
        level += 1
    return level


@helper
def _error(probabilities: Floats, binary: float, klass: int, model: Model) -> tuple[float, float]:
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
def _learn_rows(binary: float, klass: int, state: State, model: Model, work: _Work, first: int, biases: bool) -> None:
    """The Kalman step of a label whose products, lengths, gates and prefixes stand in `work`, for blocks from the `first` on."""
    pairs, spaces = work.products.shape
    for p in range(pairs):
        for j in range(spaces):
            work.gates[p, j] *= work.gains[p, j]
    slope_squares(state.rows, work.gates, work.products, work.squares, work.slopes)
    innovations(state.rows, work.place, work.gates, work.slopes, model.largest, model.drift, work.variances, work.totals)
    for j in range(spaces):
        error, curvature = _error(work.prefixes[j + 1], binary, klass, model)
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


@helper
def _replay(f: int, own: int, partner: int, k: tuple[Floats, int, int], first: int, state: State, model: Model, work: _Work) -> None:
    """Learns a remembered interaction into the blocks that an id got, from the `first` on, and into its partner's same blocks.

    Args:
        f: the id's field.
        own, partner: slots.
        k: [C] logits without products, label, and 1 where the partner learns it by itself.
        first: number of the first block that is new.
        state, model, work: as elsewhere.
    """
    offsets, label, shared = k
    g = 1 - f
    work.place[f], work.place[g] = own, partner
    lent = _level(state.held[g][partner]) == 0
    if lent:  # used as it was made; it never learns
        for j in range(_level(state.held[f][own])):
            state.held[g][partner, j] = BORROWED
    measure(state.rows, state.held, work.place, model.ends, work.products, work.squares)
    for j in range(work.products.shape[1]):
        both = state.held[f][own, j] != ABSENT and state.held[g][partner, j] != ABSENT
        work.gates[0, j] = 1.0 if both else 0.0
    for c in range(len(model.levels)):
        work.logits[c] = offsets[c]
    _score(model, work)
    work.learns[g] = 0 if shared else 1
    _learn_rows(float(label), label, state, model, work, first, False)
    work.learns[g] = 1
    if lent:
        for j in range(state.held[g].shape[1]):
            state.held[g][partner, j] = ABSENT


@helper
def _give(f: int, i: int, events: Interactions, state: State, model: Model, memory: Memory, work: _Work) -> None:
    """Gives an id the blocks chosen for it, and lets these learn what it remembers."""
    local, g = events.local[f, i], 1 - f
    own = events.slots[f][local]
    held = state.held[f][own]
    level, chosen = _level(held), events.choices[f, i]
    if chosen > level:
        for j in range(level, chosen):
            held[j] = HELD
        if memory.forgotten[f][local] == 0:
            for k in range(memory.starts[f][local], memory.starts[f][local + 1]):
                partner = events.slots[g][memory.partners[f][k]]
                _replay(f, own, partner, (memory.offsets[f][k], memory.labels[f][k], memory.shared[f][k]), level, state, model, work)
        k = memory.heads[f][local]
        while k >= 0:
            label = events.classes[k] if len(model.levels) > 1 else int(events.binary[k])
            partner = events.slots[g][events.local[g, k]]
            _replay(f, own, partner, (memory.own_offsets[k], label, memory.own_shared[k]), level, state, model, work)
            k = memory.following[f, k]
        level = chosen
    if level == len(held) or (level and events.foreseen[f, i] == 0):
        memory.forgotten[f][local] = 1
        memory.heads[f][local] = memory.tails[f][local] = -1


@helper
def _remember(i: int, biases: float, events: Interactions, state: State, model: Model, out: Predicted, memory: Memory) -> None:
    """Notes a learnt interaction at those of its ids that have no row, or are likely to get more blocks."""
    noted = 0
    for f in range(PAIR):
        local = events.local[f, i]
        held = state.held[f][events.slots[f][local]]
        level = _level(held)
        if level == len(held) or (level and events.foreseen[f, i] == 0):
            continue
        if memory.heads[f][local] < 0:
            memory.heads[f][local] = i
        else:
            memory.following[f, memory.tails[f][local]] = i
        memory.tails[f][local] = i
        noted += 1
    if noted:
        memory.own_shared[i] = noted - 1
        for c in range(len(model.levels)):
            memory.own_offsets[i, c] = out.base[i, c] + biases * model.levels[c]


@helper
def _learn_context(i: int, events: Interactions, state: State, classes: int) -> None:
    user = state.contexts[0][events.slots[0][events.local[0, i]]]
    item = state.contexts[1][events.slots[1][events.local[1, i]]]
    learn_statistics(user, item, events.binary[i], state.totals)
    if classes:
        learn_class(user, item, events.classes[i], classes, state.totals)


@helper
def _evaluate(i: int, events: Interactions, state: State, model: Model, out: Predicted, work: _Work) -> None:
    """Products and prefixes of an interaction, predicted earlier, as the rows stand now."""
    biases = measure(state.rows, state.held, work.place, model.ends, work.products, work.squares)
    _gate(i, events, state, work)
    for c in range(len(model.levels)):
        work.logits[c] = out.base[i, c] + biases * model.levels[c]
    _score(model, work)


@helper
def _learn(i: int, events: Interactions, state: State, model: Model, out: Predicted, memory: Memory, work: _Work) -> None:
    """Takes a label into the rows; `work` holds the interaction's score."""
    biases = 0.0
    for f in range(len(state.rows)):
        biases += state.rows[f][work.place[f], model.ends[-1]]
    _learn_rows(events.binary[i], events.classes[i], state, model, work, 0, True)
    if model.searched:
        _remember(i, biases, events, state, model, out, memory)
    if model.revisited:
        _evaluate(i, events, state, model, out, work)
        _keep_prefixes(i, out, work)


@helper
def _perform(operations: Operations, events: Interactions, state: State, model: Model, out: Predicted, memory: Memory, work: _Work) -> None:
    predicted = -1  # whose score stands in `work`
    for k in range(len(operations.events)):
        kind, i = operations.kinds[k], operations.events[k]
        if kind == PREDICT and model.searched:
            for f in range(PAIR):
                _give(f, i, events, state, model, memory, work)
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
    its label into the rows, from the score that the rows as they stand give (right after its own PREDICT: the prediction itself), and into the
    label statistics. LEARN_ROWS and LEARN_STATISTICS do one of both; what LEARN and LEARN_ROWS need of `out` is the base logits.
    """
    _perform(operations, events, state, model, out, memory, _work(state, model, out.products.shape[1]))


@kernel
def observe(operations: Operations, events: Interactions, state: State, model: Model, out: Predicted) -> None:
    """The same of the context alone, for learners that keep their rows elsewhere: features, classes, counts and label statistics."""
    for k in range(len(operations.events)):
        kind, i = operations.kinds[k], operations.events[k]
        if kind == PREDICT:
            _context(i, events, state, model, out)
        elif kind != LEARN_ROWS:
            _learn_context(i, events, state, out.classes.shape[1])
