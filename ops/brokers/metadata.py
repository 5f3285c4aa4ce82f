"""One metadata request: does a Kafka broker answer here, and does it serve?"""

from collections.abc import Mapping

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient


def quiet_admin(kafka: Mapping[str, str]) -> AdminClient:
    """An AdminClient that reports failures only to its caller.

    librdkafka otherwise writes every refused connection to stderr. Keep the client for as long as its futures: one that is
    garbage-collected cancels them.
    """
    return AdminClient({**kafka, "log_level": "0", "error_cb": _ignore})


def is_ready(bootstrap_servers: str, *, timeout: float = 2.0) -> bool:
    """Whether a broker answers a metadata request within `timeout` seconds and every partition has a leader.

    A broker started after a kill accepts connections while it is still fenced; until its old session ends no partition has a leader.
    """
    try:
        metadata = quiet_admin({"bootstrap.servers": bootstrap_servers}).list_topics(timeout=timeout)
    except KafkaException:
        return False
    return bool(metadata.brokers) and all(p.leader >= 0 for topic in metadata.topics.values() for p in topic.partitions.values())


def _ignore(_error: object) -> None:
    """The error callback; the failed call itself raises."""
