"""Replay against a real broker."""

import time
from collections.abc import Callable
from contextlib import closing

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from autoemb_pipeline.errors import BrokerError, ConfigurationError, DatasetError, DeliveryError, TopicError
from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.producers.config import ReplayConfig
from autoemb_pipeline.producers.datasets.catalogue import DatasetOptions, load_dataset
from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.datasets.sorting import sort_source
from autoemb_pipeline.producers.formats.layouts import find_source
from autoemb_pipeline.producers.partitioner import partition_of
from autoemb_pipeline.producers.progress import ReplayProgress, ReplayResult
from autoemb_pipeline.producers.replay import replay
from autoemb_pipeline.producers.topic_reader import FINGERPRINT_HEADER
from autoemb_pipeline.schemas.avro import HEADER_BYTES
from autoemb_pipeline.schemas.codec import encode_interaction
from autoemb_pipeline.schemas.registry import InteractionDecoder, RegistryCodec
from tests.producers.topic_content import assert_each_once, read_all
from tests.schemas.test_registry import serving

PARTITIONS = 3


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> SortedDataset:
    options = DatasetOptions(cache_dir=tmp_path_factory.mktemp("cache"))
    return load_dataset("synthetic:interactions=5000,users=60,items=40,days=1", options)


@pytest.fixture
def topic(make_topic: Callable[..., str], topic_name: str) -> str:
    return make_topic(topic_name, partitions=PARTITIONS)


def from_csv(tmp_path, text: str, name: str = "d") -> SortedDataset:
    path = tmp_path / f"{name}.csv"
    path.write_text("userId,movieId,rating,timestamp\n" + text)
    return sort_source(find_source(path), name=name, cache_dir=tmp_path / "cache")


class StopAfter:
    """A stop() that says so once this many interactions are acknowledged."""

    def __init__(self, acknowledged: int) -> None:
        self.limit, self.seen = acknowledged, 0

    def progress(self, progress: ReplayProgress) -> None:
        self.seen = progress.acknowledged

    def __call__(self) -> bool:
        return self.seen >= self.limit


def test_real_data_arrives_whole_in_order_at_its_event_times(broker, make_topic, topic_name, ml_latest_small, tmp_path):
    topic = make_topic(topic_name, partitions=4)
    dataset = sort_source(find_source(ml_latest_small), name="ml-latest-small", cache_dir=tmp_path)
    seen: list[ReplayProgress] = []
    result = replay(dataset, ReplayConfig(topic=topic, partitions=4), kafka=broker.kafka, progress=seen.append)
    assert result == ReplayResult(
        status="complete",
        topic=topic,
        partitions=4,
        dataset="ml-latest-small",
        fingerprint=dataset.fingerprint,
        total=100_836,
        already=0,
        sent=100_836,
        event_time=1_537_799_250_000,
        seconds=result.seconds,
    )
    records = read_all(broker.kafka, topic, 4)
    assert_each_once(records, dataset, 4)
    assert all(r.timestamp == r.interaction.timestamp for r in records)
    assert all(r.key == r.interaction.user_id.encode() for r in records)
    assert all(r.headers == {FINGERPRINT_HEADER: dataset.fingerprint.encode()} for r in records)
    assert (seen[-1].acknowledged, seen[-1].total, seen[-1].already) == (100_836, 100_836, 0)
    assert [p.acknowledged for p in seen] == sorted(p.acknowledged for p in seen)


def test_a_registrys_records_are_the_same_behind_its_header_and_are_gone_on_with(broker, topic, small):
    with serving() as registry, closing(RegistryCodec(registry.url)) as codec:
        header, decode = codec.interaction_header(topic), InteractionDecoder(registry=codec)
        seen: list[bytes] = []
        for limit in (1000, None, None):
            result = replay(small, ReplayConfig(topic=topic, limit=limit), kafka=broker.kafka, header=header, decode=decode)
        assert (result.status, result.already) == ("already-complete", 5000)
        records = read_all(broker.kafka, topic, PARTITIONS, lambda value: seen.append(value) or decode(value))
    assert_each_once(records, small, PARTITIONS)
    assert seen == [header + encode_interaction(record.interaction)[HEADER_BYTES:] for record in records]


def test_a_finished_replay_says_so_and_sends_nothing(broker, topic, small):
    first = replay(small, ReplayConfig(topic=topic), kafka=broker.kafka)
    again = replay(small, ReplayConfig(topic=topic), kafka=broker.kafka)
    assert (first.status, first.sent, first.already) == ("complete", 5000, 0)
    assert (again.status, again.sent, again.already) == ("already-complete", 0, 5000)
    assert_each_once(read_all(broker.kafka, topic, PARTITIONS), small, PARTITIONS)


def test_limit_from_and_until_select_and_growing_limits_go_on(broker, topic, make_topic, small):
    for limit, sent in ((0, 0), (700, 700), (300, 0), (1000, 300)):
        result = replay(small, ReplayConfig(topic=topic, limit=limit), kafka=broker.kafka)
        assert result.sent == sent
        assert result.status == ("complete" if sent else "already-complete")
    assert_each_once(read_all(broker.kafka, topic, PARTITIONS), small, PARTITIONS, range(1000))
    middle = [i.timestamp for i in small.interactions(range(1000, 3000))]
    other = make_topic(topic + "-part", partitions=PARTITIONS)
    config = ReplayConfig(topic=other, from_ms=middle[0], until_ms=middle[-1] + 1)
    assert replay(small, config, kafka=broker.kafka).sent == 2000
    assert_each_once(read_all(broker.kafka, other, PARTITIONS), small, PARTITIONS, range(1000, 3000))
    with pytest.raises(TopicError, match="begins with sequence"):
        replay(small, ReplayConfig(topic=other), kafka=broker.kafka)


def test_a_range_without_interactions_names_the_datasets_own(broker, topic, small):
    with pytest.raises(DatasetError, match="no interaction") as raised:
        replay(small, ReplayConfig(topic=topic, until_ms=1000), kafka=broker.kafka)
    assert "2015-01-01T" in raised.value.why


@pytest.mark.parametrize("speed", [None, 86_400.0 / 2])
def test_a_stopped_replay_flushes_says_where_and_is_gone_on_with(broker, topic, small, speed):
    stop = StopAfter(500)
    # a small buffer, so that a replay at full speed does not end before it can be stopped
    config = ReplayConfig(topic=topic, speed=speed, buffer_messages=200)
    result = replay(small, config, kafka=broker.kafka, progress=stop.progress, stop=stop)
    assert result.status == "stopped"
    assert 500 <= result.sent < 5000
    assert result.unacknowledged == 0
    assert result.next_sequence == result.sent
    assert_each_once(read_all(broker.kafka, topic, PARTITIONS), small, PARTITIONS, range(result.sent))
    rest = replay(small, ReplayConfig(topic=topic), kafka=broker.kafka)
    assert (rest.status, rest.already, rest.sent) == ("complete", result.sent, 5000 - result.sent)
    assert_each_once(read_all(broker.kafka, topic, PARTITIONS), small, PARTITIONS)


def test_speed_follows_event_time_exactly(broker, topic, tmp_path):
    dataset = from_csv(tmp_path, "1,1,3,1000\n2,1,3,1000\n3,1,3,1010\n4,1,3,1040\n")
    arrived: list[tuple[float, int]] = []
    begun = time.monotonic()
    replay(
        dataset,
        ReplayConfig(topic=topic, speed=20.0),
        kafka=broker.kafka,
        progress=lambda p: arrived.append((time.monotonic() - begun, p.event_time)),
    )
    sent_at = {event: next(at for at, e in arrived if e == event) for event in (1_010_000, 1_040_000)}
    first = next(at for at, e in arrived if e == 1_000_000)
    assert 0.3 <= sent_at[1_010_000] - first < 0.5 + 0.8
    assert 1.5 <= sent_at[1_040_000] - sent_at[1_010_000] + 0.3 < 1.5 + 1.1


def test_event_time_zero_is_kept_in_the_value_and_not_turned_into_now(broker, topic, tmp_path):
    dataset = from_csv(tmp_path, "1,1,3,0\n2,1,3,0\n3,1,3,1\n")
    replay(dataset, ReplayConfig(topic=topic), kafka=broker.kafka)
    records = read_all(broker.kafka, topic, PARTITIONS)
    assert_each_once(records, dataset, PARTITIONS)
    assert {(r.interaction.timestamp, r.timestamp) for r in records} == {(0, 1), (1000, 1000)}
    assert replay(dataset, ReplayConfig(topic=topic), kafka=broker.kafka).status == "already-complete"


def test_other_data_in_the_topic_is_refused_and_the_topic_left_alone(broker, topic, small, tmp_path):
    mine = from_csv(tmp_path, "1,1,3,1\n2,1,3,2\n", "mine")
    replay(mine, ReplayConfig(topic=topic), kafka=broker.kafka)
    with pytest.raises(TopicError, match="was written from mine") as raised:
        replay(small, ReplayConfig(topic=topic), kafka=broker.kafka)
    assert "--topic" in raised.value.remedy
    edited = from_csv(tmp_path, "1,1,3,1\n2,1,3,2\n3,1,3,3\n", "mine")
    with pytest.raises(TopicError, match="was written from") as raised:
        replay(edited, ReplayConfig(topic=topic), kafka=broker.kafka)
    assert "fingerprint" in raised.value.why
    assert_each_once(read_all(broker.kafka, topic, PARTITIONS), mine, PARTITIONS)


def test_another_partition_count_is_refused(broker, topic, small):
    with pytest.raises(TopicError, match="has 3 partitions, not 5") as raised:
        replay(small, ReplayConfig(topic=topic, partitions=5), kafka=broker.kafka)
    assert "--partitions 3" in raised.value.remedy


def test_records_that_are_no_interactions_are_refused(broker, topic, small):
    producer = Producer(broker.kafka)
    producer.produce(topic, b"hello", b"1", 1)
    assert producer.flush(30) == 0
    with pytest.raises(TopicError, match="no interaction"):
        replay(small, ReplayConfig(topic=topic), kafka=broker.kafka)


def test_doubled_records_are_refused(broker, topic, small):
    replay(small, ReplayConfig(topic=topic, limit=50), kafka=broker.kafka)
    records = read_all(broker.kafka, topic, PARTITIONS)
    producer = Producer(broker.kafka)
    for record in (records[0], records[-1]):
        producer.produce(topic, encode_interaction(record.interaction), record.key, record.partition, headers=record.headers)
    assert producer.flush(30) == 0
    with pytest.raises(TopicError, match="follows"):
        replay(small, ReplayConfig(topic=topic), kafka=broker.kafka)


@pytest.mark.kafka
def test_transaction_markers_at_the_tail_are_scanned_over(broker, topic, small):
    replay(small, ReplayConfig(topic=topic, limit=50), kafka=broker.kafka)
    producer = Producer({**broker.kafka, "transactional.id": topic})
    producer.init_transactions(30)
    for _ in range(30):
        producer.begin_transaction()
        for partition in range(PARTITIONS):
            producer.produce(topic, b"never visible", b"k", partition)
        producer.flush(30)
        producer.abort_transaction(30)
    result = replay(small, ReplayConfig(topic=topic), kafka=broker.kafka)
    assert (result.status, result.already) == ("complete", 50)
    assert_each_once(read_all(broker.kafka, topic, PARTITIONS), small, PARTITIONS)
    assert replay(small, ReplayConfig(topic=topic), kafka=broker.kafka).status == "already-complete"


@pytest.mark.kafka
def test_a_refused_record_stops_the_replay_without_a_gap_and_it_resumes(broker, make_topic, topic_name, tmp_path):
    topic = make_topic(topic_name, PARTITIONS, {"max.message.bytes": "1500"})
    rows = [f"{'u' * 1000 + str(n) if n == 1500 else n % 40},{'i' * 1000 if n == 1500 else n},3,{n}" for n in range(3000)]
    dataset = from_csv(tmp_path, "\n".join(rows))
    # one record a batch and five batches in flight: without care the ones behind the refused record would arrive
    kafka = {**broker.kafka, "batch.num.messages": "1", "compression.type": "none"}
    with pytest.raises(DeliveryError, match="the broker refused") as raised:
        replay(dataset, ReplayConfig(topic=topic), kafka=kafka)
    assert "Message size too large" in raised.value.why
    victim = next(iter(dataset.interactions(range(1500, 1501))))
    records = read_all(broker.kafka, topic, PARTITIONS)
    for partition in range(PARTITIONS):
        sequences = [r.interaction.sequence for r in records if r.partition == partition]
        home = [i.sequence for i in dataset.interactions() if _home(i.user_id) == partition]
        assert sequences == home[: len(sequences)]
        if partition == _home(victim.user_id):
            assert sequences[-1] < 1500
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    resource.add_incremental_config(ConfigEntry("max.message.bytes", "1000000", incremental_operation=AlterConfigOpType.SET))
    admin = quiet_admin(broker.kafka)
    admin.incremental_alter_configs([resource])[resource].result(15)
    time.sleep(0.5)
    assert replay(dataset, ReplayConfig(topic=topic), kafka=kafka).status == "complete"
    assert_each_once(read_all(broker.kafka, topic, PARTITIONS), dataset, PARTITIONS)


def test_a_record_too_large_for_the_client_is_named_and_what_is_before_it_is_gone_on_with(broker, topic, tmp_path):
    victim = 2500
    dataset = from_csv(tmp_path, "\n".join(f"{n % 40},{'i' * 1010 if n == victim else n},3,{n}" for n in range(3000)))
    small_messages = {**broker.kafka, "message.max.bytes": "1000"}
    with pytest.raises(DeliveryError, match=f"refused interaction {victim} of d") as raised:
        replay(dataset, ReplayConfig(topic=topic), kafka=small_messages)
    assert "MSG_SIZE_TOO_LARGE" in raised.value.why
    assert all(record.interaction.sequence < victim for record in read_all(broker.kafka, topic, PARTITIONS))
    assert replay(dataset, ReplayConfig(topic=topic), kafka=broker.kafka).status == "complete"
    assert_each_once(read_all(broker.kafka, topic, PARTITIONS), dataset, PARTITIONS)


def _home(user_id: str) -> int:
    return partition_of(user_id.encode(), PARTITIONS)


def test_settings_that_guarantee_completeness_cannot_be_switched_off(broker, topic, small):
    weak = {
        **broker.kafka,
        "acks": "0",
        "enable.idempotence": "false",
        "message.timeout.ms": "1",
        "delivery.timeout.ms": "1",
        "request.required.acks": "0",
        "compression.type": "gzip",
    }
    assert replay(small, ReplayConfig(topic=topic), kafka=weak).status == "complete"
    assert_each_once(read_all(broker.kafka, topic, PARTITIONS), small, PARTITIONS)


def test_a_missing_topic_is_an_error_and_is_not_created(broker, topic_name, small):
    for _ in range(2):
        with pytest.raises(TopicError, match="no topic"):
            replay(small, ReplayConfig(topic=topic_name), kafka=broker.kafka)


def test_no_broker_is_an_error_within_seconds(small):
    begun = time.monotonic()
    with pytest.raises(BrokerError) as raised:
        replay(small, ReplayConfig(), kafka={"bootstrap.servers": "127.0.0.1:9"})
    assert time.monotonic() - begun < 8
    assert raised.value.remedy


@pytest.mark.parametrize(
    "wrong", [{"speed": 0.0}, {"speed": -1.0}, {"speed": float("nan")}, {"partitions": 0}, {"buffer_messages": 0}, {"flush_seconds": -1}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigurationError) as raised:
        ReplayConfig(**wrong)
    assert raised.value.remedy
