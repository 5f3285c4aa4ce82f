"""What `train` accepts of a topic's settings: no compaction; a finite retention, said once; none shorter than the longest outage."""

import json
from pathlib import Path

import pytest

from autoemb_pipeline.cli.main import main
from autoemb_pipeline.errors import TopicError
from autoemb_pipeline.ops.doctor import DoctorConfig, examine
from autoemb_pipeline.ops.topics import ensure_interactions_topic
from autoemb_pipeline.ops.training_topics import check_for_training, in_words, training_problems
from tests.ops.test_topics import alter, settings
from tests.source.topics import write
from tests.streams import synthetic_stream


def train(broker, topic: str, directory: Path, *options: str) -> int:
    names = ("--metrics-topic", f"{topic}.m", "--runtime-topic", f"{topic}.r", "--state-dir", str(directory), "--log-format", "json")
    broker_option = ("--bootstrap-servers", broker.bootstrap_servers)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--topic", topic, "--until-end", "--method", "fse", *names, *broker_option, *options])
    return int(ended.value.code or 0)


@pytest.mark.kafka
@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_train_refuses_a_compacted_topic_and_the_command_mends_it(broker, topic_name, make_topic, tmp_path, capsys, policy: str) -> None:
    make_topic(topic_name, 1, {"cleanup.policy": policy, "retention.ms": "604800000"})
    write(broker.kafka, topic_name, synthetic_stream(300, seed=1))
    assert train(broker, topic_name, tmp_path / "run") == 4
    told = capsys.readouterr().err
    assert f"cleanup.policy={policy}: compaction drops all but a key's last record" in told
    (command,) = [line for line in told.splitlines() if "kafka-configs.sh" in line]
    wanted = command.rpartition("--add-config ")[2].split(",")
    # Compaction alone has no retention; the mended topic must not begin to delete by the one that slept in its settings.
    assert wanted == (["cleanup.policy=delete", "retention.ms=-1"] if policy == "compact" else ["cleanup.policy=delete"])
    for pair in wanted:
        alter(broker.kafka, topic_name, *pair.split("="))
    check_for_training(broker.kafka, topic_name)


@pytest.mark.kafka
def test_train_accepts_a_retention_and_says_so_once(broker, topic_name, make_topic, tmp_path, capsys) -> None:
    make_topic(topic_name, 1, {"retention.ms": "604800000000", "retention.bytes": "1000000000", "message.timestamp.type": "LogAppendTime"})
    write(broker.kafka, topic_name, synthetic_stream(300, seed=1))
    assert train(broker, topic_name, tmp_path / "run", "--longest-outage", "2d") == 0
    output = capsys.readouterr()
    assert "300 interactions" in output.out
    lines = [json.loads(line) for line in output.err.splitlines() if line.startswith("{")]
    (by_time,) = [line for line in lines if line["event"] == "the topic deletes old records"]
    assert (by_time["kept"], by_time["retention_ms"]) == ("7000 d, and at most 1,000,000,000 bytes a partition", 604_800_000_000)
    assert by_time["longest_outage"] == "2 d"
    (by_size,) = [line for line in lines if line["event"] == "the topic deletes old records by size"]
    assert "cannot be compared" in by_size["hint"]


@pytest.mark.kafka
def test_a_retention_shorter_than_the_longest_outage_is_refused(broker, topic_name, make_topic, tmp_path, capsys) -> None:
    make_topic(topic_name, 1, {"retention.ms": "86400000"})
    assert train(broker, topic_name, tmp_path / "run", "--longest-outage", "36h") == 4
    told = capsys.readouterr().err
    assert "retention.ms=86400000: the broker deletes records after 1 d, and a trainer may be away for 1.5 d" in told
    assert "--add-config retention.ms=129600000" in told
    for outage, ok in ((129_600.0, False), (86_400.0, True)):
        config = DoctorConfig(bootstrap_servers=broker.bootstrap_servers, topic=topic_name, longest_outage=outage)
        found = {finding.subject: finding for finding in examine(config, {})}
        assert found[f"topic {topic_name}"].ok is ok
    assert found[f"topic {topic_name}"].text == "1 partition, kept 1 d; the longest outage is 1 d"
    alter(broker.kafka, topic_name, "retention.ms", "129600000")
    check_for_training(broker.kafka, topic_name, longest_outage=129_600)


@pytest.mark.kafka
def test_replays_own_topics_are_well(broker, topic_name) -> None:
    ensure_interactions_topic(broker.kafka, topic_name, 1)
    assert training_problems(settings(broker.kafka, topic_name), longest_outage=1e9) == []


def test_settings_that_no_broker_reported_are_no_problem() -> None:
    assert training_problems({}, longest_outage=60) == []


def test_a_missing_topic_is_an_error(broker, topic_name) -> None:
    with pytest.raises(TopicError, match="There is no topic"):
        check_for_training(broker.kafka, topic_name)


@pytest.mark.parametrize(("seconds", "words"), [(0.5, "0.5 s"), (90, "1.5 min"), (43_200, "12 h"), (172_800, "2 d")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
