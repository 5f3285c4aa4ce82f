"""One record per step on the metrics topic."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from autoemb_pipeline.schemas.metrics import PREQUENTIAL, RecordFormat
from autoemb_pipeline.schemas.registry import RegistryCodec
from autoemb_pipeline.sink.producer import Outgoing, RecordProducer

Format = Literal["json", "avro"]
Encoder = Callable[[Mapping[str, Any]], bytes]


def record_encoder(record_format: RecordFormat, topic: str, form: Format, registry: RegistryCodec | None) -> Encoder:
    """Flat JSON, or Avro: in the registry's wire format where there is a registry, else single-object encoded.

    Raises:
        BrokerError, ConfigurationError: the registry does not answer, or refuses the schema.
    """
    if form == "json":
        return record_format.to_json
    return registry.record_encoder(topic, record_format) if registry else record_format.to_avro


class MetricsSink:
    """Writes prequential metrics: key ``run_id:step``, value a pure function of the record.

    Args:
        producer: shared with the dead letters.
        topic: one partition.
        form: ``json`` (Grafana reads it as it is) or ``avro``.
        registry: for ``avro`` in the registry's wire format.
    """

    def __init__(self, producer: RecordProducer, topic: str, *, form: Format = "json", registry: RegistryCodec | None = None) -> None:
        self._producer = producer
        self._topic = topic
        self._encode = record_encoder(PREQUENTIAL, topic, form, registry)

    def emit(self, record: Mapping[str, Any]) -> None:
        """Sends one step's metrics; acknowledged after the producer's next `flush`.

        Raises:
            ConfigurationError: the record misfits schemas/prequential_metrics.avsc.
            DeliveryError, StateError: as `RecordProducer.send`.
        """
        self._producer.send(Outgoing(self._topic, metrics_key(record["run_id"], record["step"]), self._encode(record)))


def metrics_key(run_id: str, step: int) -> bytes:
    """``run_id:step``, the key of a step's record on the metrics topic."""
    return f"{run_id}:{step}".encode()
