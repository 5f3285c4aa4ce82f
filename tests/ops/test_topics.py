"""Topics are created to keep their records, and refused when they would not."""

import threading
import time
from collections.abc import Callable

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions

from autoemb_pipeline.errors import BrokerError, TopicError
from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.ops import topics
from autoemb_pipeline.ops.topics import ensure_interactions_topic, ensure_metrics_topics, partition_count, topic_id, wait_for_topic

NEVER = "9223372036854775807"


def settings(kafka, topic: str) -> dict[str, str]:
    admin, resource = quiet_admin(kafka), ConfigResource(ConfigResource.Type.TOPIC, topic)
    return {name: entry.value for name, entry in admin.describe_configs([resource])[resource].result(10).items()}


def alter(kafka, topic: str, name: str, value: str) -> None:
    admin = quiet_admin(kafka)
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)


def test_created_interactions_topic_keeps_everything_in_event_time(broker, topic_name: str) -> None:
    assert ensure_interactions_topic(broker.kafka, topic_name, 3) == 3
    wanted = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "segment.ms": NEVER,
        "message.timestamp.type": "CreateTime",
        "message.timestamp.before.max.ms": NEVER,
        "message.timestamp.after.max.ms": NEVER,
    }
    assert wanted.items() <= settings(broker.kafka, topic_name).items()
    assert ensure_interactions_topic(broker.kafka, topic_name, None) == 3
    assert ensure_interactions_topic(broker.kafka, topic_name, 3) == 3


def test_without_a_number_one_partition_is_created(broker, topic_name: str) -> None:
    assert ensure_interactions_topic(broker.kafka, topic_name, None) == 1


def test_other_partition_count_is_refused(broker, topic_name: str) -> None:
    ensure_interactions_topic(broker.kafka, topic_name, 2)
    with pytest.raises(TopicError, match="has 2 partitions, not 3") as caught:
        ensure_interactions_topic(broker.kafka, topic_name, 3)
    assert "2 partitions" in caught.value.remedy


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cleanup.policy", "compact"),
        ("cleanup.policy", "compact,delete"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "1000000"),
        ("message.timestamp.type", "LogAppendTime"),
        ("message.timestamp.before.max.ms", "86400000"),
    ],
)
def test_topic_that_would_lose_or_reorder_is_refused_with_the_mending_setting(broker, topic_name: str, name: str, value: str) -> None:
    ensure_interactions_topic(broker.kafka, topic_name, 1)
    alter(broker.kafka, topic_name, name, value)
    with pytest.raises(TopicError) as caught:
        ensure_interactions_topic(broker.kafka, topic_name, 1)
    assert f"{name}={value}" in caught.value.why
    command = caught.value.remedy.splitlines()[0]
    assert command.startswith(f"kafka-configs.sh --bootstrap-server {broker.bootstrap_servers} --alter --entity-type topics")
    key, _, wanted = command.rpartition("--add-config ")[2].partition("=")
    assert key == name
    alter(broker.kafka, topic_name, key, wanted)
    assert ensure_interactions_topic(broker.kafka, topic_name, 1) == 1


@pytest.mark.kafka
def test_topic_with_the_brokers_defaults_is_refused(broker, topic_name: str, make_topic) -> None:
    make_topic(topic_name, 1, {"retention.ms": "604800000"})
    with pytest.raises(TopicError, match="would lose or reorder") as caught:
        ensure_interactions_topic(broker.kafka, topic_name)
    assert "retention.ms=-1" in caught.value.remedy


@pytest.mark.kafka
def test_records_decades_old_and_years_ahead_are_accepted(broker, topic_name: str) -> None:
    ensure_interactions_topic(broker.kafka, topic_name, 1)
    failures = []
    producer = Producer({**broker.kafka, "acks": "all"})
    for timestamp in (1, 828_124_615_000, int((time.time() + 10 * 365 * 86_400) * 1000)):
        producer.produce(topic_name, value=b"v", timestamp=timestamp, on_delivery=lambda error, _: error and failures.append(error))
    assert producer.flush(20) == 0
    assert failures == []


def test_output_topics_have_one_partition_and_their_policies(broker, topic_name: str) -> None:
    metrics, runtime, letters = (f"{topic_name}.{suffix}" for suffix in ("metrics", "runtime", "dlq"))
    for _ in range(2):  # the second time they are only checked
        ensure_metrics_topics(broker.kafka, metrics, runtime, letters)
    assert [partition_count(broker.kafka, t) for t in (metrics, runtime, letters)] == [1, 1, 1]
    found = {t: settings(broker.kafka, t) for t in (metrics, runtime, letters)}
    assert set(found[metrics]["cleanup.policy"].split(",")) == set(found[runtime]["cleanup.policy"].split(",")) == {"compact", "delete"}
    assert (found[metrics]["retention.ms"], found[runtime]["retention.ms"]) == ("-1", "604800000")
    assert (found[letters]["cleanup.policy"], found[letters]["retention.ms"]) == ("delete", "-1")


@pytest.mark.kafka
def test_metrics_topic_with_two_partitions_is_refused(broker, topic_name: str) -> None:
    names = [f"{topic_name}.{suffix}" for suffix in ("metrics", "runtime", "dlq")]
    ensure_metrics_topics(broker.kafka, *names)
    admin = quiet_admin(broker.kafka)
    admin.create_partitions([NewPartitions(names[0], 2)])[names[0]].result(10)
    with pytest.raises(TopicError, match="2 partitions, not 1"):
        ensure_metrics_topics(broker.kafka, *names)


def test_topic_id_changes_when_a_topic_is_made_anew(broker, topic_name: str) -> None:
    ensure_interactions_topic(broker.kafka, topic_name, 1)
    first = topic_id(broker.kafka, topic_name)
    assert topic_id(broker.kafka, topic_name) == first
    admin = quiet_admin(broker.kafka)
    admin.delete_topics([topic_name])[topic_name].result(10)
    while partition_count(broker.kafka, topic_name) is not None:
        time.sleep(0.1)
    ensure_interactions_topic(broker.kafka, topic_name, 1)
    assert topic_id(broker.kafka, topic_name) != first


def test_asking_for_a_missing_topic_does_not_create_it(broker, topic_name: str) -> None:
    with pytest.raises(TopicError, match="no topic"):
        topic_id(broker.kafka, topic_name)
    with pytest.raises(TopicError, match="not there after"):
        wait_for_topic(broker.kafka, topic_name, lambda: False, timeout=0.5)
    assert partition_count(broker.kafka, topic_name) is None


def test_impossible_topic_name_is_explained(broker) -> None:
    if broker.kind != "apache":
        pytest.skip("the embedded broker takes any name")
    with pytest.raises(TopicError, match="'a topic!' is no name for a topic") as caught:
        partition_count(broker.kafka, "a topic!")
    assert "letters, digits" in caught.value.why


def test_wait_for_topic_returns_when_it_appears_or_when_stopped(broker, topic_name: str) -> None:
    assert wait_for_topic(broker.kafka, topic_name, lambda: True) is None
    timer = threading.Timer(0.5, ensure_interactions_topic, (broker.kafka, topic_name, 2))
    timer.start()
    assert wait_for_topic(broker.kafka, topic_name, lambda: False, timeout=20) == 2
    timer.join()


def test_broker_kind(broker) -> None:
    assert topics.broker_kind(broker.kafka) == broker.kind


def test_two_creators_at_once_agree(broker, topic_name: str) -> None:
    counts: list[int] = []
    create: Callable[[], None] = lambda: counts.append(ensure_interactions_topic(broker.kafka, topic_name, 2))  # noqa: E731
    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [2, 2, 2, 2]


def test_no_broker_is_a_broker_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "_REQUEST_SECONDS", 0.5)
    with pytest.raises(BrokerError):
        partition_count({"bootstrap.servers": "127.0.0.1:1"}, "t")
