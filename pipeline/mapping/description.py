"""A stream as its file describes it: which topics, which format, and where in a record the fields of an interaction stand."""

from dataclasses import dataclass
from itertools import permutations
from typing import Literal

from autoemb_pipeline.errors import ConfigurationError

Path = tuple[str, ...]
"""Keys from the record's root to a field."""
Format = Literal["autoemb", "json", "avro"]
Unit = Literal["ms", "s", "us", "iso8601", "record"]
Others = Literal["skip", "dead-letter"]

MOST_EVENTS = 5_000_000  # ids that a window may hold, at 100 bytes each
_FLAG_THRESHOLD = 0.5


def dotted(path: Path) -> str:
    """A path as people write it."""
    return ".".join(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRule:
    """How a field becomes a label. Without `positive_above` and `positive` it is a flag: 0 or 1, false or true.

    Attributes:
        field: where it stands.
        positive_above: it is a number, positive above this one.
        positive, negative: it is a type of event, positive or negative for these types.
        others: what becomes of records of other types.
    """

    field: Path
    positive_above: float | None = None
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    others: Others = "skip"

    def __post_init__(self) -> None:
        if self.positive_above is not None and (self.positive or self.negative):
            raise ConfigurationError(
                "[label] has both positive_above and types of events",
                why="the first is of a number, the second of a text",
                remedy='keep one of them: positive_above = 3.5, or positive = ["buy"] with negative = ["view"]',
            )
        if self.negative and not self.positive:
            raise ConfigurationError("[label] has negative types and no positive ones", remedy='add positive = ["buy", "click"]')
        if self.positive and not self.negative:
            raise ConfigurationError(
                "[label] has positive types of events only",
                why="from positives alone nothing is learnt, and drawing negatives is not part of this version",
                remedy='name the types that are seen and not acted upon, too: negative = ["view"]',
            )
        both = sorted(set(self.positive) & set(self.negative))
        if both:
            raise ConfigurationError(f"[label] names {both} as positive and as negative", remedy="leave each in one of the two lists")

    @property
    def is_number(self) -> bool:
        """Whether the label's own value is kept, so that the rating task can be trained on it."""
        return self.positive_above is not None

    @property
    def threshold(self) -> float:
        """Above it an interaction is positive."""
        return _FLAG_THRESHOLD if self.positive_above is None else self.positive_above


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordMapping:
    """Where in a record the fields of an interaction stand.

    Attributes:
        user, item: ids, texts or integers.
        label: the rule.
        unit: of the timestamp; ``record`` is the Kafka record's own time.
        timestamp: the field of any other unit.
        id: the event's own id, by which re-deliveries are recognised.
        id_window: so many events are remembered for that.
        sequence: an integer that ascends with the events, and orders those of equal time.
        schema: the Avro schema of the values, as JSON; None: each value names its own in the schema registry.
    """

    user: Path
    item: Path
    label: LabelRule
    unit: Unit
    timestamp: Path | None = None
    id: Path | None = None
    id_window: int = 200_000
    sequence: Path | None = None
    schema: str | None = None

    def __post_init__(self) -> None:
        if self.unit == "record" and self.timestamp is not None:
            raise ConfigurationError(
                '[timestamp] has a field and unit = "record"',
                why="that unit is the time which Kafka keeps of each record, beside its value",
                remedy="remove field, or give the unit of its values: ms, s, us or iso8601",
            )
        if self.unit != "record" and self.timestamp is None:
            raise ConfigurationError(
                f'[timestamp] has unit = "{self.unit}" and no field',
                remedy='add field = "ts"; or give unit = "record", for the time that Kafka keeps of each record',
            )
        if not 0 < self.id_window <= MOST_EVENTS:
            raise ConfigurationError(
                f"[fields] id_window is {self.id_window}", why=f"it is a number of events between 1 and {MOST_EVENTS:,}, at 100 bytes each"
            )
        if self.user == self.item:
            raise ConfigurationError(f"[fields] user and item are both {dotted(self.user)!r}", remedy="give the path of each")
        for one, other in permutations(self.paths, 2):
            if one == other[: len(one)]:
                raise ConfigurationError(
                    f"The path {dotted(other)!r} leads through {dotted(one)!r}, which is a field itself",
                    why="a value cannot be an object and an id at once",
                    remedy="look at one record and give each field's own path",
                )

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them, each once."""
        given = (self.user, self.item, self.label.field, self.timestamp, self.id, self.sequence)
        return tuple(dict.fromkeys(path for path in given if path is not None))


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamDescription:
    """A stream to train on.

    Attributes:
        topics: of one shape; their order numbers the partitions.
        format: ``autoemb`` for this project's own records, which say of themselves where what stands.
        record: where it stands in records of another format.
    """

    topics: tuple[str, ...]
    format: Format = "autoemb"
    record: RecordMapping | None = None

    def __post_init__(self) -> None:
        if not self.topics or not all(self.topics):
            raise ConfigurationError("[input] topics names no topic", remedy='topics = ["clicks"]')
        if len(set(self.topics)) < len(self.topics):
            raise ConfigurationError(f"[input] topics names one twice: {list(self.topics)}")
        if (self.record is None) != (self.format == "autoemb"):
            raise ConfigurationError(
                f'[fields], [timestamp] and [label] do not go with format = "{self.format}"'
                if self.record
                else f'format = "{self.format}" needs [fields], [timestamp] and [label]',
                why="records of this project's own schema say of themselves what is what; of others it must be described",
                remedy="autoemb-pipeline stream init --topic TOPIC --output stream.toml writes a description of what a topic holds",
            )

    @property
    def events_kept(self) -> int:
        """How many events' ids are remembered; 0 where they have none."""
        return 0 if self.record is None or self.record.id is None else self.record.id_window
