"""Targets from ratings. Labels leave this module only after the prediction they belong to was recorded."""

import numpy as np

from autoemb_pipeline.records import RATING_CLASSES, FloatArray, Labels


def labels_of(ratings: FloatArray, *, positive_above: float = 3.5) -> Labels:
    """Targets of a mini-batch, from its ratings as sent, [B].

    Binary (the paper's regression task, section 3.3): 1 where rating > `positive_above`. Classes (its classification task):
    ceil(rating) - 1, so that half-stars go up and no banker's rounding splits them by parity; clipped to the five classes.
    """
    classes = np.clip(np.ceil(ratings), 1, RATING_CLASSES).astype(np.int64) - 1
    return Labels(binary=(ratings > positive_above).astype(np.float64), classes=classes)
