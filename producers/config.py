"""What a replay is asked for."""

import math
from dataclasses import dataclass

from autoemb_pipeline.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """What to send, how fast.

    Attributes:
        topic: exists already (``autoemb_pipeline.ops.topics.ensure_interactions_topic``).
        partitions: the number of partitions the topic must have; None: whatever it has.
        speed: multiple of event time (60: an hour of it a minute); None: as fast as the broker takes it.
        limit, from_ms, until_ms: see `SortedDataset.select`.
        flush_seconds: how long a stopped replay waits for acknowledgements.
        buffer_messages, buffer_kbytes: bounds of the records waiting to be acknowledged.
    """

    topic: str = "interactions"
    partitions: int | None = None
    speed: float | None = None
    limit: int | None = None
    from_ms: int | None = None
    until_ms: int | None = None
    flush_seconds: float = 30.0
    buffer_messages: int = 100_000
    buffer_kbytes: int = 65_536

    def __post_init__(self) -> None:
        """Refuses impossible settings; the time range is checked against the dataset."""
        if self.partitions is not None and self.partitions < 1:
            raise ConfigurationError(f"{self.partitions} partitions", why="a topic has at least one", remedy="give --partitions 1 or more")
        if self.speed is not None and not 0 < self.speed < math.inf:
            raise ConfigurationError(f"speed {self.speed}", why="not a positive number", remedy="give --speed max, or e.g. --speed 3600")
        if self.buffer_messages < 1 or self.buffer_kbytes < 1 or self.flush_seconds < 0:
            raise ConfigurationError("a buffer or a wait below its least value", why="nothing could be sent", remedy="use the defaults")
