"""The controllers' networks in float32: matrix products and tanh by numpy, the rest in compiled loops.

So it measured best: numpy's tanh takes eight numbers at a time where libm's takes one, and is most of the work; but each of numpy's passes
over a small array costs more than its arithmetic. BLAS should have one thread (OPENBLAS_NUM_THREADS=1 before numpy is imported): more only
wait for each other at this size.

A network's parameters are one vector, so that an optimiser's step is a handful of calls: [W_0 | b_0 | W_1 | b_1 | …], W_l of shape [in,
out].

Shape legend: B interactions, K inputs, N spaces, L layers, Q parameters.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import exp
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import kernel

Numbers = NDArray[Any]
"""float32, or float64 in tests."""
Activation = Literal["tanh", "relu"]


def parameter_count(sizes: Sequence[int]) -> int:
    """Q of a network whose layers have these widths: K, hidden ones, N."""
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(sizes))


def layers(parameters: Numbers, sizes: Sequence[int]) -> list[tuple[Numbers, Numbers]]:
    """[in, out] weights and [out] biases of each layer, views of the vector."""
    known, place = [], 0
    for inputs, outputs in pairwise(sizes):
        weight = parameters[place : place + inputs * outputs].reshape(inputs, outputs)
        place += inputs * outputs
        known.append((weight, parameters[place : place + outputs]))
        place += outputs
    return known


def forward(parameters: Numbers, sizes: Sequence[int], inputs: Numbers, activation: Activation = "tanh") -> tuple[Numbers, list[Numbers]]:
    """Weights of the spaces, softmax of the last layer, and what `backward` needs.

    Args:
        parameters: [Q].
        sizes: K, hidden ones, N.
        inputs: [B, K].
        activation: of the hidden layers.

    Returns:
        [B, N] whose rows sum to 1, and the input of each layer.
    """
    hidden = inputs
    taken = []
    network = layers(parameters, sizes)
    for number, (weight, bias) in enumerate(network):
        taken.append(hidden)
        hidden = hidden @ weight
        hidden += bias
        if number < len(network) - 1:
            np.tanh(hidden, out=hidden) if activation == "tanh" else np.maximum(hidden, 0, out=hidden)
    softmax_rows(hidden)
    return hidden, taken


def backward(
    parameters: Numbers, sizes: Sequence[int], taken: Sequence[Numbers], weights: Numbers, slopes: Numbers, activation: Activation = "tanh"
) -> Numbers:
    """Gradient of the summed loss in the parameters.

    Args:
        parameters, sizes, activation: as of `forward`.
        taken, weights: what `forward` returned.
        slopes: [B, N] ∂loss/∂weights, whatever the loss.

    Returns:
        [Q].
    """
    gradient = np.empty_like(parameters)
    network, slots = layers(parameters, sizes), layers(gradient, sizes)
    error = np.empty_like(weights)
    softmax_slopes(weights, slopes, error, slots[-1][1])
    for number in range(len(network) - 1, -1, -1):
        np.matmul(taken[number].T, error, out=slots[number][0])
        if number:
            error = error @ network[number][0].T
            hidden_slopes(taken[number], activation == "tanh", error, slots[number - 1][1])
    return gradient


@kernel
def softmax_rows(logits: Numbers) -> None:
    """[B, N], in place."""
    for i in range(logits.shape[0]):
        row = logits[i]
        top = row[0]
        for n in range(1, len(row)):
            top = max(top, row[n])
        total = 0.0
        for n in range(len(row)):
            row[n] = exp(row[n] - top)
            total += row[n]
        for n in range(len(row)):
            row[n] /= total


@kernel
def softmax_slopes(weights: Numbers, slopes: Numbers, error: Numbers, bias: Numbers) -> None:
    """∂loss/∂logits into error [B, N], their sums over B into bias [N]. weights: softmax of the logits; slopes: ∂loss/∂weights."""
    bias[:] = 0
    for i in range(weights.shape[0]):
        mean = 0.0
        for n in range(weights.shape[1]):
            mean += weights[i, n] * slopes[i, n]
        for n in range(weights.shape[1]):
            error[i, n] = weights[i, n] * (slopes[i, n] - mean)
            bias[n] += error[i, n]


@kernel
def hidden_slopes(hidden: Numbers, tanh: bool, error: Numbers, bias: Numbers) -> None:
    """∂loss/∂(layer's output) in error [B, U] to ∂loss/∂(layer's sums), in place; sums over B into bias [U]. hidden: the layer's output."""
    bias[:] = 0
    for i in range(hidden.shape[0]):
        own, slope = hidden[i], error[i]
        if tanh:
            for k in range(len(own)):
                slope[k] -= slope[k] * own[k] * own[k]
        else:
            for k in range(len(own)):
                if own[k] <= 0:
                    slope[k] = 0
        for k in range(len(own)):
            bias[k] += slope[k]


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
