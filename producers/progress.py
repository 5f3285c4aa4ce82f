"""What a replay says of itself: while it runs, and at its end."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayProgress:
    """Where a running replay is.

    Attributes:
        total: interactions selected.
        already: of these, in the topic before this run.
        acknowledged: of these, accepted by the broker in this run.
        event_time: of the newest interaction sent, ms; None before the first.
        note: the newest trouble with the broker while nothing is acknowledged, else empty.
    """

    total: int
    already: int
    acknowledged: int
    event_time: int | None
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayResult:
    """How a replay ended.

    Attributes:
        status: ``complete``: this run sent the rest; ``already-complete``: nothing was left to send; ``stopped``: by ``stop()``.
        topic, partitions: where it went.
        dataset, fingerprint: what went there.
        total, already: as in `ReplayProgress`.
        sent: interactions acknowledged in this run.
        unacknowledged: sent, but not acknowledged when a stopped replay gave up waiting; the next run finds out which arrived.
        next_sequence: where a stopped replay goes on; None when complete.
        event_time: of the last interaction sent, ms; None when none was.
        seconds: duration of the sending.
    """

    status: Literal["complete", "already-complete", "stopped"]
    topic: str
    partitions: int
    dataset: str
    fingerprint: str
    total: int
    already: int
    sent: int = 0
    unacknowledged: int = 0
    next_sequence: int | None = None
    event_time: int | None = None
    seconds: float = 0.0
