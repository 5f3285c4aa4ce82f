"""The dense parameters of a module, with the state of the optimiser that updates them together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.layers import Parameters, ParametersView
from autoemb_pipeline.learners.common.optimisers import Optimiser, State, stepped
from autoemb_pipeline.learners.common.packing import restored
from autoemb_pipeline.learners.common.tensors import array_of


class DenseParameters:
    """A module and the parameters it is called with.

    Values are replaced, never changed in place, so a reference to `values` taken before a step still holds that moment, and the module
    can be called with any of them. The module keeps no numbers of its own.

    Args:
        name: prefix in the checkpoint.
        module: has the parameters before the first step.
        optimiser: updates them.
        dtype, device: of the arithmetic.
        bf16: whether the module's matrices are multiplied in bfloat16.
    """

    def __init__(
        self, name: str, module: nn.Module, optimiser: Optimiser, *, dtype: torch.dtype, device: torch.device, bf16: bool = False
    ) -> None:
        self.name = name
        self.optimiser = optimiser
        self.steps = 0
        self.values: Parameters = {key: value.detach().to(device, dtype).requires_grad_() for key, value in module.named_parameters()}
        self.state: dict[str, State] = {
            key: tuple(torch.full_like(value, optimiser.initial, requires_grad=False) for _ in range(optimiser.slots))
            for key, value in self.values.items()
        }
        self._module = module.to("meta")
        self._bf16 = bf16

    def call(self, values: ParametersView, *inputs: Any) -> Any:
        """What the module gives with these values of its parameters, differentiable in them."""
        if not self._bf16:
            return functional_call(self._module, dict(values), inputs)
        device = next(iter(values.values())).device.type
        with torch.autocast(device, dtype=torch.bfloat16):
            return functional_call(self._module, dict(values), inputs)

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """One step. gradients: in the order of `values`."""
        self.steps += 1
        values, states = stepped(self.optimiser, list(self.values.values()), list(gradients), list(self.state.values()), self.steps)
        self.state = dict(zip(self.values, states, strict=True))
        self.values = {key: value.requires_grad_() for key, value in zip(self.values, values, strict=True)}

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies, under names that start with this group's."""
        out = {f"{self.name}/steps": np.array(self.steps, dtype=np.int64)}
        for key, value in self.values.items():
            out[f"{self.name}/value/{key}"] = array_of(value)
            for slot, tensor in enumerate(self.state[key]):
                out[f"{self.name}/state{slot}/{key}"] = array_of(tensor)
        return out

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave.

        Raises:
            CheckpointError: an array is missing, or of another shape or type.
        """
        self.steps = int(restored(state, f"{self.name}/steps", np.array(0, dtype=np.int64)))
        for key, value in self.values.items():
            like = array_of(value)
            names = [f"value/{key}", *(f"state{slot}/{key}" for slot in range(self.optimiser.slots))]
            own, *slots = (torch.from_numpy(restored(state, f"{self.name}/{name}", like)).to(value.device) for name in names)
            self.values[key], self.state[key] = own.requires_grad_(), tuple(slots)
