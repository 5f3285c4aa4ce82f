"""SGD, Adagrad and Adam as pure functions of (gradient, state).

An update is value − rate · direction. Elementwise, so embedding rows and dense layers share them. `direction` can be differentiated
through; `step` makes the same update, to the same bits, in fewer passes over memory and without a graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from autoemb_pipeline.learners.common.choices import OptimiserName, Preconditioner

State = tuple[Tensor, ...]
Tensors = list[Tensor] | tuple[Tensor, ...]


class Optimiser(Protocol):
    """An elementwise first-order method.

    Attributes:
        rate: learning rate.
        slots: state tensors per parameter.
    """

    @property
    def rate(self) -> float:
        """Learning rate."""
        ...

    @property
    def slots(self) -> int:
        """State tensors per parameter tensor, each of its shape."""
        ...

    @property
    def initial(self) -> float:
        """What every state number is before the first step."""
        ...

    def direction(self, gradient: Tensor, state: State, step: int, preconditioner: Preconditioner = "exact") -> tuple[Tensor, State]:
        """The direction of descent and the state after it.

        Args:
            gradient: of the loss.
            state: `slots` tensors.
            step: 1 for the first step of the parameter group (Adam's bias correction counts all steps, not one row's).
            preconditioner: how the direction depends on the gradient when differentiated: `exact` as it is, `detached` with the scaling
                held constant, `sgd` as if the gradient itself were the direction (then it is not the update really made).
        """
        ...

    def step(self, values: Tensors, gradients: Tensors, states: Sequence[State], step: int) -> tuple[list[Tensor], list[State]]:
        """Values and states after a step, as new tensors; call it without gradients. Arguments as of `direction`, a list of each.

        Where Σg² underflows to 0 under a gradient that is not 0, the direction is g/ε instead of 0: below 1e-12 in float32.
        """
        ...


def _scaled(numerator: Tensor, squares: Tensor, epsilon: float, preconditioner: Preconditioner) -> Tensor:
    """numerator / (√squares + ε); where squares is 0, 0 with derivative 0: without any gradient so far there is no slope to pass on."""
    positive = squares > 0
    root = torch.sqrt(torch.where(positive, squares, torch.ones_like(squares)))
    ratio = numerator / ((root if preconditioner == "exact" else root.detach()) + epsilon)
    return torch.where(positive, ratio, torch.zeros_like(ratio))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sgd:
    """Plain stochastic gradient descent."""

    rate: float
    slots: int = 0
    initial: float = 0.0

    def direction(self, gradient: Tensor, state: State, step: int, preconditioner: Preconditioner = "exact") -> tuple[Tensor, State]:  # noqa: ARG002
        """The gradient."""
        return gradient, state

    def step(self, values: Tensors, gradients: Tensors, states: Sequence[State], step: int) -> tuple[list[Tensor], list[State]]:  # noqa: ARG002
        """See `Optimiser.step`."""
        return _moved(values, torch._foreach_mul(gradients, self.rate)), list(states)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adagrad:
    """Adagrad (Duchi et al. 2011), as torch.optim.Adagrad. A row without gradient does not move."""

    rate: float
    initial: float = 0.0
    epsilon: float = 1e-10
    slots: int = 1

    def direction(self, gradient: Tensor, state: State, step: int, preconditioner: Preconditioner = "exact") -> tuple[Tensor, State]:  # noqa: ARG002
        """The gradient over √(Σg²) + ε."""
        accumulated = state[0] + gradient.square()
        if preconditioner == "sgd":
            return gradient, (accumulated,)
        return _scaled(gradient, accumulated, self.epsilon, preconditioner), (accumulated,)

    def step(self, values: Tensors, gradients: Tensors, states: Sequence[State], step: int) -> tuple[list[Tensor], list[State]]:  # noqa: ARG002
        """See `Optimiser.step`."""
        accumulated = torch._foreach_mul(gradients, gradients)
        torch._foreach_add_(accumulated, [state[0] for state in states])
        roots = torch._foreach_sqrt(accumulated)
        torch._foreach_add_(roots, self.epsilon)
        moves = torch._foreach_div(gradients, roots)
        torch._foreach_mul_(moves, self.rate)
        return _moved(values, moves), [(total,) for total in accumulated]


@dataclass(frozen=True, kw_only=True, slots=True)
class Adam:
    """Adam (Kingma and Ba 2015), as torch.optim.Adam for dense layers and as torch.optim.SparseAdam for rows.

    Rows outside the mini-batch keep value and moments (the dense optimiser would go on moving them by their old momentum).
    """

    rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    slots: int = 2
    initial: float = 0.0

    def direction(self, gradient: Tensor, state: State, step: int, preconditioner: Preconditioner = "exact") -> tuple[Tensor, State]:
        """Bias-corrected m̂ / (√v̂ + ε)."""
        first = self.beta1 * state[0] + (1.0 - self.beta1) * gradient
        second = self.beta2 * state[1] + (1.0 - self.beta2) * gradient.square()
        if preconditioner == "sgd":
            return gradient, (first, second)
        corrected = first / (1.0 - self.beta1**step)
        return _scaled(corrected, second / (1.0 - self.beta2**step), self.epsilon, preconditioner), (first, second)

    def step(self, values: Tensors, gradients: Tensors, states: Sequence[State], step: int) -> tuple[list[Tensor], list[State]]:
        """See `Optimiser.step`."""
        first = torch._foreach_mul([state[0] for state in states], self.beta1)
        torch._foreach_add_(first, torch._foreach_mul(gradients, 1.0 - self.beta1))
        second = torch._foreach_mul([state[1] for state in states], self.beta2)
        squares = torch._foreach_mul(gradients, gradients)
        torch._foreach_mul_(squares, 1.0 - self.beta2)
        torch._foreach_add_(second, squares)
        roots = torch._foreach_div(second, 1.0 - self.beta2**step)
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, self.epsilon)
        moves = torch._foreach_div(first, 1.0 - self.beta1**step)
        torch._foreach_div_(moves, roots)
        torch._foreach_mul_(moves, self.rate)
        return _moved(values, moves), list(zip(first, second, strict=True))


def _moved(values: Tensors, moves: Tensors) -> list[Tensor]:
    return list(torch._foreach_sub(values, moves))


def stepped(
    optimiser: Optimiser, values: Tensors, gradients: Tensors, states: Sequence[State], step: int
) -> tuple[list[Tensor], list[State]]:
    """`optimiser.step` as the device does it fastest.

    That is all tensors in one kernel per operation; on the CPU one tensor after the other, which stays in the cache between operations.
    """
    with torch.no_grad():
        if values[0].device.type != "cpu":
            return optimiser.step(values, gradients, states, step)
        new = [optimiser.step([v], [g], [s], step) for v, g, s in zip(values, gradients, states, strict=True)]
        return [own for (own,), _ in new], [state for _, (state,) in new]


def make_optimiser(name: OptimiserName, rate: float, *, initial_accumulator: float = 0.0) -> Optimiser:
    """The optimiser of that name: sgd, adagrad or adam."""
    if name == "sgd":
        return Sgd(rate=rate)
    if name == "adagrad":
        return Adagrad(rate=rate, initial=initial_accumulator)
    return Adam(rate=rate)
