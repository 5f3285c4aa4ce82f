"""What a prediction may know of labels, as a test that flips one asks it."""

from collections.abc import Sequence

from autoemb_pipeline.records import Interaction


def may_know(stream: Sequence[Interaction], mode: str, flipped: int, event: int, *, size: int) -> bool:
    """Whether the prediction of one event may change with the label of another, in mini-batches of a size (docs/architecture.md, Honesty)."""
    if mode == "batch":
        return event // size > flipped // size
    if mode == "strict" and event // size == flipped // size:
        return event > flipped and stream[event].timestamp > stream[flipped].timestamp
    return event > flipped
