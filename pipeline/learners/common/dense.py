"""The dense parameters of a module, with the state of the optimiser that updates them together."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoemb_pipeline.errors import CheckpointError
from autoemb_pipeline.learners.common.layers import Parameters, ParametersView
from autoemb_pipeline.learners.common.optimisers import Optimiser, State, stepped


class DenseParameters:
    """A module and the parameters it is called with.

    Values are replaced, never changed in place, so a reference to `values` taken before a step still holds that moment, and the module
    can be called with any of them. The module keeps no numbers of its own.

    Args:
        name: prefix in the checkpoint.
        module: has the parameters before the first step.
        optimiser: updates them.
        dtype, device: of the arithmetic.
    """

    def __init__(self, name: str, module: nn.Module, optimiser: Optimiser, *, dtype: torch.dtype, device: torch.device) -> None:
        self.name = name
        self.optimiser = optimiser
        self.steps = 0
        self.values: Parameters = {key: value.detach().to(device, dtype).requires_grad_() for key, value in module.named_parameters()}
        self.state: dict[str, State] = {
            key: tuple(torch.full_like(value, optimiser.initial, requires_grad=False) for _ in range(optimiser.slots))
            for key, value in self.values.items()
        }
        self._module = module.to("meta")

    def call(self, values: ParametersView, *inputs: Any) -> Any:
        """What the module gives with these values of its parameters, differentiable in them."""
        return functional_call(self._module, dict(values), inputs)

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """One step. gradients: in the order of `values`."""
        self.steps += 1
        values, states = stepped(self.optimiser, list(self.values.values()), gradients, list(self.state.values()), self.steps)
        self.state = dict(zip(self.values, states, strict=True))
        self.values = {key: value.requires_grad_() for key, value in zip(self.values, values, strict=True)}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies on the CPU, under names that start with this group's."""
        out = {f"{self.name}/steps": torch.tensor(self.steps, dtype=torch.int64)}
        for key, value in self.values.items():
            out[f"{self.name}/value/{key}"] = value.detach().to("cpu", copy=True)
            for slot, tensor in enumerate(self.state[key]):
                out[f"{self.name}/state{slot}/{key}"] = tensor.to("cpu", copy=True)
        return out

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            CheckpointError: a tensor is missing, or of another shape or type.
        """
        self.steps = int(self._read(state, "steps", torch.tensor(0)).item())
        for key, value in self.values.items():
            restored = self._read(state, f"value/{key}", value).to(value.device, copy=True)
            slots = range(self.optimiser.slots)
            self.state[key] = tuple(self._read(state, f"state{slot}/{key}", value).to(value.device, copy=True) for slot in slots)
            self.values[key] = restored.requires_grad_()

    def _read(self, state: Mapping[str, Tensor], key: str, like: Tensor) -> Tensor:
        name = f"{self.name}/{key}"
        stored = state.get(name)
        if stored is None or stored.shape != like.shape or stored.dtype != like.dtype:
            what = "is missing" if stored is None else f"is {tuple(stored.shape)} {stored.dtype}, not {tuple(like.shape)} {like.dtype}"
            raise CheckpointError(
                f"the checkpoint's tensor {name} {what}", why="it is of another configuration", remedy="start with its options"
            )
        return stored.detach()
