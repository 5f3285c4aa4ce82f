"""What is kept per id for embeddings, counted, and packed where interactions are remembered.

Shape legend: n ids, N blocks, B interactions, C outputs, W bytes that an id can remember.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import kernel
from autoemb_pipeline.kernels.layout import ABSENT, COUNT, Bytes, Floats, Integers, Memory
from autoemb_pipeline.kernels.values import LENGTH_BYTES, length_of

SHARED = 128
LONGEST = 255  # bytes of an id that can be remembered
ENTERED, LEFT, NEW = 1, 2, 4


class Measured(NamedTuple):
    """Of n lent ids: blocks held, bytes of them and of what is remembered, and whether the id is known."""

    levels: Integers
    sizes: Integers
    known: NDArray[np.bool_]


@kernel
def weigh(slots: Integers, held: Bytes, remembered: Bytes, context: Floats, by_level: Integers, out: Measured) -> None:
    """Measures lent records.

    Args:
        slots: [n].
        held: [slots, N].
        remembered: [slots, W], or [0, 0] where nothing is.
        context: [slots, …].
        by_level: [N + 1] bytes of so many blocks.
        out: [n] each, written.
    """
    for i in range(len(slots)):
        slot, level = slots[i], 0
        for j in range(held.shape[1]):
            level += held[slot, j] != ABSENT
        out.levels[i] = level
        out.sizes[i] = by_level[level] + (length_of(remembered[slot], 0) if len(remembered) else 0)
        out.known[i] = context[slot, COUNT] > 0.0


@kernel
def tally(before: Measured, after: Measured, holders: Integers, changes: Bytes) -> int:
    """What has changed of n ids: `holders` [N + 1], ids by blocks held, in place; changes [n], bits ENTERED, LEFT and NEW, written.

    Returns:
        By how much the bytes have grown.
    """
    grown = 0
    for i in range(len(changes)):
        changes[i] = 0
        if before.known[i]:
            holders[before.levels[i]] -= 1
            grown -= before.sizes[i]
        if after.known[i]:
            holders[after.levels[i]] += 1
            grown += after.sizes[i]
            if not before.known[i]:
                changes[i] |= NEW
        if after.sizes[i] > 0 and before.sizes[i] == 0:
            changes[i] |= ENTERED
        if after.sizes[i] == 0 and before.sizes[i] > 0:
            changes[i] |= LEFT
    return grown


@kernel
def pack(
    field: int,
    lent: tuple[Integers, Bytes],
    memory: Memory,
    local: Integers,
    entries: tuple[Integers, NDArray[np.uint8]],
    partners: tuple[NDArray[np.uint8], Integers],
    likely: Bytes,
    room: int,
) -> int:
    """Packs what the ids of a field remember of a mini-batch behind what they remembered before; what does not fit is not remembered.

    Args:
        field: the ids'.
        lent: [n] their slots, and the part [slots, W] of their records.
        memory: as the event-order kernel left it.
        local: [2, B] positions of the interactions' ids.
        entries: [B] flags, and [B, 2C] the bytes of the logits.
        partners: the distinct ids of the other side, as in `kernels.texts`.
        likely: [B] where it may be remembered.
        room: bytes that may be taken.

    Returns:
        What is left of the room.
    """
    slots, part = lent
    flags, logits = entries
    data, bounds = partners
    for own in range(len(slots)):
        i = memory.heads[field][own]
        if i < 0:
            continue
        row = part[slots[own]]
        used = length_of(row, 0)
        while i >= 0:
            start, end = bounds[local[1 - field, i]], bounds[local[1 - field, i] + 1]
            size = 2 + end - start + logits.shape[1]
            if end - start <= LONGEST and LENGTH_BYTES + used + size <= len(row) and size <= room and likely[i]:
                room -= size
                spot = LENGTH_BYTES + used
                row[spot] = np.int8(np.uint8(end - start))
                for k in range(end - start):
                    row[spot + 1 + k] = np.int8(data[start + k])
                row[spot + 1 + end - start] = np.int8(np.uint8(flags[i]))
                for k in range(logits.shape[1]):
                    row[spot + 2 + end - start + k] = np.int8(logits[i, k])
                used += size
            i = memory.following[field, i]
        row[0], row[1] = np.int8(np.uint8(used & 0xFF)), np.int8(np.uint8(used >> 8))
    return room


@kernel
def unpack(
    slots: Integers, part: Bytes, width: int
) -> tuple[Integers, tuple[NDArray[np.uint8], Integers], NDArray[np.uint8], NDArray[np.uint8]]:
    """The inverse of `pack`: what ids remember, oldest first.

    Args:
        slots: [n].
        part: [slots, W].
        width: 2C, bytes of the logits.

    Returns:
        [n + 1] where each id's R entries begin; the partners' ids, as in `kernels.texts`; flags [R]; [R, 2C] bytes of the logits.
    """
    starts = np.zeros(len(slots) + 1, dtype=np.int64)
    total = 0
    for own in range(len(slots)):
        row, spot = part[slots[own]], LENGTH_BYTES
        end, count = LENGTH_BYTES + length_of(row, 0), 0
        while spot < end:
            size = int(np.uint8(row[spot]))
            total += size
            count += 1
            spot += 2 + size + width
        starts[own + 1] = starts[own] + count
    data, bounds = np.empty(total, dtype=np.uint8), np.zeros(starts[-1] + 1, dtype=np.int64)
    flags, logits = np.empty(starts[-1], dtype=np.uint8), np.empty((starts[-1], width), dtype=np.uint8)
    for own in range(len(slots)):
        row, spot = part[slots[own]], LENGTH_BYTES
        for i in range(starts[own], starts[own + 1]):
            size = int(np.uint8(row[spot]))
            bounds[i + 1] = bounds[i] + size
            for k in range(size):
                data[bounds[i] + k] = np.uint8(row[spot + 1 + k])
            flags[i] = np.uint8(row[spot + 1 + size])
            for k in range(width):
                logits[i, k] = np.uint8(row[spot + 2 + size + k])
            spot += 2 + size + width
    return starts, (data, bounds), flags, logits
