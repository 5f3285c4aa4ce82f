"""Errors of librdkafka: as values, by kind, and in this project's words.

librdkafka hands an error over in two ways: some calls raise it, and callbacks and messages carry it. `attempt` makes one way of the two.
"""

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from autoemb_pipeline.errors import AutoembError, BrokerError, ConfigurationError, DeliveryError, TopicError

END_OF_PARTITION: int = KafkaError._PARTITION_EOF  # noqa: SLF001 # librdkafka's own codes begin with an underscore
NO_BROKER: int = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001
PASSING = frozenset({NO_BROKER, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE})  # noqa: SLF001
OUT_OF_RANGE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION})  # noqa: SLF001
UNKNOWN_TOPIC = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
NOT_YET = frozenset(  # a topic just created is described before its partitions are served
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
    }
)
TOPIC_EXISTS: int = KafkaError.TOPIC_ALREADY_EXISTS
BAD_TOPIC_NAME: int = KafkaError.TOPIC_EXCEPTION
FORBIDDEN = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})
REFUSED = FORBIDDEN | {KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._AUTHENTICATION, KafkaError._SSL}  # noqa: SLF001
FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})  # noqa: SLF001
PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001
NEVER_ACCEPTED = frozenset(  # a record refused so is refused again, however often it is written
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)

_RESUMES = "See the broker's log; then start again: the run resumes from its last checkpoint."


class ForbiddenError(BrokerError):
    """The broker does not let this client see what it asked for."""


def attempt(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a call to confluent_kafka returns, or the KafkaError it raised.

    A future that stays without an answer gives KafkaError ``_TIMED_OUT``. BufferError and other exceptions pass.
    """
    try:
        return call(*arguments, **named)
    except KafkaException as error:
        return error.args[0]
    except TimeoutError:
        return KafkaError(KafkaError._TIMED_OUT, "no answer")  # noqa: SLF001


def open_client(kind: Callable[..., Any], settings: dict[str, Any]) -> Any:
    """A client of confluent_kafka; ConfigurationError for settings that it refuses."""
    try:
        return kind(settings)
    except (KafkaException, TypeError, ValueError) as error:
        cause = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        raise ConfigurationError(
            "The Kafka settings cannot be used.", why=cause, remedy="Correct the file given to --kafka-config."
        ) from error


def told(error: KafkaError) -> str:
    """Name and text of an error."""
    return f"{error.name()}: {error.str()}"


def no_answer(servers: str, why: str) -> BrokerError:
    """No broker answers at these bootstrap servers."""
    return BrokerError(f"No broker answers at {servers}", why=why, remedy="autoemb-pipeline doctor")


def input_error(servers: str, topic: str, error: KafkaError) -> AutoembError:
    """Why a topic of interactions cannot be read."""
    if error.code() in UNKNOWN_TOPIC:
        return TopicError(
            f"There is no topic {topic!r} at {servers}",
            why=error.str(),
            remedy=f"restore or create it; of a data set: autoemb-pipeline replay --dataset ml-latest-small --topic {topic}",
        )
    if error.code() in REFUSED or error.fatal():
        return BrokerError(
            f"The broker at {servers} refuses to serve topic {topic!r}",
            why=error.str(),
            remedy="check the security settings in --kafka-config",
        )
    if error.code() in PASSING:
        return no_answer(servers, error.str())
    return BrokerError(f"The broker at {servers} cannot serve topic {topic!r}", why=error.str(), remedy="autoemb-pipeline doctor")


def output_error(topic: str, error: KafkaError) -> AutoembError:
    """Why a topic that train writes (metrics, runtime, dead letters) cannot be read."""
    if error.code() in UNKNOWN_TOPIC:
        return TopicError(
            f"There is no topic {topic}.", why=told(error), remedy="Check the name; train creates its own topics when it starts."
        )
    return BrokerError(f"Topic {topic} cannot be read.", why=told(error), remedy="Check the broker and --kafka-config.")


def delivery_error(topic: str, error: KafkaError) -> DeliveryError:
    """Why the broker (or the client) refused a record that train writes to ``topic``."""
    missing = "The topic is gone: start again, train creates its own topics."
    remedies = {
        KafkaError.MSG_SIZE_TOO_LARGE: f"Raise max.message.bytes of {topic} (and message.max.bytes in --kafka-config).",
        KafkaError.UNKNOWN_TOPIC_OR_PART: missing,
        KafkaError._UNKNOWN_TOPIC: missing,  # noqa: SLF001
        KafkaError.TOPIC_AUTHORIZATION_FAILED: f"Give this user the right to write to {topic}.",
    }
    return DeliveryError(
        f"The broker did not accept a record of topic {topic}.", why=told(error), remedy=remedies.get(error.code(), _RESUMES)
    )


def producer_error(error: KafkaError) -> DeliveryError:
    """The producer can go on no more."""
    return DeliveryError("The Kafka producer failed for good.", why=told(error), remedy=_RESUMES)


def request_error(what: str, error: KafkaError) -> BrokerError:
    """A request of an administrator's failed; ``what``: one sentence. ForbiddenError where this client has not the right."""
    kind = ForbiddenError if error.code() in FORBIDDEN else BrokerError
    return kind(what, why=error.str(), remedy="autoemb-pipeline doctor")
