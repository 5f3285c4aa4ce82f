"""Settings of the clients: what the guarantees rest on is ours, the rest is tuned and may be set otherwise (--kafka-config)."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.kafka.errors import attempt, open_client


class Guarantee(NamedTuple):
    """The value that a setting must have, and why."""

    value: str
    why: str


_WRITTEN = "a record counts as written when all in-sync replicas have it"
_GAP = "a timed-out record leaves a gap"
_TRAINED = "offsets are those of trained records"
CONSUMER_GUARANTEES: Mapping[str, Guarantee] = {
    "enable.auto.commit": Guarantee("false", _TRAINED),
    "enable.auto.offset.store": Guarantee("false", _TRAINED),
    "auto.offset.reset": Guarantee("error", "a position that is gone must be an error, never a jump"),
    "enable.partition.eof": Guarantee("true", "the end of a partition is found by it"),
    "isolation.level": Guarantee("read_committed", "aborted records are not part of the stream"),
    "allow.auto.create.topics": Guarantee("false", "topics are created with settings that keep them"),
}
# An acknowledged record is on every in-sync replica, in order, once. With a message timeout the client would drop records in the middle
# of the stream while it accepts later ones; without one it waits for the broker as long as it takes.
PRODUCER_GUARANTEES: Mapping[str, Guarantee] = {
    "enable.idempotence": Guarantee("true", "retries must neither double nor reorder records"),
    "acks": Guarantee("all", _WRITTEN),
    "message.timeout.ms": Guarantee("0", _GAP),
}
_ALIASES = {"delivery.timeout.ms": "message.timeout.ms", "request.required.acks": "acks"}
_SYNONYMS = {"-1": "all"}
# When one batch fails for good, librdkafka also stops those behind it instead of sending them.
GAPLESS: Mapping[str, str] = {"enable.gapless.guarantee": "true"}
# What a file for all clients may not name: setting -> why.
RESERVED: Mapping[str, str] = {
    **{name: guarantee.why for name, guarantee in {**CONSUMER_GUARANTEES, **PRODUCER_GUARANTEES}.items()},
    **{alias: PRODUCER_GUARANTEES[name].why for alias, name in _ALIASES.items()},
    "partitioner": "a key's partition is computed as Java's clients do",
}

_QUIET = {"log_level": "0"}  # failures come through calls and callbacks, not on stderr
# Measured: with these, eight consumers in one process bring the most records per second and keep at most 2 MiB each.
_CONSUMER_TUNED = {
    "queued.max.messages.kbytes": "2048",
    "queued.min.messages": "5000",
    "fetch.queue.backoff.ms": "10",
    "reconnect.backoff.max.ms": "2000",
}
_PRODUCER_TUNED = {"queue.buffering.max.messages": "20000", "queue.buffering.max.kbytes": "65536"}
# librdkafka logs fatal errors whatever the log level. Its lines go where the application sends them: every failure they announce is raised.
_librdkafka_log = logging.getLogger("autoemb.librdkafka")
_librdkafka_log.addHandler(logging.NullHandler())


def ignore(_error: KafkaError) -> None:
    """An error callback for clients whose calls say themselves what failed."""


def consumer_settings(kafka: Mapping[str, str], group: str, *, fetch_wait_ms: int | None = None) -> dict[str, Any]:
    """librdkafka settings of a consumer: tuned ones, the user's over them, the guarantees over both.

    Args:
        kafka: the user's.
        group: the consumer group, unless the user names one.
        fetch_wait_ms: milliseconds that the broker holds back an empty answer; None: librdkafka's.

    Raises:
        ConfigurationError: the user's contradict a guarantee.
    """
    guaranteed = {name: guarantee.value for name, guarantee in CONSUMER_GUARANTEES.items()}
    _refuse_contradictions(kafka, guaranteed)
    waiting = {} if fetch_wait_ms is None else {"fetch.wait.max.ms": str(fetch_wait_ms)}
    return {**_QUIET, **_CONSUMER_TUNED, **waiting, "group.id": group, **kafka, **guaranteed}


def producer_settings(kafka: Mapping[str, str], required: Mapping[str, str]) -> dict[str, Any]:
    """librdkafka settings of a producer: tuned ones, the user's over them, the guarantees over both.

    Args:
        kafka: the user's.
        required: further guarantees of this producer.

    Raises:
        ConfigurationError: the user's contradict a guarantee.
    """
    guaranteed = {**{name: guarantee.value for name, guarantee in PRODUCER_GUARANTEES.items()}, **required}
    _refuse_contradictions(kafka, {**guaranteed, "transactional.id": ""})
    kept = {name: value for name, value in kafka.items() if name not in _ALIASES}
    return {**_QUIET, **_PRODUCER_TUNED, **kept, **guaranteed}


def without_producer_guarantees(kafka: Mapping[str, str]) -> dict[str, str]:
    """The user's settings without those that say how safely a producer writes: for one whose settings of this kind are its own."""
    own = {*PRODUCER_GUARANTEES, *_ALIASES, *GAPLESS, "transactional.id", "transaction.timeout.ms"}
    return {name: value for name, value in kafka.items() if name not in own}


def open_consumer(settings: Mapping[str, Any]) -> Any:
    """A Consumer; ConfigurationError for settings that librdkafka refuses."""
    return open_client(Consumer, dict(settings))


def open_producer(settings: Mapping[str, Any]) -> Any:
    """A Producer; ConfigurationError for settings that librdkafka refuses."""
    return open_client(Producer, {**settings, "logger": _librdkafka_log})


def quiet_admin(kafka: Mapping[str, Any]) -> AdminClient:
    """An AdminClient that reports failures only to its caller, or to the settings' own ``error_cb``.

    librdkafka otherwise writes every refused connection to stderr. Keep the client for as long as its futures: one that is
    garbage-collected cancels them.

    Raises:
        ConfigurationError: librdkafka refuses a setting.
    """
    return open_client(AdminClient, {"error_cb": ignore, **kafka, **_QUIET})


def cached_high(consumer: Any, partition: TopicPartition) -> int | None:
    """The partition's high watermark in the last fetch answer; None before the first."""
    answer = attempt(consumer.get_watermark_offsets, partition, cached=True)
    return None if isinstance(answer, KafkaError) or answer[1] < 0 else int(answer[1])


def _refuse_contradictions(kafka: Mapping[str, str], guaranteed: Mapping[str, str]) -> None:
    for name, value in kafka.items():
        required = guaranteed.get(_ALIASES.get(name, name))
        given = str(value).lower()
        if required is not None and _SYNONYMS.get(given, given) != required:
            raise ConfigurationError(
                f"The Kafka setting {name}={value} cannot be used.",
                why=f"With it records could be lost or doubled silently; it must be {required or 'left to us'}.",
                remedy=f"Remove {name} from the file given to --kafka-config.",
            )
