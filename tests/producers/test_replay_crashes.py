"""Replays that are killed, and brokers that are: each sequence arrives exactly once all the same."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from autoemb_pipeline.errors import TopicError
from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka
from autoemb_pipeline.ops.topics import ensure_interactions_topic, record_count
from autoemb_pipeline.producers.config import ReplayConfig
from autoemb_pipeline.producers.datasets.catalogue import DatasetOptions, load_dataset
from autoemb_pipeline.producers.progress import ReplayProgress
from autoemb_pipeline.producers.replay import replay
from tests.producers.topic_content import assert_each_once, read_all

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 5
SPEC = "synthetic:interactions={n},users=500,items=100"

# prints one line a report, so that the parent knows when records are on their way
CHILD = """
import sys
from pathlib import Path
from autoemb_pipeline.producers.datasets.catalogue import DatasetOptions, load_dataset
from autoemb_pipeline.producers.config import ReplayConfig
from autoemb_pipeline.producers.replay import replay

servers, topic, spec, cache = sys.argv[1:]
dataset = load_dataset(spec, DatasetOptions(cache_dir=Path(cache)))
report = lambda p: print(p.already + p.acknowledged, flush=True)
result = replay(dataset, ReplayConfig(topic=topic, buffer_messages=5000), kafka={"bootstrap.servers": servers}, progress=report)
print(result.status, flush=True)
"""


def start_child(broker, topic: str, spec: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, broker.bootstrap_servers, topic, spec, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.kafka
@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_each_sequence_is_there_once(broker, make_topic, topic_name, tmp_path):
    topic = make_topic(topic_name, PARTITIONS)
    spec = SPEC.format(n=150_000)
    dataset = load_dataset(spec, DatasetOptions(cache_dir=tmp_path))
    rng = random.Random(20200224)
    kills = 0
    for _ in range(4):
        with start_child(broker, topic, spec, tmp_path) as child:
            first = child.stdout.readline()
            time.sleep(rng.uniform(0, 0.5))
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
                kills += 1
            child.wait(60)
            child.stdout.close()
        assert first
        if kills == 2:
            sequences = [r.interaction.sequence for r in read_all(broker.kafka, topic, PARTITIONS)]
            assert len(sequences) == len(set(sequences))
        if record_count(broker.kafka, topic) == len(dataset):
            break
    assert kills >= 2
    with start_child(broker, topic, spec, tmp_path) as child:
        output, _ = child.communicate(timeout=120)
    assert output.split()[-1] in {"complete", "already-complete"}
    assert_each_once(read_all(broker.kafka, topic, PARTITIONS), dataset, PARTITIONS)


@pytest.mark.kafka
@pytest.mark.slow
def test_a_broker_killed_and_restarted_under_a_replay_gets_each_sequence_once(mortal_broker: LocalKafka, topic_name, tmp_path):
    broker = mortal_broker
    kafka = {"bootstrap.servers": broker.bootstrap_servers}
    ensure_interactions_topic(kafka, topic_name, PARTITIONS)
    dataset = load_dataset(SPEC.format(n=60_000), DatasetOptions(cache_dir=tmp_path))
    reached = threading.Event()
    notes: list[str] = []

    def progress(report: ReplayProgress) -> None:
        notes.append(report.note)
        if report.acknowledged > 5000:
            reached.set()

    def restart() -> None:
        if reached.wait(120):
            broker.kill()
            time.sleep(1)
            broker.restart()

    thread = threading.Thread(target=restart)
    thread.start()
    # slow enough to be in the middle of it when the broker dies
    result = replay(
        dataset,
        ReplayConfig(topic=topic_name, partitions=PARTITIONS, speed=365 * 86_400 / 6, buffer_messages=2000),
        kafka=kafka,
        progress=progress,
    )
    thread.join()
    assert result.status == "complete"
    assert any(notes), "the outage was never reported"
    assert_each_once(read_all(kafka, topic_name, PARTITIONS), dataset, PARTITIONS)


@pytest.mark.kafka
@pytest.mark.slow
def test_stopping_while_the_broker_is_away_says_what_is_not_acknowledged(mortal_broker: LocalKafka, topic_name, tmp_path):
    broker = mortal_broker
    kafka = {"bootstrap.servers": broker.bootstrap_servers}
    ensure_interactions_topic(kafka, topic_name, PARTITIONS)
    dataset = load_dataset(SPEC.format(n=60_000), DatasetOptions(cache_dir=tmp_path))
    away = threading.Event()
    stopped_at: list[float] = []

    def progress(report: ReplayProgress) -> None:
        if report.acknowledged > 1000 and not away.is_set():
            broker.kill()
            away.set()
            stopped_at.append(time.monotonic())

    config = ReplayConfig(topic=topic_name, buffer_messages=500, flush_seconds=1.0)
    result = replay(dataset, config, kafka=kafka, progress=progress, stop=lambda: away.is_set() and time.monotonic() - stopped_at[0] > 1)
    assert time.monotonic() - stopped_at[0] < 10
    assert result.status == "stopped"
    assert 0 < result.unacknowledged <= 500
    broker.restart()
    rest = replay(dataset, ReplayConfig(topic=topic_name), kafka=kafka)
    assert result.sent <= rest.already <= result.sent + result.unacknowledged
    assert_each_once(read_all(kafka, topic_name, PARTITIONS), dataset, PARTITIONS)


@pytest.mark.kafka
def test_a_second_replay_at_the_same_time_is_refused(broker, make_topic, topic_name, tmp_path):
    topic = make_topic(topic_name, PARTITIONS)
    dataset = load_dataset(SPEC.format(n=20_000), DatasetOptions(cache_dir=tmp_path))
    running, refused = threading.Event(), threading.Event()
    first = threading.Thread(
        target=replay,
        args=(dataset, ReplayConfig(topic=topic, speed=365 * 86_400 / 30)),
        kwargs={
            "kafka": broker.kafka,
            "progress": lambda p: running.set() if p.acknowledged > 100 else None,
            "stop": refused.is_set,
        },
    )
    first.start()
    try:
        assert running.wait(60)
        with pytest.raises(TopicError, match="something else is writing"):
            replay(dataset, ReplayConfig(topic=topic), kafka=broker.kafka)
    finally:
        refused.set()
        first.join()
    assert replay(dataset, ReplayConfig(topic=topic), kafka=broker.kafka).status == "complete"
    assert_each_once(read_all(broker.kafka, topic, PARTITIONS), dataset, PARTITIONS)
