"""The label statistics behind the context features, and the features themselves: plain arithmetic on one user's and one item's row.

One call per interaction, so rows are lists of floats and the arithmetic is spelled out: numpy scalars would be five times slower.
Formulas: docs/algorithm.md, "Context features". y is the binary label, n counts learnt labels.
"""

from dataclasses import dataclass
from math import log, log1p

# Columns of a row. 0..3 belong to the tracker (count, last time, previous and fading loss); label statistics start at 4.
_COUNT, _LAST_TIME = 0, 1
(
    U_LEARNT,
    U_RESIDUALS,
    U_RECENT,
    U_RECENT_WEIGHT,
    U_LAST_LABEL,
    U_BIAS,
    U_FADING,
) = range(4, 11)
I_LEARNT, I_POSITIVES, I_RECENT, I_RECENT_WEIGHT, I_BIAS = range(4, 9)
USER_LABEL_WIDTH, ITEM_LABEL_WIDTH = 7, 5

USER_PRIOR, ITEM_PRIOR = 8.0, 3.0
USER_DECAY, ITEM_DECAY, RECENT_PRIOR = 0.8, 0.9, 2.0
BIAS_RATE, BIAS_DECAY = 0.05, 0.01
CLIP = 0.02
NEW_USER_GAP = 2.0


@dataclass(slots=True)
class Globals:
    """Count and sum of the learnt binary labels."""

    count: float = 0.0
    positives: float = 0.0

    @property
    def mean(self) -> float:
        """Smoothed global mean g = (.5 + Σy)/(1 + n)."""
        return (0.5 + self.positives) / (1.0 + self.count)


def _clipped_logit(p: float) -> float:
    p = CLIP if p < CLIP else min(p, 1.0 - CLIP)
    return log(p / (1.0 - p))


def features_of(
    user: list[float], item: list[float], user_seen: list[float], item_seen: list[float], timestamp: int, totals: Globals
) -> list[float]:
    """x0..x15 of one interaction from the rows as they stand before its label.

    Args:
        user, item: rows of label statistics.
        user_seen, item_seen: fresh (count, last time in seconds, NaN for a new id).
        timestamp: event time, ms.
        totals: global label statistics.
    """
    g = totals.mean
    item_mean = (item[I_POSITIVES] + ITEM_PRIOR * g) / (item[I_LEARNT] + ITEM_PRIOR)
    deviation = user[U_RESIDUALS] / (user[U_LEARNT] + USER_PRIOR)
    new_user, new_item = user_seen[_COUNT] == 0.0, item_seen[_COUNT] == 0.0
    gap = NEW_USER_GAP if new_user else log1p(max(0.0, timestamp / 1000.0 - user_seen[_LAST_TIME])) / 10.0
    return [
        _clipped_logit(item_mean + deviation),
        item_mean - g,
        deviation,
        log1p(user_seen[_COUNT]) / 5.0,
        log1p(item_seen[_COUNT]) / 5.0,
        user[U_RECENT] / (user[U_RECENT_WEIGHT] + RECENT_PRIOR),
        item[I_RECENT] / (item[I_RECENT_WEIGHT] + RECENT_PRIOR),
        user[U_LAST_LABEL],
        gap,
        _clipped_logit(g + user[U_BIAS] + item[I_BIAS]),
        user[U_BIAS],
        item[I_BIAS],
        user[U_FADING],
        1.0,
        1.0 if new_user else 0.0,
        1.0 if new_item else 0.0,
    ]


def learn(user: list[float], item: list[float], label: float, totals: Globals) -> None:
    """Enters one label into the user's, the item's and the global statistics, in place."""
    g = totals.mean
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
    totals.count += 1.0
    totals.positives += label
