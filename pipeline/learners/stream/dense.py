"""How what the dense weights were learnt from fades.

Online Newton steps without it have rates that fall as one over the number of interactions: weights of the first day would be averaged
with today's for ever.
"""

from math import exp

import numpy as np

from autoemb_pipeline.records import FloatArray


def forget(precision: FloatArray, ridge: FloatArray, interactions: int, horizon: float) -> None:
    """Fades the precision towards its prior's, before the curvature of a mini-batch is added.

    Args:
        precision: [C·M, C·M], changed in place.
        ridge: [M] diagonal of the prior's, the same for each of the C outputs.
        interactions: that the mini-batch adds.
        horizon: interactions over which the past fades by a factor e; 0: it never does.
    """
    if not horizon:
        return
    left = exp(-interactions / horizon)
    precision *= left
    precision[np.diag_indices_from(precision)] += (1.0 - left) * np.tile(ridge, len(precision) // len(ridge))
