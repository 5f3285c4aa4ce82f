"""The training step last made, as much of it as it takes to differentiate it later, in memory and in checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.optimisers import State
from autoemb_pipeline.learners.common.packing import pack_strings, read, unpack_strings
from autoemb_pipeline.learners.common.tables import GatheredRows
from autoemb_pipeline.learners.common.tensors import array_of
from autoemb_pipeline.learners.paper.recommender import Point
from autoemb_pipeline.learners.search.encoding import EncodedBatch

PREFIX = "trained_step"
_BATCH_TENSORS = ("user_index", "item_index", "user_inputs", "item_inputs", "features", "offset")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedStep:
    """A step W_{t−1} → W_t.

    Attributes:
        batch, target: what it was trained on.
        point: W_{t−1} with the rows' optimiser state.
        dense_state: the dense optimiser's state before the step.
        number: of this step, from 1.
    """

    batch: EncodedBatch
    target: Tensor
    point: Point
    dense_state: Mapping[str, State]
    number: int


def pack_step(step: TrainedStep) -> dict[str, NDArray[Any]]:
    """Copies of everything in the step."""
    out = {f"{PREFIX}/number": np.array(step.number, dtype=np.int64), f"{PREFIX}/target": array_of(step.target)}
    tensors = {name: getattr(step.batch, name) for name in _BATCH_TENSORS}
    out |= {f"{PREFIX}/batch/{name}": array_of(tensor) for name, tensor in tensors.items() if tensor is not None}
    for side, rows in (("users", step.point.users), ("items", step.point.items)):
        out |= pack_strings(f"{PREFIX}/{side}/ids", rows.ids)
        out[f"{PREFIX}/{side}/values"] = array_of(rows.values)
        for slot, tensor in enumerate(rows.state):
            out[f"{PREFIX}/{side}/state{slot}"] = array_of(tensor)
    for key, value in step.point.dense.items():
        out[f"{PREFIX}/dense/value/{key}"] = array_of(value)
        for slot, tensor in enumerate(step.dense_state[key]):
            out[f"{PREFIX}/dense/state{slot}/{key}"] = array_of(tensor)
    return out


def unpack_step(state: Arrays, device: torch.device, keys: Sequence[str]) -> TrainedStep | None:
    """The step that `pack_step` packed, or None where the checkpoint holds none.

    Args:
        state: in any order; files sort names.
        device: of the arithmetic.
        keys: of the dense parameters in the network's order, in which a `Point` lists its leaves.

    Raises:
        CheckpointError: a part of it is missing.
    """
    if f"{PREFIX}/number" not in state:
        return None

    def get(name: str) -> Tensor:
        return torch.from_numpy(read(state, f"{PREFIX}/{name}")).to(device)

    def slots(prefix: str, suffix: str = "") -> State:
        count = 0
        while f"{PREFIX}/{prefix}{count}{suffix}" in state:
            count += 1
        return tuple(get(f"{prefix}{slot}{suffix}") for slot in range(count))

    users, items = (
        GatheredRows(
            ids=unpack_strings(f"{PREFIX}/{side}/ids", state),
            values=get(f"{side}/values").requires_grad_(),
            state=slots(f"{side}/state"),
        )
        for side in ("users", "items")
    )
    names = [name for name in _BATCH_TENSORS if name != "offset" or f"{PREFIX}/batch/offset" in state]
    batch = EncodedBatch(user_ids=users.ids, item_ids=items.ids, **{name: get(f"batch/{name}") for name in names})
    return TrainedStep(
        batch=batch,
        target=get("target"),
        point=Point(dense={key: get(f"dense/value/{key}").requires_grad_() for key in keys}, users=users, items=items),
        dense_state={key: slots("dense/state", f"/{key}") for key in keys},
        number=int(get("number").item()),
    )
