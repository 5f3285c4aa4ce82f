"""Starting, stopping, killing and restarting Apache Kafka."""

from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from ops.local_kafka import LocalKafka
from ops.metadata import is_ready, quiet_admin


def write(servers: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": servers, "acks": "all"})
    producer.produce(topic, value=value)
    assert producer.flush(20) == 0


def read_values(servers: str, topic: str) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "t", "enable.partition.eof": True, "auto.offset.reset": "error"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values = []
    while (message := consumer.poll(20)) is not None and message.error() is None:
        values.append(message.value())
    consumer.close()
    return values


@pytest.mark.kafka
@pytest.mark.slow
def test_data_survives_stop_restart_and_kill(own_broker: Callable[[], LocalKafka]) -> None:
    broker = own_broker()
    admin = quiet_admin({"bootstrap.servers": broker.bootstrap_servers})
    admin.create_topics([NewTopic("t", 1, 1)])["t"].result(10)
    write(broker.bootstrap_servers, "t", b"first")
    broker.restart()
    write(broker.bootstrap_servers, "t", b"second")
    first_pid = broker.pid
    broker.kill()
    assert broker.pid is None
    assert not is_ready(broker.bootstrap_servers, timeout=1)
    broker.restart()
    assert broker.pid not in (None, first_pid)
    assert read_values(broker.bootstrap_servers, "t") == [b"first", b"second"]


@pytest.mark.kafka
def test_listens_on_loopback_only_and_creates_no_topic_by_itself(broker) -> None:
    if broker.kind != "apache":
        pytest.skip("the embedded broker creates topics on demand")
    metadata = quiet_admin(broker.kafka).list_topics("never-created", timeout=10)
    assert metadata.topics["never-created"].error is not None
    assert {b.host for b in metadata.brokers.values()} <= {"127.0.0.1", "localhost"}
