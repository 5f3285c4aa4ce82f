"""What ids remember of their interactions until they have all their blocks, packed into a part of their record.

A part of int8 [W] begins with the length of what is behind, little-endian; then one entry after the other: the length of the partner's id
in UTF-8, the id, a byte (bit 7: the partner remembers the interaction too; below: label or class), and C logits as float16.

Shape legend: n distinct ids of a field, R remembered interactions, B interactions of a mini-batch, C outputs, W bytes of the part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels import Memory
from autoemb_pipeline.kernels.values import LENGTH_BYTES
from autoemb_pipeline.records import FloatArray
from autoemb_pipeline.rows import Lent

SHARED = 128
LONGEST = 255  # bytes of an id that can be remembered
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
    """What may be remembered under a budget: so many bytes, and only where more blocks are likely; likely: [2, B]."""

    room: int
    likely: NDArray[np.int8]

    def take(self, size: int, field: int, interaction: int) -> tuple[bool, "Limits"]:
        """Whether an entry of this size may be kept, and what is left then."""
        granted = size <= self.room and bool(self.likely[field, interaction])
        return granted, Limits(self.room - size, self.likely) if granted else self


def used_bytes(part: NDArray[np.int8], slots: Integers) -> Integers:
    """[n] bytes of entries that the ids in these slots remember."""
    head = np.ascontiguousarray(part[slots, :LENGTH_BYTES]).view(np.uint8).astype(np.int64)
    return head[:, 0] + 256 * head[:, 1]


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
    lent: tuple[Lent, Lent],
    position: int,
    field: int,
    memory: Memory,
    local: Integers,
    labels: Integers,
    names: tuple[Sequence[str], Sequence[str]],
    limits: Limits | None = None,
) -> Limits | None:
    """Packs what the ids of a field remember of a mini-batch behind what they remembered before; what does not fit is not remembered.

    Args:
        lent: both sides' records.
        position: of the part in a record.
        field: the ids'.
        memory: as the kernel left it.
        local: [2, B] positions of the interactions' ids.
        labels: [B] label or class.
        names: of both sides the distinct ids.
        limits: under a budget; None for no bound.

    Returns:
        What is left of the limits.
    """
    remembering = np.flatnonzero(memory.heads[field] >= 0)
    slots = lent[field].slots[remembering]
    part = lent[field].slabs[position].view(np.uint8)
    before = used_bytes(lent[field].slabs[position], slots).tolist()
    following, others = memory.following[field].tolist(), local[1 - field].tolist()
    flags = (labels + SHARED * memory.own_shared.astype(np.int64)).tolist()
    size = 2 * memory.own_offsets.shape[1]
    offsets, partners, width = memory.own_offsets.astype("<f2").tobytes(), names[1 - field], part.shape[1]
    for slot, used, head in zip(slots.tolist(), before, memory.heads[field][remembering].tolist(), strict=True):
        packed, i = b"", head
        while i >= 0:
            partner = partners[others[i]].encode()
            entry = b"%c%b%c%b" % (min(len(partner), LONGEST), partner, flags[i], offsets[i * size : (i + 1) * size])
            fits = len(partner) <= LONGEST and LENGTH_BYTES + used + len(packed) + len(entry) <= width
            if fits and limits is not None:
                fits, limits = limits.take(len(entry), field, i)
            if fits:
                packed += entry
            i = following[i]
        if packed:
            start, end = LENGTH_BYTES + used, LENGTH_BYTES + used + len(packed)
            part[slot, start:end] = np.frombuffer(packed, dtype=np.uint8)
            part[slot, :LENGTH_BYTES] = divmod(used + len(packed), 256)[::-1]
    return limits


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
