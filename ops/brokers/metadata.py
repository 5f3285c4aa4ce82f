"""One metadata request: does a Kafka broker answer here, and does it serve?"""

from confluent_kafka import KafkaError

from autoemb_pipeline.kafka.errors import attempt
from autoemb_pipeline.kafka.settings import quiet_admin


def is_ready(bootstrap_servers: str, *, timeout: float = 2.0) -> bool:
    """Whether a broker answers a metadata request within `timeout` seconds and every partition has a leader.

    A broker started after a kill accepts connections while it is still fenced; until its old session ends no partition has a leader.
    """
    metadata = attempt(quiet_admin({"bootstrap.servers": bootstrap_servers}).list_topics, timeout=timeout)
    if isinstance(metadata, KafkaError):
        return False
    return bool(metadata.brokers) and all(p.leader >= 0 for topic in metadata.topics.values() for p in topic.partitions.values())
