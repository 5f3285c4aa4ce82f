"""What controllers see of a mini-batch, what they learn from, and what the context keeps for their next time.

Shape legend: F fields, B interactions, n distinct ids of a field, N spaces, P pairs of fields, K = 35 + N controller inputs.
"""

from math import isnan, log

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import helper, kernel
from autoemb_pipeline.kernels.layout import FADING_LOSS, PREVIOUS_LOSS, RUN_LOSS, Floats, Integers, Interactions, Model, Predicted
from autoemb_pipeline.kernels.rows import pair_of

ID_FADING, RUN_FADING = 0.9, 0.99
LARGEST_RELATIVE_LOSS = 4.0
SMALLEST_WEIGHT = 1e-12
# The 32 smallest distinct values of round(2^(j/2)): 1, 2, 3, 4, 6, 8, 11, 16, …
THRESHOLDS = np.unique(np.round(2.0 ** (np.arange(34) / 2)))[:32]
FIXED_INPUTS = len(THRESHOLDS) + 3


@helper
def _loss_slope(i: int, events: Interactions, model: Model, out: Predicted) -> float:
    """∂L/∂s of the cross-entropy of an interaction as predicted."""
    outputs, error = len(model.levels), 0.0
    for c in range(outputs):
        target = events.binary[i] if outputs == 1 else (1.0 if events.classes[i] == c else 0.0)
        error += (out.probabilities[i, c] - target) * model.levels[c]
    return error


@kernel
def mixture_slopes(
    events: Interactions,
    model: Model,
    out: Predicted,
    weights: NDArray[np.float32],
    nested: bool,
    slopes: NDArray[np.float32],
) -> None:
    """∂L/∂α of the mixture's own loss, what free logits (DARTS) learn from: first order, of predictions before their labels were learnt.

    Args:
        events, model, out: as the event-order kernel left them.
        weights: [F, B, N] α.
        nested: whether spaces are prefixes.
        slopes: [F, B, N] result.
    """
    fields, count, spaces = weights.shape
    outputs = len(model.levels)
    products_at = model.weights.shape[1] - out.products.shape[1] * spaces
    norm = 0.0
    for c in range(outputs):
        norm += model.levels[c] * model.levels[c]
    for i in range(count):
        error = _loss_slope(i, events, model, out)
        for f in range(fields):
            total = 0.0
            for j in range(spaces):
                slope = 0.0
                for g in range(fields):
                    if g == f:
                        continue
                    p = pair_of(f, g, fields)
                    gain = 0.0
                    for c in range(outputs):
                        gain += model.levels[c] * model.weights[c, products_at + p * spaces + j]
                    slope += error * out.products[i, p, j] * gain / norm * events.uses[g, i, j]
                total = total + slope if nested else slope
                slopes[f, i, j] = total


@kernel
def validate(events: Interactions, out: Predicted, losses: Floats, expected: Floats) -> None:
    """What every prefix lost on each interaction, and what each block was expected to save by the model's own probabilities.

    The loss is the task's: squared error, or cross-entropy. Were the prefixes calibrated, E[loss_(j-1) - loss_j] = E[(p_j - p_(j-1))²], or
    the divergence KL(p_j ‖ p_(j-1)): an estimate without the label's noise, which labels then correct.

    Args:
        events, out: as the event-order kernel left them.
        losses: [B, N + 1] result.
        expected: [B, N] result.
    """
    count, prefixes, outputs = out.prefixes.shape
    for i in range(count):
        for n in range(prefixes):
            p = out.prefixes[i, n]
            if outputs == 1:
                losses[i, n] = (p[0] - events.binary[i]) ** 2
            else:
                losses[i, n] = -log(max(p[events.classes[i]], SMALLEST_WEIGHT))
            if n == 0:
                continue
            before, gain = out.prefixes[i, n - 1], 0.0
            for c in range(outputs):
                if outputs == 1:
                    gain += (p[c] - before[c]) ** 2
                elif p[c] > 0.0:
                    gain += p[c] * log(p[c] / max(before[c], SMALLEST_WEIGHT))
            expected[i, n - 1] = gain


@kernel
def remember(
    local: Integers,
    slots: Integers,
    losses: Floats,
    weights: Floats,
    which: Integers,
    first: int,
    context: Floats,
) -> None:
    """Keeps what a field's controllers see next time: each id's mean and fading loss, and the weights of its last interaction.

    Args:
        local, slots: of the field.
        losses: [B] of the predictions.
        weights: [B, N]; [B, 0] where none are learnt, then those kept stay.
        which: [m] the interactions that count, ascending.
        first: as of `controller_inputs`.
        context: [slots, W], changed in place.
    """
    sums, occurrences = np.zeros(len(slots)), np.zeros(len(slots))
    for b in range(len(which)):
        i = which[b]
        sums[local[i]] += losses[i]
        occurrences[local[i]] += 1.0
        row = context[slots[local[i]]]
        for n in range(weights.shape[1]):
            row[first + n] = weights[i, n]
    for k in range(len(slots)):
        if occurrences[k] == 0.0:
            continue
        row, mean = context[slots[k]], sums[k] / occurrences[k]
        before = row[FADING_LOSS]
        row[PREVIOUS_LOSS] = mean
        row[FADING_LOSS] = mean if isnan(before) else ID_FADING * before + (1 - ID_FADING) * mean


@kernel
def remember_run(losses: Floats, which: Integers, totals: Floats) -> None:
    """The run's fading loss, of the mini-batch's mean. Arguments as of `remember`."""
    if len(which) == 0:
        return
    mean = 0.0
    for b in range(len(which)):
        mean += losses[which[b]]
    mean /= len(which)
    before = totals[RUN_LOSS]
    totals[RUN_LOSS] = mean if isnan(before) else RUN_FADING * before + (1 - RUN_FADING) * mean
