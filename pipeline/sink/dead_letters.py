"""Records that are no interactions, kept whole where anybody can look at them again (schemas/dead_letter.avsc)."""

import hashlib
from itertools import chain

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.offsets import TOPIC_STRIDE
from autoemb_pipeline.records import DeadLetter
from autoemb_pipeline.redaction import redact
from autoemb_pipeline.sink.producer import Outgoing, RecordProducer

# Kafka's own default limit for a record is 1 MiB, librdkafka's 1,000,000 bytes; ours leaves room for the headers.
DEFAULT_MAX_BYTES = 900_000
_MAX_DETAIL_BYTES = 1024


class DeadLetterSink:
    """Writes dead letters: key ``topic:partition:offset``, the original bytes as value, all else in headers.

    Args:
        producer: shared with the metrics.
        topic: kept by the broker; one partition.
        max_bytes: an original whose value, or key, is longer is cut to it, with its length and SHA-256 in headers.
    """

    def __init__(self, producer: RecordProducer, topic: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_bytes < 1:
            raise ConfigurationError(f"A dead letter of at most {max_bytes} bytes holds nothing.", remedy="Give at least 1.")
        self._producer = producer
        self._topic = topic
        self._max_bytes = max_bytes

    def emit(self, letter: DeadLetter) -> None:
        """Sends one dead letter; acknowledged after the producer's next `flush`. Raises as `RecordProducer.send`."""
        key, key_headers = _cut("key", letter.key, self._max_bytes // 2)
        value, value_headers = _cut("value", letter.value, max(0, self._max_bytes - len(key or b"")))
        texts = (
            ("reason", letter.reason),
            ("detail", letter.detail),
            ("topic", letter.topic),
            ("partition", str(letter.partition % TOPIC_STRIDE)),
            ("offset", str(letter.offset)),
        )
        headers = [(name, _header(text)) for name, text in texts]
        original_key = [] if key is None else [("key", key)]
        everything = list(chain(headers, original_key, key_headers, value_headers))
        self._producer.send(Outgoing(self._topic, letter.id.encode(), value, everything))


def _header(text: str) -> bytes:
    """At most 1 KiB of valid UTF-8, without secrets."""
    return redact(text).encode(errors="backslashreplace")[:_MAX_DETAIL_BYTES].decode(errors="ignore").encode()


def _cut(name: str, data: bytes | None, limit: int) -> tuple[bytes | None, list[tuple[str, bytes]]]:
    """(the data, its first bytes where it is too long; headers with the whole's length and SHA-256 in that case)."""
    if data is None or len(data) <= limit:
        return data, []
    return data[:limit], [(f"{name}_length", str(len(data)).encode()), (f"{name}_sha256", hashlib.sha256(data).hexdigest().encode())]
