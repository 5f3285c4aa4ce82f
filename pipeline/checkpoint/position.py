"""A run's position in its stream, as a checkpoint's manifest holds it."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.offsets import offsets_from_text, offsets_to_text
from autoemb_pipeline.records import RereadPosition, RunPosition
from autoemb_pipeline.remembered import Chain, Column, Remembered

EVENTS, REREAD_EVENTS = "position.events", "position.reread_events"


def position_to_json(position: RunPosition) -> dict[str, Any]:
    """A position as JSON values."""
    reread = position.reread
    return {
        "next_offsets": _offsets_to_json(position.next_offsets),
        "deliveries": _deliveries_to_json(position.deliveries),
        "frontier": None if position.frontier is None else list(position.frontier),
        "first_offsets": _offsets_to_json(position.first_offsets),
        "offline_end": None if position.offline_end is None else _offsets_to_json(position.offline_end),
        "refused": {str(partition): offsets_to_text(offsets) for partition, offsets in sorted(position.refused.items())},
        "reread": None
        if reread is None
        else {
            "epoch": reread.epoch,
            "next_offsets": _offsets_to_json(reread.next_offsets),
            "deliveries": _deliveries_to_json(reread.deliveries),
        },
    }


def position_tensors(position: RunPosition) -> dict[str, NDArray[np.int64]]:
    """What of a position is too long for JSON: the windows of events, under names of their own."""
    windows = {EVENTS: position.events, REREAD_EVENTS: b"" if position.reread is None else position.reread.events}
    return {name: np.frombuffer(events, "<i8") for name, events in windows.items() if events}


def position_from_json(value: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]] = MappingProxyType({})) -> RunPosition:
    """The inverse of `position_to_json` and `position_tensors`."""
    frontier: Sequence[Any] | None = value["frontier"]
    end, reread = value["offline_end"], value["reread"]
    return RunPosition(
        next_offsets=_offsets_from_json(value["next_offsets"]),
        deliveries=_deliveries_from_json(value["deliveries"]),
        frontier=None if frontier is None else (frontier[0], frontier[1], frontier[2]),
        first_offsets=_offsets_from_json(value["first_offsets"]),
        offline_end=None if end is None else _offsets_from_json(end),
        refused={int(partition): offsets_from_text(text) for partition, text in value["refused"].items()},
        events=_window(tensors, EVENTS),
        reread=None
        if reread is None
        else RereadPosition(
            epoch=reread["epoch"],
            next_offsets=_offsets_from_json(reread["next_offsets"]),
            deliveries=_deliveries_from_json(reread["deliveries"]),
            events=_window(tensors, REREAD_EVENTS),
        ),
    )


def _window(tensors: Mapping[str, NDArray[Any]], name: str) -> bytes:
    return tensors[name].astype("<i8").tobytes() if name in tensors else b""


def _offsets_to_json(offsets: Mapping[int, int]) -> dict[str, int]:
    return {str(partition): offset for partition, offset in sorted(offsets.items())}


def _offsets_from_json(value: Mapping[str, int]) -> dict[int, int]:
    return {int(partition): offset for partition, offset in value.items()}


def _deliveries_to_json(deliveries: Mapping[int, Sequence[Remembered]]) -> dict[str, list[Any]]:
    return {str(p): [[entry.dataset, *map(_chain_to_json, entry.chains)] for entry in known] for p, known in sorted(deliveries.items())}


def _deliveries_from_json(value: Mapping[str, Sequence[Sequence[Any]]]) -> dict[int, tuple[Remembered, ...]]:
    return {int(p): tuple(Remembered(name, tuple(map(_chain_from_json, chains))) for name, *chains in known) for p, known in value.items()}


def _chain_to_json(chain: Chain) -> list[list[int]]:
    """Differences, since they are short: a checkpoint is written every minute."""
    extents = (_minus(chain.last, chain.first), _minus(chain.high, chain.low))
    return [_steps(chain.first), extents[0], _steps(chain.low), extents[1]]


def _chain_from_json(value: Sequence[Sequence[int]]) -> Chain:
    first, low = tuple(accumulate(value[0])), tuple(accumulate(value[2]))
    return Chain(first, _plus(first, value[1]), low, _plus(low, value[3]))


def _steps(column: Column) -> list[int]:
    return [b - a for a, b in pairwise((0, *column))]


def _minus(one: Iterable[int], other: Iterable[int]) -> list[int]:
    return [a - b for a, b in zip(one, other, strict=True)]


def _plus(one: Iterable[int], other: Iterable[int]) -> Column:
    return tuple(a + b for a, b in zip(one, other, strict=True))
