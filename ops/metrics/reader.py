"""Reads the metrics and runtime topics for people: committed records only, by `assign()`, without a consumer group."""

import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from autoemb_pipeline.errors import AutoembError, ConfigurationError, DecodeError
from autoemb_pipeline.kafka.errors import output_error
from autoemb_pipeline.kafka.reader import TopicReader
from autoemb_pipeline.schemas.metrics import PREQUENTIAL, RUNTIME, RecordFormat
from autoemb_pipeline.schemas.registry import REGISTRY_MAGIC, RegistryCodec

Record = dict[str, Any]
FORMATS: Mapping[str, RecordFormat] = {"metrics": PREQUENTIAL, "runtime": RUNTIME}
_PARTITION = 0  # both topics have one
_WATERMARK_SECONDS = 10.0


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

    Raises:
        TopicError: there is no such topic.
        BrokerError: the broker does not answer.
    """

    def __init__(
        self, kafka: Mapping[str, str], topic: str, kind: str, *, last: int | None = None, registry: RegistryCodec | None = None
    ) -> None:
        self._topic = topic
        self._decode = _decoder(FORMATS[kind], registry)
        self._reader = TopicReader(
            kafka,
            topic,
            group="autoemb-watch",
            explain=lambda error: output_error(topic, error),
            skip_deleted=True,  # the runtime topic forgets after a week
            fetch_wait_ms=500,
        )
        self.skipped = 0
        try:
            low, high = self._reader.offsets(_PARTITION, timeout=_WATERMARK_SECONDS)
        except AutoembError:
            self.close()
            raise
        self._reader.start(_PARTITION, low if last is None else max(low, high - last))

    @property
    def caught_up(self) -> bool:
        """Whether the end was reached since the last record."""
        return self._reader.end is not None

    def poll(self, seconds: float) -> list[Record]:
        """Records that came within `seconds`, in order; returns earlier at the end of the topic.

        Raises:
            TopicError: the topic was deleted.
            BrokerError: it cannot be read.
            ConfigurationError: its records need a registry and none was given.
        """
        records = []
        for message in self._reader.poll(seconds if self.caught_up else min(seconds, 0.2)):
            try:
                records.append(self._decode(message.value()))
            except DecodeError:
                self.skipped += 1
        return records

    def close(self) -> None:
        """May be called twice."""
        self._reader.close()

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
