"""The arrays that kernels take, by name. What each holds and its shape: the package's docstring."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bytes = NDArray[np.int8]
Rows = NDArray[Any]
"""float32 or float64."""

PREDICT, LEARN, LEARN_ROWS, LEARN_STATISTICS = range(4)
"""Kinds of operations."""

ABSENT, BORROWED, HELD = range(3)
"""Of a block of an id: takes no part; takes part and never learns; takes part and learns."""

# Columns of a context row; the label statistics follow for fields 0 (user) and 1 (item), then N weights, then class counts.
COUNT, LAST_TIME, PREVIOUS_LOSS, FADING_LOSS = range(4)
LABELS_AT = 4
U_LEARNT, U_RESIDUALS, U_RECENT, U_RECENT_WEIGHT, U_LAST_LABEL, U_BIAS, U_FADING = range(4, 11)
I_LEARNT, I_POSITIVES, I_RECENT, I_RECENT_WEIGHT, I_BIAS = range(4, 9)
LABEL_WIDTHS = (7, 5)

PAIR = 2
"""Users and items alone: kernels spell this number of fields out."""

# Of `totals`; class counts follow.
LEARNT, POSITIVES, RUN_LOSS, CLASSES_AT = range(4)

CONTEXT_FEATURES = 16
SQUARED_FEATURES = 13  # x0..x12: x13 is the constant, x14 and x15 are flags
QUADRATIC_FEATURES = SQUARED_FEATURES * (SQUARED_FEATURES + 1) // 2


class Operations(NamedTuple):
    """What to do, in order.

    Attributes:
        kinds: [K] int8 of PREDICT, LEARN, LEARN_ROWS, LEARN_STATISTICS.
        events: [K] the interaction it is done with.
    """

    kinds: Bytes
    events: Integers


class Interactions(NamedTuple):
    """A mini-batch as it came.

    Attributes:
        local: [F, B] position of each field's id among the field's distinct ids of the mini-batch.
        slots: F of [n] where each distinct id's rows lie in the field's slabs.
        times: [B] event time, ms.
        binary: [B] labels 0.0 or 1.0; read when an operation learns the interaction, never before.
        classes: [B] rating classes, likewise; the binary task ignores them.
        uses: [F, B, N] A_fj, by how much block j of the field's id is used.
        choices: [F, B] blocks that the field's id shall hold when the interaction is predicted; it gets what it lacks, and loses nothing.
        foreseen: [F, B] 1 where an id that holds some blocks goes on remembering its interactions, because it is likely to get more.
    """

    local: Integers
    slots: tuple[Integers, ...]
    times: Integers
    binary: Floats
    classes: Integers
    uses: Floats
    choices: Integers
    foreseen: Bytes


class State(NamedTuple):
    """What the stream has taught so far; changed in place.

    Attributes:
        rows: F of [slots, D + N + 2] float32 or float64.
        held: F of [slots, N] int8 of ABSENT, BORROWED, HELD.
        contexts: F of [slots, W_f] float64.
        totals: [3 + 5].
    """

    rows: tuple[Rows, ...]
    held: tuple[Bytes, ...]
    contexts: tuple[Floats, ...]
    totals: Floats


class Memory(NamedTuple):
    """Interactions that ids without all blocks remember, to learn them once when they get these; two fields only.

    Attributes:
        starts: F of [n + 1] where each distinct id's remembered interactions begin in the four arrays behind.
        partners: F of [R] position of the other field's id among its distinct ids.
        offsets: F of [R, C] logits without products, as they were when the interaction was learnt.
        labels: F of [R] binary label, or class.
        shared: F of [R] 1 where the partner remembered it too.
        heads, tails: F of [n] first and last interaction of this mini-batch that the id remembers, -1 for none; written by the kernel.
        following: [F, B] the next one of the same id.
        own_offsets: [B, C] as `offsets`, of this mini-batch's interactions.
        own_shared: [B] as `shared`.
        forgotten: F of [n] 1 where all that the id remembered before this mini-batch was learnt or dropped.
    """

    starts: tuple[Integers, ...]
    partners: tuple[Integers, ...]
    offsets: tuple[Floats, ...]
    labels: tuple[Integers, ...]
    shared: tuple[Bytes, ...]
    heads: tuple[Integers, ...]
    tails: tuple[Integers, ...]
    following: Integers
    own_offsets: Floats
    own_shared: Bytes
    forgotten: tuple[Bytes, ...]


class Model(NamedTuple):
    """What stays as it is through a mini-batch.

    Attributes:
        weights: [C, Z + P·N] dense weights and, behind them, those of the pairs' products.
        levels: [C] slope of each output's logit in the score: 1 for the binary task.
        ends: [N] column behind each block.
        directions: [N + 1] over how many directions a block's variance falls, min(size, r); the bias' is 1.
        largest: [F, N] variance of a new row's blocks; drift never lifts one above it.
        drift: added to a block's variance at each learnt interaction that uses it.
        quadratic: 1 if products of x0..x12 are inputs, else 0.
        searched: 1 if ids get blocks by `choices` and remember interactions, else 0.
        revisited: 1 if `Predicted.prefixes` are those after the interaction's label was learnt, else 0.
    """

    weights: Floats
    levels: Floats
    ends: Integers
    directions: Floats
    largest: Floats
    drift: float
    quadratic: int
    searched: int = 0
    revisited: int = 0


class Predicted(NamedTuple):
    """What predictions leave; of interactions predicted in an earlier mini-batch, what they left then.

    Attributes:
        inputs: [B, Z + P·N] of the dense weights: context features, their products, further columns given by the caller, and R·⟨p_j, q_j⟩.
        products: [B, P, N] ⟨p_j, q_j⟩.
        base: [B, C] logits without biases and products.
        probabilities: [B, C].
        classes: [B, 5] the Dirichlet estimate for the rating task; [B, 0] for the binary.
        prefixes: [B, N + 1, C] probabilities had only the first n blocks been used; the last are the prediction.
        levels: [F, B] blocks that each field's id held.
    """

    inputs: Floats
    products: Floats
    base: Floats
    probabilities: Floats
    classes: Floats
    prefixes: Floats
    levels: Integers


def weights_at(field: int) -> int:
    """Column of a field's context rows where its N previous weights begin."""
    return LABELS_AT + (LABEL_WIDTHS[field] if field < len(LABEL_WIDTHS) else 0)


def blank_context(field: int, rows: int, spaces: int, classes: int) -> Floats:
    """[rows, W] context rows of new ids. field: from the third on without label statistics; classes: 5, or 0 for the binary task."""
    first = weights_at(field)
    blank = np.zeros((rows, first + spaces + (classes if field < len(LABEL_WIDTHS) else 0)))
    blank[:, [LAST_TIME, PREVIOUS_LOSS, FADING_LOSS]] = np.nan
    blank[:, first : first + spaces] = 1.0 / spaces
    return blank


def blank_totals() -> Floats:
    """[8] totals of a run that has learnt nothing."""
    totals = np.zeros(CLASSES_AT + 5)
    totals[RUN_LOSS] = np.nan
    return totals


def no_memory(interactions: Interactions, outputs: int) -> Memory:
    """Nothing is remembered of these interactions' ids yet. outputs: C."""
    fields, count = interactions.local.shape
    sizes = [len(slots) for slots in interactions.slots]
    return Memory(
        starts=tuple(np.zeros(n + 1, dtype=np.int64) for n in sizes),
        partners=(np.zeros(0, dtype=np.int64),) * fields,
        offsets=(np.zeros((0, outputs)),) * fields,
        labels=(np.zeros(0, dtype=np.int64),) * fields,
        shared=(np.zeros(0, dtype=np.int8),) * fields,
        heads=tuple(np.full(n, -1, dtype=np.int64) for n in sizes),
        tails=tuple(np.full(n, -1, dtype=np.int64) for n in sizes),
        following=np.full((fields, count), -1, dtype=np.int64),
        own_offsets=np.zeros((count, outputs)),
        own_shared=np.zeros(count, dtype=np.int8),
        forgotten=tuple(np.zeros(n, dtype=np.int8) for n in sizes),
    )
