"""What ids remember of their interactions until they have all their blocks, packed into a part of their record.

A part of int8 [W] begins with the length of what is behind, little-endian; then one entry after the other: the length of the partner's id
in UTF-8, the id, a byte (bit 7: the partner remembers the interaction too; below: label or class), and C logits as float16.

Shape legend: n distinct ids of a field, R remembered interactions, B interactions of a mini-batch, C outputs, W bytes of the part.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.columns import Texts
from autoemb_pipeline.kernels import Memory, pack, unpack
from autoemb_pipeline.kernels.holding import SHARED
from autoemb_pipeline.kernels.values import LENGTH_BYTES
from autoemb_pipeline.records import FloatArray
from autoemb_pipeline.rows import JoinedTexts

Integers = NDArray[np.int64]


class Remembered(NamedTuple):
    """What n ids remember, oldest first.

    Attributes:
        starts: [n + 1] where each id's R interactions begin.
        partners: R ids.
        offsets: [R, C] logits without products.
        labels: [R] label or class.
        shared: [R] 1 where the partner remembers it too.
    """

    starts: Integers
    partners: list[str]
    offsets: FloatArray
    labels: Integers
    shared: NDArray[np.int8]


def recall(part: NDArray[np.int8], slots: Integers, outputs: int) -> Remembered:
    """What the ids in these slots remember. outputs: C."""
    starts, partners, flags, logits = unpack(slots, part, 2 * outputs)
    offsets = logits.view("<f2").reshape(len(flags), outputs).astype(np.float64)
    return Remembered(starts, Texts(*partners).to_strings(), offsets, (flags % SHARED).astype(np.int64), (flags // SHARED).astype(np.int8))


def forget(part: NDArray[np.int8], slots: Integers) -> None:
    """Empties what the ids in these slots remember."""
    part[slots, :LENGTH_BYTES] = 0


def append(
    slots: Integers,
    part: NDArray[np.int8],
    field: int,
    memory: Memory,
    local: Integers,
    labels: Integers,
    partners: JoinedTexts,
    likely: NDArray[np.int8],
    room: int,
) -> int:
    """Packs what the ids of a field remember of a mini-batch behind what they remembered before; what does not fit is not remembered.

    Args:
        slots: of the field's ids.
        part: of their records.
        field: the ids'.
        memory: as the kernel left it.
        local: [2, B] positions of the interactions' ids.
        labels: [B] label or class.
        partners: the distinct ids of the other side, joined.
        likely: [B] where more blocks are likely, so that it may be remembered.
        room: bytes that may be taken.

    Returns:
        What is left of the room.
    """
    flags = labels + SHARED * memory.own_shared.astype(np.int64)
    logits = memory.own_offsets.astype("<f2").view(np.uint8)
    return pack(field, (slots, part), memory, local, (flags, logits), partners, likely, room)


def as_columns(
    remembered: Remembered, promoted: Integers, count: int, positions: Mapping[str, int]
) -> tuple[Integers, Integers, FloatArray, Integers, NDArray[np.int8]]:
    """Columns of a field for `Memory`: starts, partners, offsets, labels, shared.

    Args:
        remembered: of the promoted ids.
        promoted: their positions among the field's distinct ids, ascending.
        count: n of these.
        positions: of the other side's ids.
    """
    sizes = np.zeros(count, dtype=np.int64)
    sizes[promoted] = np.diff(remembered.starts)
    partners = np.array([positions[partner] for partner in remembered.partners], dtype=np.int64)
    return np.append(0, np.cumsum(sizes)), partners, remembered.offsets, remembered.labels, remembered.shared
