"""How far a run got, read back from the topics it wrote (docs/architecture.md, invariants 3, 4 and 8).

With transactions open the run's `TransactionalProducer` first: it ends the transaction an earlier trainer of the run may have left open.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError

from autoemb_pipeline.errors import AutoembError, BrokerError, ConfigurationError, DecodeError, OffsetError, StateError, TopicError
from autoemb_pipeline.kafka.errors import OUT_OF_RANGE, output_error, told
from autoemb_pipeline.kafka.reader import TopicReader
from autoemb_pipeline.kafka.stalls import BrokerWait
from autoemb_pipeline.offsets import offsets_from_text
from autoemb_pipeline.schemas.metrics import PREQUENTIAL, parse_metrics
from autoemb_pipeline.schemas.registry import REGISTRY_MAGIC, RegistryCodec
from autoemb_pipeline.sink.producer import PARTITION

# Longer than a broker keeps a transaction open whose producer died (transaction.timeout.ms, 60 s by default, checked every 10 s).
_PATIENCE_SECONDS = 90.0
_RETRY_SECONDS = 0.1
_UNKNOWN_SECONDS = 30.0

Headers = Sequence[tuple[str, bytes]]
_Boundary = tuple[int, dict[int, int], dict[int, frozenset[int]], Mapping[str, Any]]

_CHOICES = "Start a new run: autoemb-pipeline train --new-run\nor name the topic this run wrote to with --metrics-topic, if it was another."


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedRun:
    """What the metrics topic holds of one run, from a position on.

    Attributes:
        next_offsets: step -> partition -> offset of the first record after it.
        rereads: the steps that read the offline stage again; their offsets are of that epoch.
        paused_at: the last step of the offline stage's first epoch, where steps beyond it are recorded; else None.
        refused: step -> partition -> offsets of its records that were refused by the clock, where there are any.
        examples: step -> interactions of the run up to it.
    """

    next_offsets: Mapping[int, Mapping[int, int]]
    examples: Mapping[int, int] = field(default_factory=dict)
    rereads: frozenset[int] = frozenset()
    paused_at: int | None = None
    refused: Mapping[int, Mapping[int, frozenset[int]]] = field(default_factory=dict)

    @property
    def last_step(self) -> int:
        """M: the last step recorded; 0 without any."""
        return max(self.next_offsets, default=0)

    def after(self, step: int) -> Mapping[int, Mapping[int, int]]:
        """The boundaries of the steps after a checkpoint's, up to M, in order.

        Raises:
            StateError: one of them is missing: the metrics between the checkpoint and M cannot be what this run wrote.
        """
        expected = range(step + 1, self.last_step + 1)
        missing = next((number for number in expected if number not in self.next_offsets), None)
        if missing is not None:
            raise StateError(
                f"The metrics topic lacks step {missing} of this run, but holds step {self.last_step}.",
                why="Records were deleted from it, or two trainers wrote to it under one run id.",
                remedy=_CHOICES,
            )
        return {number: self.next_offsets[number] for number in expected}


def topic_ranges(kafka_config: Mapping[str, str], topics: Sequence[str], *, timeout: float = 10.0) -> list[tuple[int, int]]:
    """(first offset, offset at which it goes on) of partition 0 of each metrics or dead-letter topic.

    After the producer's `flush` every record sent before lies below the second, and every one sent later at or above it: it is where
    `read_run` begins after a checkpoint.

    Raises:
        TopicError: no such topic.
        BrokerError: no answer within ``timeout`` seconds.
    """
    ranges = []
    for topic in topics:
        with _reader(kafka_config, topic, committed=False) as reader:
            ranges.append(reader.offsets(PARTITION, timeout=timeout))
    return ranges


def wait_for_ranges(kafka_config: Mapping[str, str], topics: Sequence[str]) -> list[tuple[int, int]]:
    """`topic_ranges` in the middle of a run: outages of the broker are waited out, and one just started may not know its topics yet.

    Raises:
        TopicError: no such topic, for half a minute.
    """
    wait, give_up = BrokerWait(), time.monotonic() + _UNKNOWN_SECONDS
    while True:
        try:
            return topic_ranges(kafka_config, topics)
        except BrokerError as error:
            wait.because(error.why)
            give_up = time.monotonic() + _UNKNOWN_SECONDS
        except TopicError:
            if time.monotonic() >= give_up:
                raise
        wait.waiting(0)
        time.sleep(_RETRY_SECONDS)


def read_run(
    kafka_config: Mapping[str, str],
    topic: str,
    run_id: str,
    from_offset: int,
    *,
    registry: RegistryCodec | None = None,
    patience: float = _PATIENCE_SECONDS,
) -> RecordedRun:
    """Reads the metrics topic from a position to its end and keeps what is this run's.

    Other runs' records, foreign and undecodable ones are passed over; records of aborted transactions are not seen.

    Args:
        kafka_config: librdkafka's settings, with ``bootstrap.servers``.
        topic: of one partition.
        run_id: whose steps.
        from_offset: the end of `topic_ranges` as it was at the checkpoint; 0 without one.
        registry: for records in the registry's wire format.
        patience: seconds to wait for the end, and for a transaction that somebody left open before it.

    Raises:
        OffsetError: the position is no longer, or not yet, in the topic.
        TopicError: no such topic.
        StateError: one step was recorded twice with different boundaries.
        BrokerError: the broker or the registry does not answer, or a transaction stays open.
        ConfigurationError: the run's records are in the registry's format and no registry was given.
    """
    scan = _Found(topic, run_id, registry)
    _read(kafka_config, topic, from_offset, scan.take, patience)
    later = scan.rereads | scan.online
    return RecordedRun(
        next_offsets=scan.next_offsets,
        rereads=frozenset(scan.rereads),
        paused_at=min(later) - 1 if later else None,
        refused=scan.refused,
        examples=scan.examples,
    )


class _Found:
    """What `read_run` has met of the run so far."""

    def __init__(self, topic: str, run_id: str, registry: RegistryCodec | None) -> None:
        self.next_offsets: dict[int, dict[int, int]] = {}
        self.examples: dict[int, int] = {}
        self.rereads: set[int] = set()
        self.online: set[int] = set()
        self.refused: dict[int, Mapping[int, frozenset[int]]] = {}
        self._topic = topic
        self._run_id = run_id
        self._registry = registry
        self._prefix = f"{run_id}:".encode()

    def take(self, key: bytes | None, value: bytes | None, _headers: Headers = ()) -> None:
        """One record of the topic. Raises StateError where a step stands twice with different boundaries."""
        if key is None or not key.startswith(self._prefix) or not key[len(self._prefix) :].isdigit():
            return
        entry = _boundary(value, self._run_id, self._registry)
        if entry is None:
            return
        step, next_offsets, refused, record = entry
        self.examples[step] = record["examples"]
        if refused:
            self.refused[step] = refused
        if record["epoch"] > 1:
            self.rereads.add(step)
        elif record["stage"] == "online":
            self.online.add(step)
        if self.next_offsets.setdefault(step, next_offsets) != next_offsets:
            raise StateError(
                f"Step {step} of run {self._run_id} stands twice in {self._topic}, ending at different offsets.",
                why="Two trainers ran under one run id.",
                remedy="Start a new run: autoemb-pipeline train --new-run",
            )


def read_dead_letters(
    kafka_config: Mapping[str, str], topic: str, from_offset: int, *, patience: float = _PATIENCE_SECONDS
) -> Mapping[str, str]:
    """Key (``topic:partition:offset``) -> reason of all dead letters from a position to the end of the dead-letter topic.

    A resumed run that meets one of them again does not write it again. Arguments and errors as `read_run`.
    """
    reasons: dict[str, str] = {}

    def take(key: bytes | None, _value: bytes | None, headers: Headers) -> None:
        if key is not None:
            reasons[key.decode(errors="replace")] = (dict(headers).get("reason") or b"").decode(errors="replace")

    _read(kafka_config, topic, from_offset, take, patience)
    return reasons


def _boundary(value: bytes | None, run_id: str, registry: RegistryCodec | None) -> _Boundary | None:
    """(step, next offsets, refused offsets, all of it) of one of the run's records; None where the record is not really one."""
    try:
        record = _metrics(value, registry)
        if record["run_id"] != run_id:
            return None
        refused = {int(partition): offsets_from_text(text) for partition, text in (record["refused_offsets"] or {}).items()}
        return record["step"], {int(partition): offset for partition, offset in record["next_offsets"].items()}, refused, record
    except (DecodeError, ValueError):
        return None


def _metrics(value: bytes | None, registry: RegistryCodec | None) -> Mapping[str, Any]:
    if not value or not value.startswith(REGISTRY_MAGIC):
        return parse_metrics(value)
    if registry is None:
        raise ConfigurationError(
            "This run's metrics were written with a schema registry.",
            why="Without it the steps already recorded cannot be read.",
            remedy="Start with the same --schema-registry URL.",
        )
    return registry.decode_record(value, PREQUENTIAL)


def _read(
    kafka_config: Mapping[str, str],
    topic: str,
    from_offset: int,
    take: Callable[[bytes | None, bytes | None, Headers], None],
    patience: float,
) -> None:
    """Hands every committed record from a position to the end to ``take``.

    The end is where an uncommitted reader would see it now, transaction markers included; a committed reader's own end-of-partition may
    come earlier, at somebody's open transaction, behind which this run's records would be hidden.
    """
    with _reader(kafka_config, topic, committed=False) as reader:
        low, high = reader.offsets(PARTITION, timeout=min(10.0, patience))
    if not low <= from_offset <= high:
        raise _out_of_range(topic, from_offset, f"It holds offsets {low} to {high}.")
    with _reader(kafka_config, topic, committed=True, from_offset=from_offset) as reader:
        for message in reader.read(PARTITION, from_offset, end=high, patience=patience):
            take(message.key(), message.value(), message.headers() or ())


def _reader(kafka_config: Mapping[str, str], topic: str, *, committed: bool, from_offset: int | None = None) -> TopicReader:
    def explain(error: KafkaError) -> AutoembError:
        return _out_of_range(topic, from_offset, told(error)) if error.code() in OUT_OF_RANGE else output_error(topic, error)

    return TopicReader(kafka_config, topic, group="autoemb-recover", explain=explain, committed=committed)


def _out_of_range(topic: str, offset: int | None, why: str) -> OffsetError:
    return OffsetError(
        f"Offset {offset} of {topic}, where this run's checkpoint stands, is not in the topic.",
        why=f"{why} The topic was recreated, truncated, or its retention passed.",
        remedy=_CHOICES,
    )
