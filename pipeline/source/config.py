"""What the source can be told."""

from dataclasses import dataclass

from pipeline.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """Reading of one topic.

    Attributes:
        topic: the interactions topic.
        run_id: names the consumer group, ``autoemb-<run_id>``, under which lag dashboards find the run.
        until_end: every partition ends at the first end seen of it.
        idle_timeout: seconds that the other partitions wait, on a live stream, for one that has reached its end.
        max_ahead: seconds that an event time may lie beyond the clock, on a live stream; a record beyond is refused. None: any.
        topic_id: the id the topic must have (from a checkpoint); None takes it as it is.
        max_consumers: up to so many partitions each has a consumer of its own; more share one.
        chunk: records decoded at once, and so the most that a partition with its own consumer holds.
        high_mark, low_mark: records held of a partition when a shared consumer pauses it and when it goes on. `pause()` throws prefetched
            records away, so the two lie far apart.
        start_timeout: seconds until a broker that does not answer at the start is an error. Later, outages are waited out.
        check_interval: seconds between two looks at the topic's id.
        truncation_grace: seconds that an end before what was already read may last. After a change of leader the new one may not know
            its whole log to be committed.
    """

    topic: str
    run_id: str
    until_end: bool = False
    idle_timeout: float = 5.0
    max_ahead: float | None = None
    topic_id: str | None = None
    max_consumers: int = 16
    chunk: int = 2000
    high_mark: int = 20_000
    low_mark: int = 10_000
    start_timeout: float = 10.0
    check_interval: float = 5.0
    truncation_grace: float = 30.0

    def __post_init__(self) -> None:
        if not self.topic:
            raise ConfigurationError("The topic's name is empty", remedy="--topic interactions")
        for name in ("idle_timeout", "start_timeout", "check_interval", "truncation_grace"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}", why="seconds cannot be negative")
        if self.max_ahead is not None and self.max_ahead < 0:
            raise ConfigurationError(f"max_ahead is {self.max_ahead}", why="seconds cannot be negative", remedy="--max-ahead 3600")
        if self.max_consumers < 0 or self.chunk < 1:
            raise ConfigurationError(f"max_consumers={self.max_consumers}, chunk={self.chunk}", why="need at least 0 and 1")
        if not 0 <= self.low_mark < self.high_mark:
            raise ConfigurationError(
                f"low_mark={self.low_mark}, high_mark={self.high_mark}",
                why="a paused partition goes on at the low mark",
            )
