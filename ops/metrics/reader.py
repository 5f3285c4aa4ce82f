"""Reads the metrics and runtime topics for people: committed records only, by `assign()`, without a consumer group."""

import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from autoemb_pipeline.errors import BrokerError, ConfigurationError, DecodeError, TopicError
from autoemb_pipeline.schemas.metrics import PREQUENTIAL, RUNTIME, RecordFormat
from autoemb_pipeline.schemas.registry import REGISTRY_MAGIC, RegistryCodec

Record = dict[str, Any]
FORMATS: Mapping[str, RecordFormat] = {"metrics": PREQUENTIAL, "runtime": RUNTIME}
_BATCH = 500
_PARTITION = 0  # both topics have one
_WATERMARK_SECONDS = 10.0
_PASSING = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE}  # noqa: SLF001 - librdkafka's


class MetricsReader:
    """The records of one of the two topics, from a position on, and then what comes.

    Args:
        kafka: librdkafka settings with bootstrap.servers.
        topic: its name.
        kind: `metrics` or `runtime`: the schema of its records.
        last: begin with about so many of the newest records; None: with the oldest.
        registry: for records in the registry's wire format.

    Attributes:
        skipped: records that are no metrics of this schema.
        caught_up: whether the end was reached since the last record.

    Raises:
        TopicError: there is no such topic.
        BrokerError: the broker does not answer.
    """

    def __init__(
        self, kafka: Mapping[str, str], topic: str, kind: str, *, last: int | None = None, registry: RegistryCodec | None = None
    ) -> None:
        self._topic = topic
        self._decode = _decoder(FORMATS[kind], registry)
        self._consumer: Any = Consumer(
            {
                "group.id": "autoemb-watch",  # librdkafka wants one; nothing is ever committed under it
                "log_level": "0",
                **kafka,
                "enable.auto.commit": "false",
                "enable.partition.eof": "true",
                "auto.offset.reset": "earliest",  # the runtime topic forgets after a week
                "isolation.level": "read_committed",
                "error_cb": lambda _error: None,  # a broker that is away shows as silence, and may come back
            }
        )
        self.skipped = 0
        self.caught_up = False
        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, _PARTITION), _WATERMARK_SECONDS, cached=False)
            self._consumer.assign([TopicPartition(topic, _PARTITION, low if last is None else max(low, high - last))])
        except KafkaException as error:
            self._consumer.close()
            raise _explained(topic, error.args[0]) from error

    def poll(self, seconds: float) -> list[Record]:
        """Records that came within `seconds`, in order; returns earlier at the end of the topic.

        Raises:
            TopicError: the topic was deleted.
            BrokerError: it cannot be read.
            ConfigurationError: its records need a registry and none was given.
        """
        records = []
        for message in self._consumer.consume(_BATCH, seconds if self.caught_up else min(seconds, 0.2)):
            error = message.error()
            if error is not None:
                self.caught_up = error.code() == KafkaError._PARTITION_EOF or self.caught_up  # noqa: SLF001 - librdkafka's
                if error.code() != KafkaError._PARTITION_EOF and error.code() not in _PASSING:  # noqa: SLF001 - librdkafka's
                    raise _explained(self._topic, error)
                continue
            self.caught_up = False
            try:
                records.append(self._decode(message.value()))
            except DecodeError:
                self.skipped += 1
        return records

    def close(self) -> None:
        """May be called twice."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def flat_json(kind: str, record: Record) -> dict[str, Any]:
    """The record with its maps flattened to ``name_key``, as it lies on the topic."""
    flat: dict[str, Any] = json.loads(FORMATS[kind].to_json(record))
    return flat


def _decoder(record_format: RecordFormat, registry: RegistryCodec | None) -> Callable[[bytes | None], Record]:
    def decode(value: bytes | None) -> Record:
        if value and value.startswith(REGISTRY_MAGIC):
            if registry is None:
                raise ConfigurationError(
                    "These metrics were written with a schema registry", why="their schema lies there", remedy="give --schema-registry URL"
                )
            return dict(registry.decode_record(value, record_format))
        return record_format.parse(value)

    return decode


def _explained(topic: str, error: KafkaError) -> Exception:
    cause = f"{error.name()}: {error.str()}"
    unknown = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)  # noqa: SLF001 - librdkafka's
    if error.code() in unknown:
        return TopicError(f"There is no topic {topic}", why=cause, remedy="train creates its topics when it starts: check the name")
    return BrokerError(f"Topic {topic} cannot be read", why=cause, remedy="check the broker and --kafka-config")
