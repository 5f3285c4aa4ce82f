"""The bounded reader on a real broker, and what every consumer of the package refuses."""

from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, Producer, TopicPartition

from autoemb_pipeline.errors import AutoembError, BrokerError, ConfigurationError
from autoemb_pipeline.kafka.errors import output_error
from autoemb_pipeline.kafka.reader import TopicReader
from autoemb_pipeline.kafka.settings import quiet_admin
from tests.conftest import TestBroker
from tests.source.topics import IN_ORDER

NOWHERE = {"bootstrap.servers": "127.0.0.1:9"}


def reader(kafka: dict, topic: str, **options: object) -> TopicReader:
    def explain(error: KafkaError) -> AutoembError:
        return output_error(topic, error)

    return TopicReader(kafka, topic, group="test", explain=explain, **options)


@pytest.fixture
def filled(broker: TestBroker, make_topic: Callable[..., str], topic_name: str) -> str:
    topic = make_topic(topic_name, 2)
    producer = Producer({**broker.kafka, **IN_ORDER})
    for number in range(5000):
        producer.produce(topic, str(number).encode(), partition=number % 2)
    assert producer.flush(20) == 0
    return topic


@pytest.mark.kafka
def test_a_partition_is_read_from_an_offset_to_its_end_and_again(broker: TestBroker, filled: str) -> None:
    with reader(broker.kafka, filled) as topic:
        assert topic.partitions(5.0) == 2
        for partition, offset in ((1, 0), (0, 2400), (1, 2499), (0, 2500), (1, 10)):
            assert topic.offsets(partition, timeout=5.0) == (0, 2500)
            numbers = [int(message.value()) for message in topic.read(partition, offset, patience=20)]
            assert numbers == [2 * n + partition for n in range(offset, 2500)]
            assert topic.end == 2500
        assert int(next(topic.read(1, 7, patience=20)).value()) == 15  # what was not taken of it does not come later
        assert [int(message.value()) for message in topic.read(0, 2499, patience=20)] == [4998]


@pytest.mark.kafka
def test_a_deleted_position_is_an_error_unless_it_may_be_skipped(broker: TestBroker, filled: str) -> None:
    admin = quiet_admin(broker.kafka)
    (deleted,) = admin.delete_records([TopicPartition(filled, 0, 2490)]).values()
    deleted.result(10)
    with reader(broker.kafka, filled) as topic, pytest.raises(BrokerError, match=filled):
        list(topic.read(0, 5, patience=20))
    with reader(broker.kafka, filled, skip_deleted=True) as topic:
        assert [message.offset() for message in topic.read(0, 5, patience=20)] == [*range(2490, 2500)]


@pytest.mark.kafka
def test_an_end_that_does_not_come_is_an_error(broker: TestBroker, filled: str) -> None:
    with reader(broker.kafka, filled) as topic, pytest.raises(BrokerError, match="not reached within 1 s"):
        list(topic.read(0, 2500, end=2501, patience=1))


@pytest.mark.parametrize("setting", [{"enable.auto.commit": "true"}, {"isolation.level": "read_uncommitted"}, {"no.such": "1"}])
def test_settings_that_contradict_or_do_not_exist_are_refused(setting: dict) -> None:
    with pytest.raises(ConfigurationError) as caught:
        reader({**NOWHERE, **setting}, "t")
    assert next(iter(setting)) in f"{caught.value.what} {caught.value.why}"
