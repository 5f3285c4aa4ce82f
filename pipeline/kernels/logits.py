"""Softmax of free logits (DARTS) and the optimisers of their rows, in compiled loops and by numpy.

Shape legend: B rows, N spaces, Q parameters.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import kernel
from autoemb_pipeline.kernels.scores import softmax

Numbers = NDArray[Any]
"""float32, or float64 in tests."""


@kernel
def softmax_rows(logits: Numbers) -> None:
    """[B, N], in place."""
    for i in range(logits.shape[0]):
        softmax(logits[i])


@kernel
def softmax_slopes(weights: Numbers, slopes: Numbers, error: Numbers) -> None:
    """∂loss/∂logits into error [B, N]. weights: softmax of the logits; slopes: ∂loss/∂weights."""
    for i in range(weights.shape[0]):
        mean = 0.0
        for n in range(weights.shape[1]):
            mean += weights[i, n] * slopes[i, n]
        for n in range(weights.shape[1]):
            error[i, n] = weights[i, n] * (slopes[i, n] - mean)


def adam(parameters: Numbers, moments: Numbers, gradient: Numbers, step: int, rate: float) -> None:
    """One step of Adam (Kingma and Ba 2015), in place. moments: [2, Q]; step: 1 for the first. No gradient so far: no move."""
    first, second = moments
    first *= 0.9
    first += 0.1 * gradient
    second *= 0.999
    second += 0.001 * (gradient * gradient)
    root = np.sqrt(second / (1.0 - 0.999**step))
    root += 1e-8
    move = first / (1.0 - 0.9**step)
    move /= root
    move *= rate
    move[second == 0] = 0
    parameters -= move


def adagrad(parameters: Numbers, squares: Numbers, gradient: Numbers, rate: float) -> None:
    """One step of Adagrad (Duchi et al. 2011), in place. squares: [Q]. No gradient so far: no move."""
    squares += gradient * gradient
    move = gradient / (np.sqrt(squares) + 1e-10)
    move *= rate
    parameters -= move
