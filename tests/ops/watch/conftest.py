"""Two real runs, trained by the command on the session's broker: what watching, exporting and dashboards are tried on."""

import uuid
from dataclasses import dataclass

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from autoemb_pipeline.cli.main import cli
from autoemb_pipeline.ops.topics import ensure_interactions_topic
from autoemb_pipeline.schemas.codec import encode_interaction
from tests.conftest import TestBroker
from tests.ops.recorded import tastes
from tests.source.topics import IN_ORDER

EVENTS, BATCH = 1050, 50
SETTINGS = {"paper": ["hidden=16", "controller_hidden=8", "validation_size=20"], "stream": ["panel=0.2"]}


@dataclass(frozen=True)
class Watched:
    """Topics that hold two runs."""

    servers: str
    interactions: str
    metrics: str
    runtime: str
    older_run: str
    newest_run: str


@pytest.fixture(scope="module")
def watched(broker: TestBroker, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    topic = f"watched-{uuid.uuid4().hex[:8]}"
    ensure_interactions_topic(broker.kafka, topic, 1)
    producer = Producer({**broker.kafka, **IN_ORDER})
    for interaction in tastes(EVENTS):
        producer.produce(topic, encode_interaction(interaction), interaction.user_id.encode(), timestamp=interaction.timestamp)
    producer.produce(topic, b"no interaction", b"dead")
    assert producer.flush(30) == 0
    runs = {"older": ("fse", "paper"), "newest": ("autoemb", "stream")}
    for run_id, (method, preset) in runs.items():
        arguments = ["train", "--topic", topic, "--method", method, "--preset", preset, "--batch-size", str(BATCH), "--until-end"]
        arguments += ["--run-id", f"{topic}-{run_id}", "--state-dir", str(tmp_path_factory.mktemp("state")), "--threads", "1"]
        arguments += ["--metrics-topic", f"{topic}.metrics", "--runtime-topic", f"{topic}.runtime", "--device", "cpu"]
        arguments += [part for setting in SETTINGS[preset] for part in ("--set", setting)] + [
            "--bootstrap-servers",
            broker.bootstrap_servers,
        ]
        arguments += ["--ttl-days", "1"] if preset == "stream" else []
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return Watched(
        servers=broker.bootstrap_servers,
        interactions=topic,
        metrics=f"{topic}.metrics",
        runtime=f"{topic}.runtime",
        older_run=f"{topic}-older",
        newest_run=f"{topic}-newest",
    )


@pytest.fixture
def topics(watched: Watched) -> list[str]:
    return ["--metrics-topic", watched.metrics, "--runtime-topic", watched.runtime, "--bootstrap-servers", watched.servers]
