"""How the trainer runs (rates, lag, latency, memory), on a topic of its own. Best effort: it never stops or slows training."""

from collections.abc import Mapping
from typing import Any

import structlog
from confluent_kafka import KafkaError

from autoemb_pipeline.kafka.settings import ignore, open_producer, without_producer_guarantees
from autoemb_pipeline.schemas.metrics import RUNTIME
from autoemb_pipeline.schemas.registry import RegistryCodec
from autoemb_pipeline.sink.metrics import Format, metrics_key, record_encoder
from autoemb_pipeline.sink.producer import Outgoing, hand_over

_CLOSE_SECONDS = 5.0
_log = structlog.get_logger(__name__)

# A small buffer and a short life: an old rate is worth nothing. The transactional settings belong to the metrics' producer.
_OURS = {"queue.buffering.max.messages": "1000", "message.timeout.ms": "30000", "log_level": "0"}


class RuntimeSink:
    """Writes runtime records: key ``run_id:step``.

    Args:
        kafka_config: librdkafka's settings; the sink opens a producer of its own, so that its failures stay its own.
        topic: one partition.
        form, registry: as in `MetricsSink`.

    Attributes:
        dropped: records that were not written.
    """

    def __init__(
        self, kafka_config: Mapping[str, str], topic: str, *, form: Format = "json", registry: RegistryCodec | None = None
    ) -> None:
        self._producer = open_producer({**without_producer_guarantees(kafka_config), **_OURS, "error_cb": ignore})
        self._topic = topic
        self._encode = record_encoder(RUNTIME, topic, form, registry)
        self.dropped = 0

    def emit(self, record: Mapping[str, Any]) -> None:
        """Sends one record and returns at once.

        Raises:
            ConfigurationError: the record misfits schemas/runtime_metrics.avsc.
        """
        outgoing = Outgoing(self._topic, metrics_key(record["run_id"], record["step"]), self._encode(record))
        try:
            self._delivered(hand_over(self._producer, outgoing, self._delivered), None)
        except BufferError:
            self._drop("the buffer is full")
        self._producer.poll(0)

    def close(self) -> None:
        """Waits up to 5 s for what is under way. May be called twice."""
        self._producer.flush(_CLOSE_SECONDS)
        self._producer.purge()
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, _message: Any) -> None:
        if error is not None:
            self._drop(error.str())

    def _drop(self, why: str) -> None:
        self.dropped += 1
        if self.dropped == 1:
            _log.warning("runtime metrics are being dropped", topic=self._topic, why=why)
