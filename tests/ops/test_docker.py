"""Where a Docker engine answers: the container that stands in for a local Kafka does what the tests need of it."""

import pytest
from confluent_kafka import Producer

from autoemb_pipeline.ops.topics import broker_kind, ensure_interactions_topic

KAFKA_IMAGE = "confluentinc/cp-kafka:7.9.1"


@pytest.mark.slow
def test_container_serves_topics_and_transactions(docker_engine: None) -> None:
    from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415  # imports the Docker client

    container = KafkaContainer(KAFKA_IMAGE).with_kraft()
    container.with_env("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1").with_env("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1")
    with container as running:
        kafka = {"bootstrap.servers": running.get_bootstrap_server()}
        assert broker_kind(kafka) == "apache"
        assert ensure_interactions_topic(kafka, "t", 2) == 2
        producer = Producer({**kafka, "transactional.id": "t"})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce("t", value=b"v", timestamp=1)
        producer.commit_transaction(30)
