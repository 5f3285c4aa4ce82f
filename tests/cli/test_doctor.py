"""The doctor as a command: its exit code and its lines. What it finds is tested in tests/ops."""

from pathlib import Path

import pytest

from autoemb_pipeline.cli.main import main
from autoemb_pipeline.ops.topics import ensure_interactions_topic, ensure_metrics_topics
from tests.conftest import TestBroker


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", *arguments])
    return int(stopped.value.code or 0), capsys.readouterr().out.splitlines()


def test_no_broker_is_a_problem_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(["--bootstrap-servers", "127.0.0.1:1"], capsys)
    assert code == 1
    place = next(n for n, line in enumerate(lines) if line.startswith("PROBLEM  broker"))
    assert any("autoemb-pipeline broker" in line for line in lines[place:])
    assert any(line.startswith("ok ") for line in lines)


@pytest.mark.kafka
def test_all_well_exits_0(broker: TestBroker, topic_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ensure_interactions_topic(broker.kafka, topic_name)
    ensure_metrics_topics(broker.kafka, f"{topic_name}.m", f"{topic_name}.r", f"{topic_name}.dlq")
    arguments = ["--bootstrap-servers", broker.bootstrap_servers, "--topic", topic_name, "--metrics-topic", f"{topic_name}.m"]
    arguments += ["--runtime-topic", f"{topic_name}.r", "--state-dir", str(tmp_path), "--min-free-mb", "1", "--device", "cpu"]
    code, lines = run(arguments, capsys)
    assert code == 0, lines
    assert all(line.startswith("ok ") for line in lines)
