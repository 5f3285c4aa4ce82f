"""A mini-batch as tensors: distinct ids, each interaction's position among them, and what the controllers see.

Shape legend: B interactions, K controller inputs, F context features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoemb_pipeline.learners.common.transfer import to_device
from autoemb_pipeline.learners.search.inputs import controller_inputs
from autoemb_pipeline.records import LearnerInputs, SideContext


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedBatch:
    """One mini-batch on the device.

    Attributes:
        user_ids, item_ids: distinct ids, in order of first occurrence.
        user_index, item_index: [B] positions in these.
        user_inputs, item_inputs: [B, K] for the controllers.
        features: [B, F] context features.
        offset: [B, C] logits that the network's output is added to; None: nothing.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    user_index: Tensor
    item_index: Tensor
    user_inputs: Tensor
    item_inputs: Tensor
    features: Tensor
    offset: Tensor | None = None

    def __len__(self) -> int:
        return len(self.user_index)


def distinct(ids: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Distinct ids in order of first occurrence, and each id's position among them."""
    positions = {identifier: n for n, identifier in enumerate(dict.fromkeys(ids))}
    return tuple(positions), np.fromiter((positions[i] for i in ids), dtype=np.int64, count=len(ids))


def encode(inputs: LearnerInputs, *, dtype: torch.dtype, device: torch.device) -> EncodedBatch:
    """Tensors of one mini-batch."""
    user_ids, user_index = distinct(inputs.user_ids)
    item_ids, item_index = distinct(inputs.item_ids)
    return EncodedBatch(
        user_ids=user_ids,
        item_ids=item_ids,
        user_index=to_device(user_index, device=device),
        item_index=to_device(item_index, device=device),
        user_inputs=to_device(controller_inputs(inputs.users, inputs.global_loss), device=device, dtype=dtype),
        item_inputs=to_device(controller_inputs(inputs.items, inputs.global_loss), device=device, dtype=dtype),
        features=to_device(inputs.features, device=device, dtype=dtype),
        offset=None if inputs.offset is None else to_device(inputs.offset, device=device, dtype=dtype),
    )


def take(inputs: LearnerInputs, rows: NDArray[np.int64]) -> LearnerInputs:
    """The named interactions of a mini-batch, in the order named."""
    return LearnerInputs(
        user_ids=[inputs.user_ids[r] for r in rows],
        item_ids=[inputs.item_ids[r] for r in rows],
        features=inputs.features[rows],
        users=_take_side(inputs.users, rows),
        items=_take_side(inputs.items, rows),
        global_loss=inputs.global_loss,
        class_probabilities=None if inputs.class_probabilities is None else inputs.class_probabilities[rows],
        offset=None if inputs.offset is None else inputs.offset[rows],
    )


def _take_side(side: SideContext, rows: NDArray[np.int64]) -> SideContext:
    return SideContext(
        count=side.count[rows],
        previous_weights=side.previous_weights[rows],
        previous_loss=side.previous_loss[rows],
        fading_loss=side.fading_loss[rows],
    )
