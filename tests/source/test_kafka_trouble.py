"""The source when the broker dies, or the topic is not what it was: waited out, or a clear error, never a silent skip."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from structlog.testing import capture_logs

from autoemb_pipeline.batching import Batcher, batches
from autoemb_pipeline.errors import BrokerError, OffsetError, TopicError
from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka
from autoemb_pipeline.records import Interaction, RunPosition
from autoemb_pipeline.schemas.codec import decode_interaction, encode_interaction
from autoemb_pipeline.source import KafkaSource, SourceConfig
from tests.source.oracle.items import poll
from tests.source.topics import spread, write
from tests.streams import synthetic_stream

# So little prefetch that a test's topic is not in memory before the trouble starts.
SCARCE = {
    "queued.min.messages": "1",
    "queued.max.messages.kbytes": "1",
    "message.max.bytes": "2000",
    "fetch.max.bytes": "2000",
    "fetch.message.max.bytes": "2000",
}


def make(admin: AdminClient, topic: str, partitions: int = 1) -> None:
    """Creates the topic, waiting for an earlier one of that name to be gone."""
    deadline = time.monotonic() + 30
    while True:
        new = NewTopic(topic, partitions, 1, config={"retention.ms": "-1"})
        try:
            admin.create_topics([new])[topic].result(10)
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def read_until_error(source: KafkaSource, seconds: float = 60.0) -> int:
    """Records read before an error ends it."""
    count = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        count += len(source.poll_many(100, 0.1).block)
    pytest.fail(f"no error in {seconds} s; {count} records read")


class Reader:
    """A source with its mini-batches, at work on a topic that is in trouble."""

    def __init__(self, config: SourceConfig, kafka: Mapping[str, str]) -> None:
        self.source = KafkaSource(config, kafka, decode_interaction, RunPosition())
        self.batcher = Batcher(batch_size=100, position=RunPosition())
        self.made = batches(self.source, self.batcher)
        self.done = [next(self.made) for _ in range(4)]
        self.starved = 0

    def try_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.batcher.add(self.source.poll_many(self.batcher.room, 0.1))
            batch = self.batcher.close(exhausted=self.source.exhausted)
            self.starved += batch is None
            self.done += [] if batch is None else [batch]
            self.source.commit(self.batcher.position().next_offsets)


@pytest.mark.kafka
@pytest.mark.slow
def test_broker_killed_and_restarted_while_reading(mortal_broker: LocalKafka, topic_name: str) -> None:
    broker = mortal_broker
    kafka = {"bootstrap.servers": broker.bootstrap_servers}
    stream = synthetic_stream(2_000, seed=1)
    admin = quiet_admin(kafka)
    make(admin, topic_name, 3)
    write(kafka, topic_name, stream, spread(3), per_batch=10)
    config = SourceConfig(topic=topic_name, run_id="r", until_end=True, chunk=50, check_interval=0.5)
    each, shared = (Reader(c, {**kafka, **SCARCE}) for c in (config, replace(config, max_consumers=1)))
    broker.kill()
    for reader in (each, shared):
        reader.try_for(4)  # what was prefetched, then nothing, but no error
        assert reader.starved > 10
        assert reader.batcher.step < 20
        assert not reader.source.exhausted
    each.source.verify()  # no answer is no reason to stop a checkpoint
    assert each.source.add_partitions() == {}
    broker.restart()
    for reader in (each, shared):
        reader.done += list(reader.made)
        assert [i for batch in reader.done for i in batch.records] == stream
        assert [len(batch.records) for batch in reader.done] == [100] * 20
    broker.kill()
    for reader in (each, shared):
        reader.source.commit({0: 1})
        started = time.monotonic()
        reader.source.close()
        assert time.monotonic() - started < 10  # stopping does not wait for a broker that is gone


@pytest.mark.kafka
@pytest.mark.parametrize("max_consumers", [16, 0])
def test_a_position_beyond_the_end_is_an_error(broker, topic_name: str, make_topic: Callable[..., str], max_consumers: int) -> None:
    make_topic(topic_name, 1)
    write(broker.kafka, topic_name, synthetic_stream(10, seed=1))
    config = SourceConfig(topic=topic_name, run_id="r", max_consumers=max_consumers)
    with (
        KafkaSource(config, broker.kafka, decode_interaction, RunPosition(next_offsets={0: 500})) as source,
        pytest.raises(OffsetError, match="Partition 0") as caught,
    ):
        read_until_error(source)
    assert "out of range" in caught.value.why
    assert "--new-run" in caught.value.remedy


@pytest.mark.kafka
def test_records_deleted_before_they_were_read_are_an_error(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    make_topic(topic_name, 1)
    write(broker.kafka, topic_name, synthetic_stream(100, seed=1))
    admin = quiet_admin(broker.kafka)
    next(iter(admin.delete_records([TopicPartition(topic_name, 0, 40)]).values())).result(10)
    config = SourceConfig(topic=topic_name, run_id="r", until_end=True)
    with pytest.raises(OffsetError, match="begins at offset 40"):
        KafkaSource(config, broker.kafka, decode_interaction, RunPosition(next_offsets={0: 39}))
    for position, first in ((RunPosition(), 40), (RunPosition(next_offsets={0: 40}), 40), (RunPosition(next_offsets={0: 41}), 41)):
        with KafkaSource(config, broker.kafka, decode_interaction, position) as source:
            assert source.start_offsets == {0: first}
            item = poll(source, 10)
            assert item is not None
            assert item.interaction.sequence == first


@pytest.mark.kafka
def test_records_deleted_while_reading_are_an_error(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    make_topic(topic_name, 1)
    write(broker.kafka, topic_name, synthetic_stream(3_000, seed=1), per_batch=10)
    config = SourceConfig(topic=topic_name, run_id="r", until_end=True, chunk=10)
    with KafkaSource(config, {**broker.kafka, **SCARCE}, decode_interaction, RunPosition()) as source:
        assert poll(source, 10) is not None
        admin = quiet_admin(broker.kafka)
        next(iter(admin.delete_records([TopicPartition(topic_name, 0, 2_990)]).values())).result(10)
        with pytest.raises(OffsetError, match="no longer holds"):
            read_until_error(source)


@pytest.mark.kafka
def test_a_topic_made_anew_is_refused_by_its_id(broker, topic_name: str) -> None:
    admin = quiet_admin(broker.kafka)
    make(admin, topic_name)
    write(broker.kafka, topic_name, synthetic_stream(50, seed=1))
    config = SourceConfig(topic=topic_name, run_id="r")
    with KafkaSource(config, broker.kafka, decode_interaction, RunPosition()) as source:
        topic_id = source.topic_id
    again = SourceConfig(topic=topic_name, run_id="r", topic_id=topic_id)
    KafkaSource(again, broker.kafka, decode_interaction, RunPosition(next_offsets={0: 20})).close()
    admin.delete_topics([topic_name])[topic_name].result(10)
    make(admin, topic_name)
    write(broker.kafka, topic_name, synthetic_stream(50, seed=2))
    with pytest.raises(OffsetError, match="made anew"):
        KafkaSource(again, broker.kafka, decode_interaction, RunPosition(next_offsets={0: 20}))


@pytest.mark.kafka
@pytest.mark.parametrize("longer", [True, False])
def test_a_topic_made_anew_while_reading_is_noticed(broker, topic_name: str, longer: bool) -> None:
    admin = quiet_admin(broker.kafka)
    make(admin, topic_name)
    write(broker.kafka, topic_name, synthetic_stream(50, seed=1))
    config = SourceConfig(topic=topic_name, run_id="r", check_interval=0.5)
    with KafkaSource(config, broker.kafka, decode_interaction, RunPosition()) as source:
        read = 0
        while read < 50:
            read += len(source.poll_many(100, 1.0).block)
        admin.delete_topics([topic_name])[topic_name].result(10)
        make(admin, topic_name)
        write(broker.kafka, topic_name, synthetic_stream(80 if longer else 20, seed=2))
        with pytest.raises((OffsetError, TopicError), match=r"made anew|There is no topic"):
            read_until_error(source)
        with pytest.raises(OffsetError, match="made anew"):
            source.verify()


@pytest.mark.kafka
def test_a_topic_deleted_while_reading_is_an_error(broker, topic_name: str) -> None:
    admin = quiet_admin(broker.kafka)
    make(admin, topic_name)
    write(broker.kafka, topic_name, synthetic_stream(50, seed=1))
    config = SourceConfig(topic=topic_name, run_id="r", check_interval=0.5)
    with KafkaSource(config, broker.kafka, decode_interaction, RunPosition()) as source:
        assert poll(source, 10) is not None
        admin.delete_topics([topic_name])[topic_name].result(10)
        with pytest.raises(TopicError, match="There is no topic"):
            read_until_error(source)


@pytest.mark.kafka
def test_a_topic_with_fewer_partitions_than_the_position_is_another_one(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    make_topic(topic_name, 1)
    with pytest.raises(TopicError, match=r"no partitions \[1, 2\]"):
        KafkaSource(
            SourceConfig(topic=topic_name, run_id="r"), broker.kafka, decode_interaction, RunPosition(next_offsets={0: 0, 1: 0, 2: 5})
        )


@pytest.mark.kafka
def test_an_end_before_a_recorded_boundary_is_an_error(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    make_topic(topic_name, 2)
    write(broker.kafka, topic_name, synthetic_stream(50, seed=1), spread(2))
    config = SourceConfig(topic=topic_name, run_id="r", until_end=True, truncation_grace=0.5)
    with KafkaSource(config, broker.kafka, decode_interaction, RunPosition()) as source:
        batcher = Batcher(batch_size=10, position=RunPosition(), recorded={1: {0: 5, 1: 5}, 2: {0: 900, 1: 5}})
        made = batches(source, batcher)
        assert len(next(made).records) == 10
        with pytest.raises(OffsetError, match="before 900"):
            next(made)


def begin(kafka: Mapping[str, str], topic: str, interactions: list[Interaction], partition: int) -> Producer:
    """A producer whose transaction, with these records in it, is open."""
    producer = Producer({**kafka, "transactional.id": f"tx-{topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for interaction in interactions:
        producer.produce(topic, encode_interaction(interaction), partition=partition)
    assert producer.flush(30) == 0
    return producer


@pytest.mark.kafka
@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("max_consumers", [16, 0])
def test_until_end_waits_for_an_open_transaction(
    broker, topic_name: str, make_topic: Callable[..., str], max_consumers: int, commits: bool
) -> None:
    stream = synthetic_stream(260, seed=8)
    make_topic(topic_name, 2)
    write(broker.kafka, topic_name, stream[:60], lambda n: n % 2)
    producer = begin(broker.kafka, topic_name, stream[60:200], 1)
    write(broker.kafka, topic_name, stream[200:], lambda n: n % 2)
    config = SourceConfig(topic=topic_name, run_id="r", until_end=True, max_consumers=max_consumers, idle_timeout=0.1)
    with KafkaSource(config, broker.kafka, decode_interaction, RunPosition()) as source:
        seen: list[Interaction] = []
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            seen += source.poll_many(100, 0.1).block.interactions()
        assert seen == stream[:60]  # partition 0's later ones wait for what partition 1 hides
        assert not source.exhausted
        assert source.lag() == 200
        assert source.unread() == ("170 records of partition 1 were not read: they stand behind an open transaction",)
        (producer.commit_transaction if commits else producer.abort_transaction)(30)
        deadline = time.monotonic() + 30
        while not source.exhausted and time.monotonic() < deadline:
            seen += source.poll_many(100, 0.1).block.interactions()
        assert source.exhausted
        assert source.lag() == 0
        assert source.unread() == ()
    assert seen == (stream if commits else [*stream[:60], *stream[200:]])


@pytest.mark.kafka
def test_until_end_fails_where_a_transaction_stays_open(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    stream = synthetic_stream(100, seed=9)
    make_topic(topic_name, 1)
    write(broker.kafka, topic_name, stream[:40])
    producer = begin(broker.kafka, topic_name, stream[40:], 0)
    config = SourceConfig(topic=topic_name, run_id="r", until_end=True, transaction_patience=3)
    with (
        KafkaSource(config, broker.kafka, decode_interaction, RunPosition()) as source,
        pytest.raises(BrokerError, match=r"The end of .* was not reached within 3 s") as caught,
    ):
        read_until_error(source)
    assert "partition 0 hides 60 records from offset 40 on" in caught.value.why
    assert "transaction.timeout.ms" in caught.value.remedy
    producer.abort_transaction(30)


@pytest.mark.kafka
def test_a_live_stream_says_what_waits_behind_an_open_transaction(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    stream = synthetic_stream(100, seed=9)
    make_topic(topic_name, 1)
    write(broker.kafka, topic_name, stream[:40])
    config = SourceConfig(topic=topic_name, run_id="r")
    with KafkaSource(config, broker.kafka, decode_interaction, RunPosition()) as source, capture_logs() as lines:
        seen = read_for(source, 2.0)
        producer = begin(broker.kafka, topic_name, stream[40:], 0)
        seen += read_for(source, 4.0)
        assert seen == stream[:40]
        assert source.lag() == 60
        assert source.unread() == ("60 records of partition 0 were not read: they stand behind an open transaction",)
        told = [line for line in lines if line["event"] == "records wait behind an open transaction"]
        assert [(line["partition"], line["offset"], line["records"]) for line in told] == [(0, 40, 60)]
        producer.commit_transaction(30)
        seen += read_for(source, 3.0)
        assert (source.lag(), source.unread()) == (0, ())
    assert seen == stream


def read_for(source: KafkaSource, seconds: float) -> list[Interaction]:
    seen: list[Interaction] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen += source.poll_many(100, 0.1).block.interactions()
    return seen


@pytest.mark.kafka
def test_a_partition_that_joined_and_lost_its_beginning_is_an_error(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    make_topic(topic_name, 2)
    write(broker.kafka, topic_name, synthetic_stream(100, seed=1), lambda n: n % 2)
    admin = quiet_admin(broker.kafka)
    next(iter(admin.delete_records([TopicPartition(topic_name, 1, 30)]).values())).result(10)
    position = RunPosition(next_offsets={0: 10}, first_offsets={0: 0})
    with pytest.raises(OffsetError, match=r"Partition 1 .* begins at offset 30, and this run stands at 0"):
        KafkaSource(SourceConfig(topic=topic_name, run_id="r"), broker.kafka, decode_interaction, position)
