import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.producers.partitioner import Partitioner, murmur2, partition_of
from tests.strategies import ids

# org.apache.kafka.common.utils.UtilsTest#testMurmur2
KAFKA_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "expected"), KAFKA_VECTORS.items())
def test_murmur2_agrees_with_kafkas_own_test_vectors(key, expected):
    assert murmur2(key) == expected


@settings(deadline=None, max_examples=60)
@given(ids, st.integers(1, 5000))
def test_a_partition_is_the_positive_hash_modulo_the_count(user_id, partitions):
    expected = (murmur2(user_id.encode()) % 2**31) % partitions
    assert partition_of(user_id.encode(), partitions) == expected
    assert 0 <= expected < partitions


@settings(deadline=None, max_examples=60)
@given(st.lists(ids, max_size=20), st.integers(1, 50))
def test_remembering_users_never_changes_an_answer(users, partitions):
    remembering = Partitioner(partitions)
    for user_id in users * 2:
        assert remembering(user_id) == partition_of(user_id.encode(), partitions)


def test_the_memory_of_users_is_bounded(monkeypatch):
    monkeypatch.setattr("autoemb_pipeline.producers.partitioner._CACHE_LIMIT", 100)
    partitioner = Partitioner(7)
    for user in range(1000):
        assert partitioner(str(user)) == partition_of(str(user).encode(), 7)
    assert len(partitioner._known) <= 100


@pytest.mark.kafka
def test_librdkafkas_java_compatible_partitioner_puts_every_key_where_we_do(broker, make_topic: Callable[..., str], topic_name):
    topic = make_topic(topic_name, partitions=7)
    keys = [str(n) for n in range(300)] + [uuid.UUID(int=n).hex for n in range(50)] + ["ü", "日本語", "a" * 500]
    producer = Producer({**broker.kafka, "partitioner": "murmur2_random"})
    for key in keys:
        producer.produce(topic, b"", key.encode())
    assert producer.flush(30) == 0
    consumer = Consumer({**broker.kafka, "group.id": "none", "enable.partition.eof": True, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(7)])
    placed, ended = {}, 0
    while ended < 7:
        message = consumer.poll(30)
        assert message is not None
        if message.error() is None:
            placed[message.key().decode()] = message.partition()
        else:
            assert message.error().code() == KafkaError._PARTITION_EOF
            ended += 1
    consumer.close()
    assert placed == {key: partition_of(key.encode(), 7) for key in keys}
