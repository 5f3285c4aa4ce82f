"""Context features x0..x15, the class estimate, and the label statistics behind them. Formulas: docs/algorithm.md, "Context features"."""

from math import log, log1p

from autoemb_pipeline.kernels.compiling import helper
from autoemb_pipeline.kernels.layout import (
    CLASSES_AT,
    CONTEXT_FEATURES,
    COUNT,
    I_BIAS,
    I_LEARNT,
    I_POSITIVES,
    I_RECENT,
    I_RECENT_WEIGHT,
    LAST_TIME,
    LEARNT,
    POSITIVES,
    SQUARED_FEATURES,
    U_BIAS,
    U_FADING,
    U_LAST_LABEL,
    U_LEARNT,
    U_RECENT,
    U_RECENT_WEIGHT,
    U_RESIDUALS,
    Floats,
)

USER_PRIOR, ITEM_PRIOR = 8.0, 3.0
USER_DECAY, ITEM_DECAY, RECENT_PRIOR = 0.8, 0.9, 2.0
BIAS_RATE, BIAS_DECAY = 0.05, 0.01
CLIP = 0.02
NEW_USER_GAP = 2.0
DIRICHLET_USER, DIRICHLET_ITEM = 8.0, 3.0


@helper
def _clipped_logit(p: float) -> float:
    p = min(max(p, CLIP), 1.0 - CLIP)
    return log(p / (1.0 - p))


@helper
def smoothed_mean(totals: Floats) -> float:
    """g = (.5 + Σy)/(1 + n)."""
    mean: float = (0.5 + totals[POSITIVES]) / (1.0 + totals[LEARNT])
    return mean


@helper
def write_features(user: Floats, item: Floats, seconds: float, totals: Floats, x: Floats) -> None:
    """x0..x15 of an interaction into x, from the context rows as they stand. seconds: event time."""
    g = smoothed_mean(totals)
    item_mean = (item[I_POSITIVES] + ITEM_PRIOR * g) / (item[I_LEARNT] + ITEM_PRIOR)
    deviation = user[U_RESIDUALS] / (user[U_LEARNT] + USER_PRIOR)
    new_user = user[COUNT] == 0.0
    x[0] = _clipped_logit(item_mean + deviation)
    x[1] = item_mean - g
    x[2] = deviation
    x[3] = log1p(user[COUNT]) / 5.0
    x[4] = log1p(item[COUNT]) / 5.0
    x[5] = user[U_RECENT] / (user[U_RECENT_WEIGHT] + RECENT_PRIOR)
    x[6] = item[I_RECENT] / (item[I_RECENT_WEIGHT] + RECENT_PRIOR)
    x[7] = user[U_LAST_LABEL]
    x[8] = NEW_USER_GAP if new_user else log1p(max(0.0, seconds - user[LAST_TIME])) / 10.0
    x[9] = _clipped_logit(g + user[U_BIAS] + item[I_BIAS])
    x[10] = user[U_BIAS]
    x[11] = item[I_BIAS]
    x[12] = user[U_FADING]
    x[13] = 1.0
    x[14] = 1.0 if new_user else 0.0
    x[15] = 1.0 if item[COUNT] == 0.0 else 0.0


@helper
def write_squares(x: Floats) -> None:
    """The 91 products of x0..x12 behind the features."""
    column = CONTEXT_FEATURES
    for i in range(SQUARED_FEATURES):
        for j in range(i, SQUARED_FEATURES):
            x[column] = x[i] * x[j]
            column += 1


@helper
def write_classes(user: Floats, item: Floats, totals: Floats, p: Floats) -> None:
    """Class distribution ∝ p_u · p_i / p into p, with Dirichlet pseudo-counts 8 (user) and 3 (item) centred on the run's distribution."""
    classes = len(p)
    counted, of_user, of_item = float(classes), DIRICHLET_USER, DIRICHLET_ITEM
    users, items = len(user) - classes, len(item) - classes
    for c in range(classes):
        counted += totals[CLASSES_AT + c]
        of_user += user[users + c]
        of_item += item[items + c]
    norm = 0.0
    for c in range(classes):
        prior = (totals[CLASSES_AT + c] + 1.0) / counted
        p[c] = (user[users + c] + DIRICHLET_USER * prior) / of_user * (item[items + c] + DIRICHLET_ITEM * prior) / of_item / prior
        norm += p[c]
    for c in range(classes):
        p[c] /= norm


@helper
def learn_statistics(user: Floats, item: Floats, label: float, totals: Floats) -> None:
    """Enters one binary label into the user's, the item's and the run's statistics."""
    g = smoothed_mean(totals)
    residual = label - (item[I_POSITIVES] + ITEM_PRIOR * g) / (item[I_LEARNT] + ITEM_PRIOR)
    deviation = user[U_RESIDUALS] / (user[U_LEARNT] + USER_PRIOR)
    error = user[U_BIAS] + item[I_BIAS] + g - label
    user[U_BIAS] -= BIAS_RATE * (error + BIAS_DECAY * user[U_BIAS])
    item[I_BIAS] -= BIAS_RATE * (error + BIAS_DECAY * item[I_BIAS])
    user[U_LEARNT] += 1.0
    user[U_RESIDUALS] += residual
    user[U_RECENT] = USER_DECAY * user[U_RECENT] + residual
    user[U_RECENT_WEIGHT] = USER_DECAY * user[U_RECENT_WEIGHT] + 1.0
    user[U_LAST_LABEL] = label - 0.5
    user[U_FADING] = 0.9 * user[U_FADING] + 0.1 * residual
    item[I_LEARNT] += 1.0
    item[I_POSITIVES] += label
    item[I_RECENT] = ITEM_DECAY * item[I_RECENT] + label - g - deviation
    item[I_RECENT_WEIGHT] = ITEM_DECAY * item[I_RECENT_WEIGHT] + 1.0
    totals[LEARNT] += 1.0
    totals[POSITIVES] += label


@helper
def learn_class(user: Floats, item: Floats, klass: int, classes: int, totals: Floats) -> None:
    """Counts one rating class of the user, the item and the run."""
    user[len(user) - classes + klass] += 1.0
    item[len(item) - classes + klass] += 1.0
    totals[CLASSES_AT + klass] += 1.0
