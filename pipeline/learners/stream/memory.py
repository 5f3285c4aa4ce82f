"""What ids remember of their interactions until they have all their blocks, packed into a part of their record.

A part of int8 [W] begins with the length of what is behind, little-endian; then one entry after the other: the length of the partner's id
in UTF-8, the id, a byte (bit 7: the partner remembers the interaction too; below: label or class), and C logits as float16.

Shape legend: n distinct ids of a field, R remembered interactions, B interactions of a mini-batch, C outputs, W bytes of the part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels import Memory, pack
from autoemb_pipeline.kernels.holding import SHARED
from autoemb_pipeline.kernels.values import LENGTH_BYTES
from autoemb_pipeline.records import FloatArray
from autoemb_pipeline.rows import JoinedTexts, Lent

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Entry:
    """One remembered interaction: the partner's id, the logits without products, the label or class, and whether the partner has it too."""

    partner: str
    offsets: NDArray[np.float16]
    label: int
    shared: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be remembered: so many bytes, and only where more blocks are likely; likely: [2, B]."""

    room: int
    likely: NDArray[np.int8]


def entries(part: NDArray[np.int8], slot: int, outputs: int) -> list[Entry]:
    """What the id in this slot remembers, oldest first. outputs: C."""
    content = part[slot].tobytes()
    place, end = LENGTH_BYTES, LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    known = []
    while place < end:
        size = content[place]
        end_of_id = place + 1 + size
        partner, flags = content[place + 1 : end_of_id].decode(), content[end_of_id]
        offsets = np.frombuffer(content, dtype="<f2", count=outputs, offset=end_of_id + 1)
        known.append(Entry(partner, offsets, flags % SHARED, flags >= SHARED))
        place = end_of_id + 1 + 2 * outputs
    return known


def forget(part: NDArray[np.int8], slots: Integers) -> None:
    """Empties what the ids in these slots remember."""
    part[slots, :LENGTH_BYTES] = 0


def append(
    lent: Lent, position: int, field: int, memory: Memory, local: Integers, labels: Integers, partners: JoinedTexts, limits: Limits
) -> Limits:
    """Packs what the ids of a field remember of a mini-batch behind what they remembered before; what does not fit is not remembered.

    Args:
        lent: the field's records.
        position: of the part in a record.
        field: the ids'.
        memory: as the kernel left it.
        local: [2, B] positions of the interactions' ids.
        labels: [B] label or class.
        partners: the distinct ids of the other side, joined.
        limits: what may be remembered.

    Returns:
        What is left of the limits.
    """
    flags = labels + SHARED * memory.own_shared.astype(np.int64)
    logits = memory.own_offsets.astype("<f2").view(np.uint8)
    room = pack(
        field, (lent.slots, lent.slabs[position]), memory, local, (flags, logits), partners, limits.likely[field], limits.room
    )  # fmt: skip
    return Limits(room, limits.likely)


def as_columns(
    remembered: Sequence[Sequence[Entry]], promoted: Integers, count: int, positions: dict[str, int], outputs: int
) -> tuple[Integers, Integers, FloatArray, Integers, NDArray[np.int8]]:
    """Columns of a field for `Memory`: starts, partners, offsets, labels, shared.

    Args:
        remembered: of each promoted id its entries.
        promoted: their positions among the field's distinct ids, ascending.
        count: n of these.
        positions: of the other side's ids.
        outputs: C.
    """
    sizes = np.zeros(count, dtype=np.int64)
    sizes[promoted] = [len(own) for own in remembered]
    flat = [entry for own in remembered for entry in own]
    return (
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.array([positions[entry.partner] for entry in flat], dtype=np.int64),
        np.array([entry.offsets for entry in flat], dtype=np.float64).reshape(len(flat), outputs),
        np.array([entry.label for entry in flat], dtype=np.int64),
        np.array([entry.shared for entry in flat], dtype=np.int8),
    )
