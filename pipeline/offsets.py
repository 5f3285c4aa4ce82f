"""Sets of offsets as text: ``5,7-90``, ascending; and how partitions of several topics are numbered."""

from collections.abc import Iterable

TOPIC_STRIDE = 1_000_000
"""Partition p of a run's t-th topic (from 0) is number ``t * TOPIC_STRIDE + p`` wherever a run speaks of partitions."""


def offsets_to_text(offsets: Iterable[int]) -> str:
    """The text of a set of offsets; empty for none."""
    ranges: list[list[int]] = []
    for offset in sorted(offsets):
        if ranges and offset == ranges[-1][1] + 1:
            ranges[-1][1] = offset
        else:
            ranges.append([offset, offset])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def offsets_from_text(text: str) -> frozenset[int]:
    """The inverse of `offsets_to_text`. Raises ValueError for another text."""
    offsets: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        offsets.update(range(int(first), int(last or first) + 1))
    return frozenset(offsets)
