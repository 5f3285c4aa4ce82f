"""The controllers' networks in float32: forward, backward and optimiser by plain matrix products of numpy.

Measured against compiled loops: numpy's tanh takes eight numbers at a time, libm's one, and the hidden layer's tanh is most of the work. BLAS should
have one thread (OPENBLAS_NUM_THREADS=1 before numpy is imported): more only wait for each other at this size.

A network's parameters are one vector, so that an optimiser's step is a handful of calls: [W_0 | b_0 | W_1 | b_1 | …], W_l of shape [in, out].

Shape legend: B interactions, K inputs, N spaces, L layers, Q parameters.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
"""float32, or float64 in tests."""
Activation = Literal["tanh", "relu"]


def parameter_count(sizes: Sequence[int]) -> int:
    """Q of a network whose layers have these widths: K, hidden ones, N."""
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(sizes))


def layers(parameters: Numbers, sizes: Sequence[int]) -> list[tuple[Numbers, Numbers]]:
    """[in, out] weights and [out] biases of each layer, views of the vector."""
    found, at = [], 0
    for inputs, outputs in pairwise(sizes):
        weight = parameters[at : at + inputs * outputs].reshape(inputs, outputs)
        at += inputs * outputs
        found.append((weight, parameters[at : at + outputs]))
        at += outputs
    return found


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
    hidden -= hidden.max(axis=1, keepdims=True)
    np.exp(hidden, out=hidden)
    hidden /= hidden.sum(axis=1, keepdims=True)
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
    error = weights * (slopes - (weights * slopes).sum(axis=1, keepdims=True))
    for number in range(len(network) - 1, -1, -1):
        np.matmul(taken[number].T, error, out=slots[number][0])
        error.sum(axis=0, out=slots[number][1])
        if number == 0:
            break
        hidden = taken[number]
        error = error @ network[number][0].T
        error *= 1 - hidden * hidden if activation == "tanh" else hidden > 0
    return gradient


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
