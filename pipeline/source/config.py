"""What the source can be told."""

from dataclasses import dataclass

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.offsets import TOPIC_STRIDE
from autoemb_pipeline.records import StartAt


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """Reading of one topic.

    Attributes:
        topic: the interactions topic.
        further_topics: more of the same shape. Partitions are numbered over all of them (`autoemb_pipeline.offsets.TOPIC_STRIDE`).
        run_id: names the consumer group, ``autoemb-<run_id>``, under which lag dashboards find the run.
        until_end: every partition ends at the end first seen of it, records behind an open transaction included; the set of partitions
            is the one at the start.
        idle_timeout: seconds that the other partitions wait, on a live stream, for one that has reached its end.
        max_ahead: seconds that an event time may lie beyond the clock, on a live stream; a record beyond is refused. None: any.
        topic_id: the id the topic must have (from a checkpoint), those of several separated by commas; None takes them as they are.
        start_at: where a run without a position begins.
        max_consumers: up to so many partitions each has a consumer of its own; more share one.
        chunk: records decoded at once, and so the most that a partition with its own consumer holds.
        high_mark, low_mark: records held of a partition when a shared consumer pauses it and when it goes on. `pause()` throws prefetched
            records away, so the two lie far apart.
        start_timeout: seconds until a broker that does not answer at the start is an error. Later, outages are waited out.
        check_interval: seconds between two looks at the topic's id and its number of partitions.
        truncation_grace: seconds that an end before what was already read may last. After a change of leader the new one may not know
            its whole log to be committed.
        transaction_patience: with `until_end`, seconds that somebody's open transaction may hide a partition's end. Longer than a broker
            keeps one open whose producer died (transaction.timeout.ms, 60 s by default, looked at every 10 s).
    """

    topic: str
    run_id: str
    further_topics: tuple[str, ...] = ()
    start_at: StartAt = None
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
    transaction_patience: float = 90.0

    def __post_init__(self) -> None:
        if not all(self.topics):
            raise ConfigurationError("The topic's name is empty", remedy="--topic interactions")
        for name in ("idle_timeout", "start_timeout", "check_interval", "truncation_grace", "transaction_patience"):
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

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics, in the order that numbers their partitions."""
        return (self.topic, *self.further_topics)

    @property
    def names(self) -> str:
        """The topics, for messages."""
        return ", ".join(self.topics)

    def topic_of(self, partition: int) -> str:
        """The topic of a partition by its number over all topics."""
        return self.topics[partition // TOPIC_STRIDE]

    def named(self, partition: int) -> str:
        """The partition, for messages."""
        return f"Partition {partition % TOPIC_STRIDE} of topic {self.topic_of(partition)!r}"
