"""Logistic (rating: softmax) regression by online Newton steps: H += Σ p(1-p)·zzᵀ, w -= H⁻¹ Σ (p-y)·z, with the w of the predictions.

The softmax form has block matrices p_c([c=d] - p_d)·zzᵀ. In compiled code rather than by BLAS: as fast for a hundred inputs, and its bits
depend on no number of threads. Matrices are kept whole, but only their lower triangle is read.

Shape legend: B interactions, m of them, M inputs, C outputs (1 for the binary task).
"""

from math import sqrt

import numpy as np

from autoemb_pipeline.kernels.compiling import helper, kernel
from autoemb_pipeline.kernels.layout import Floats, Integers
from autoemb_pipeline.kernels.sums import dot


@helper
def _add_gram(inputs: Floats, which: Integers, weights: Floats, rows: int, columns: int, matrix: Floats) -> None:
    """Adds Σ w_b z_b z_bᵀ to the block of `matrix` at (rows, columns), for its lower triangle; eight interactions at a time."""
    count, width = len(which), inputs.shape[1]
    b = 0
    while b + 8 <= count:
        z0, z1, z2, z3 = inputs[which[b]], inputs[which[b + 1]], inputs[which[b + 2]], inputs[which[b + 3]]
        z4, z5, z6, z7 = inputs[which[b + 4]], inputs[which[b + 5]], inputs[which[b + 6]], inputs[which[b + 7]]
        for i in range(width):
            a0, a1, a2, a3 = weights[b] * z0[i], weights[b + 1] * z1[i], weights[b + 2] * z2[i], weights[b + 3] * z3[i]
            a4, a5, a6, a7 = weights[b + 4] * z4[i], weights[b + 5] * z5[i], weights[b + 6] * z6[i], weights[b + 7] * z7[i]
            row = matrix[rows + i, columns:]
            for j in range(i + 1):
                row[j] += ((a0 * z0[j] + a1 * z1[j]) + (a2 * z2[j] + a3 * z3[j])) + ((a4 * z4[j] + a5 * z5[j]) + (a6 * z6[j] + a7 * z7[j]))
        b += 8
    while b < count:
        z0 = inputs[which[b]]
        for i in range(width):
            a0 = weights[b] * z0[i]
            row = matrix[rows + i, columns:]
            for j in range(i + 1):
                row[j] += a0 * z0[j]
        b += 1


@helper
def _mirror(matrix: Floats, width: int, outputs: int) -> None:
    """Fills each symmetric block's upper triangle from its lower one, and the blocks above the diagonal from those below."""
    for c in range(outputs):
        for d in range(c + 1):
            for i in range(width):
                for j in range(i):
                    matrix[c * width + j, d * width + i] = matrix[c * width + i, d * width + j]
            if d < c:
                for i in range(width):
                    for j in range(width):
                        matrix[d * width + i, c * width + j] = matrix[c * width + i, d * width + j]


@kernel
def newton_observe(
    inputs: Floats, which: Integers, probabilities: Floats, binary: Floats, classes: Integers, precision: Floats, gradient: Floats
) -> None:
    """Adds m interactions' curvature to `precision` and their slope to `gradient`; leaves the weights.

    Args:
        inputs: [B, M].
        which: [m] rows of `inputs`, `probabilities` and the labels.
        probabilities: [B, C] as predicted.
        binary, classes: [B] labels; which of both counts follows from C.
        precision: [C·M, C·M] H.
        gradient: [C, M] of the summed cross-entropy.
    """
    outputs, width = gradient.shape
    weights = np.empty(len(which))
    for c in range(outputs):
        for b in range(len(which)):
            i = which[b]
            target = binary[i] if outputs == 1 else (1.0 if classes[i] == c else 0.0)
            error = probabilities[i, c] - target
            z, slope = inputs[i], gradient[c]
            for k in range(width):
                slope[k] += error * z[k]
        for d in range(c + 1):
            for b in range(len(which)):
                p = probabilities[which[b], c]
                weights[b] = p * ((1.0 if c == d else 0.0) - probabilities[which[b], d])
            _add_gram(inputs, which, weights, c * width, d * width, precision)
    _mirror(precision, width, outputs)


@kernel
def newton_descend(weights: Floats, precision: Floats, gradient: Floats) -> None:
    """w -= H⁻¹ gradient by Cholesky's H = L Lᵀ; then the gradient is 0. weights, gradient: [C, M]; of H the lower triangle counts."""
    size = gradient.size
    lower = np.empty((size, size))
    x = np.empty(size)
    slope, moved = gradient.reshape(size), weights.reshape(size)
    for k in range(size):
        row = lower[k]
        for i in range(k):
            row[i] = (precision[k, i] - dot(row, lower[i], 0, i)) / lower[i, i]
        row[k] = sqrt(precision[k, k] - dot(row, row, 0, k))
        x[k] = (slope[k] - dot(row, x, 0, k)) / row[k]
    for k in range(size - 1, -1, -1):
        x[k] /= lower[k, k]
        for i in range(k):
            x[i] -= lower[k, i] * x[k]
    for k in range(size):
        moved[k] -= x[k]
        slope[k] = 0.0
