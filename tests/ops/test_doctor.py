"""The doctor finds what is wrong, and what it prescribes mends it."""

import fcntl
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.ops import doctor, state_directory
from autoemb_pipeline.ops.brokers.process import free_port
from autoemb_pipeline.ops.doctor import DoctorConfig, Finding, examine
from autoemb_pipeline.ops.gpu import Gpu, gpu, torch_cuda, why_no_cuda
from autoemb_pipeline.ops.state_directory import StateDirectoryProblem, examine_state_directory
from autoemb_pipeline.ops.topics import ensure_interactions_topic, ensure_metrics_topics


@pytest.fixture(autouse=True)
def on_a_disk(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wherever this machine keeps its temporary files (often in memory), the tests' folders count as lying on a disk."""
    mounts = tmp_path_factory.mktemp("mounts") / "mounts"
    mounts.write_text("disk / ext4 rw 0 0\n")
    monkeypatch.setattr(state_directory, "_MOUNTS", mounts)


def findings(config: DoctorConfig) -> dict[str, Finding]:
    found = list(examine(config, {}))
    assert len({finding.subject for finding in found}) == len(found)
    for finding in found:
        assert finding.text
        assert finding.ok or finding.remedy, finding
    return {finding.subject: finding for finding in found}


def config_for(broker, prefix: str, **others) -> DoctorConfig:
    names = {"topic": prefix, "metrics": f"{prefix}.m", "runtime": f"{prefix}.r", "dead_letters": f"{prefix}.d"}
    return DoctorConfig(bootstrap_servers=broker.bootstrap_servers, **{**names, **others})


def test_all_is_well_with_broker_topics_and_state(broker, topic_name: str, tmp_path: Path) -> None:
    config = config_for(broker, topic_name, state_dir=tmp_path / "not" / "there" / "yet")
    ensure_interactions_topic(broker.kafka, config.topic, 3)
    ensure_metrics_topics(broker.kafka, config.metrics, config.runtime, config.dead_letters)
    found = findings(config)
    assert [f for f in found.values() if not f.ok] == []
    assert found[f"topic {topic_name}"].text.startswith("3 partitions")
    assert {"python", "confluent-kafka", "torch", "device", "state directory", "disk", "broker"} <= set(found)
    assert list(tmp_path.iterdir()) == []


def test_missing_interactions_name_replay_and_missing_outputs_are_well(broker, topic_name: str) -> None:
    found = findings(config_for(broker, topic_name))
    assert not found[f"topic {topic_name}"].ok
    assert "autoemb-pipeline replay" in found[f"topic {topic_name}"].remedy
    assert found[f"topic {topic_name}.m"].ok


@pytest.mark.kafka
def test_topic_that_loses_data_gets_the_command_that_mends_it(broker, topic_name: str) -> None:
    config = config_for(broker, topic_name)
    ensure_interactions_topic(broker.kafka, config.topic, 1)
    admin = quiet_admin(broker.kafka)
    entry = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic_name, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)
    finding = findings(config)[f"topic {topic_name}"]
    assert not finding.ok
    assert finding.remedy.endswith("--add-config retention.ms=-1")


def test_metrics_topic_with_two_partitions_is_found(broker, topic_name: str, make_topic) -> None:
    make_topic(f"{topic_name}.m", 2)
    finding = findings(config_for(broker, topic_name))[f"topic {topic_name}.m"]
    assert not finding.ok
    assert "2 partitions" in finding.text


def test_without_a_broker_its_line_names_the_ways_and_the_others_still_come() -> None:
    found = findings(DoctorConfig(bootstrap_servers=f"127.0.0.1:{free_port()}"))
    assert not found["broker"].ok
    assert "docker compose up -d" in found["broker"].remedy
    assert found["device"].ok
    assert not any(subject.startswith("topic") for subject in found)


def test_wrong_kafka_config_is_a_finding(tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("no.such=1")
    finding = findings(DoctorConfig(kafka_config=file))["broker"]
    assert not finding.ok
    assert "no.such" in finding.text


def test_old_and_missing_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch<3,>=99.1", "no-such-package>=1", "click>=8.1", 'pytest>=999; extra == "test"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: wanted)
    found = findings(DoctorConfig(bootstrap_servers=f"127.0.0.1:{free_port()}"))
    assert "older than 99.1" in found["torch"].text
    assert "pip install" in found["no-such-package"].remedy
    assert found["click"].ok
    assert "pytest" not in found


def test_cuda_that_is_not_there_is_found() -> None:
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    finding = findings(DoctorConfig(bootstrap_servers=f"127.0.0.1:{free_port()}", device="cuda"))["device"]
    assert not finding.ok
    assert "--device cpu" in finding.remedy


def test_a_gpu_is_judged_without_torch_as_torch_judges_it() -> None:
    import torch  # noqa: PLC0415

    assert torch_cuda() == torch.version.cuda
    assert (why_no_cuda(gpu(), torch_cuda()) is None) == torch.cuda.is_available()
    card = Gpu(name="H100", cuda=(12, 4))
    assert why_no_cuda(card, "12.8") is None
    assert why_no_cuda(card, "11.8") is None
    assert "12.4" in (why_no_cuda(card, "13.0") or "")
    assert "CPU build" in (why_no_cuda(card, None) or "")
    assert "no GPU" in (why_no_cuda(None, "12.4") or "")


def test_full_disk_is_found(tmp_path: Path) -> None:
    found = findings(DoctorConfig(bootstrap_servers=f"127.0.0.1:{free_port()}", state_dir=tmp_path, min_free_bytes=1 << 60))
    assert not found["disk"].ok


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "tmpfs"])
def test_unfit_file_system_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nother {tmp_path} {kind} rw 0 0\nelsewhere {tmp_path}/state-not ext4 rw 0 0\n")
    monkeypatch.setattr(state_directory, "_MOUNTS", mounts)
    with pytest.raises(StateDirectoryProblem, match=kind):
        examine_state_directory(tmp_path / "state")
    assert examine_state_directory(tmp_path.parent).file_system == "ext4"


@pytest.mark.parametrize("call", ["link", "fsync"])
def test_file_system_that_cannot_what_checkpoints_need_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(state_directory.os, call, refuse)
    with pytest.raises(StateDirectoryProblem, match="Operation not supported"):
        examine_state_directory(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_state_directory_that_is_a_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.touch()
    with pytest.raises(StateDirectoryProblem, match="is a file"):
        examine_state_directory(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_directory_is_found(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StateDirectoryProblem, match="written"):
        examine_state_directory(tmp_path)


def test_holder_of_the_lock_is_named(tmp_path: Path) -> None:
    assert examine_state_directory(tmp_path).holder is None
    with (tmp_path / "LOCK").open("w+") as lock:
        lock.write("4711\n")
        lock.flush()
        assert examine_state_directory(tmp_path).holder is None
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert examine_state_directory(tmp_path).holder == "4711"


@pytest.fixture
def registry() -> Iterator[str]:
    """What the doctor asks of a registry: the list of its subjects."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'["interactions-value"]'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_registry_that_answers_and_one_that_does_not(registry: str) -> None:
    dead = f"127.0.0.1:{free_port()}"
    assert findings(DoctorConfig(bootstrap_servers=dead, schema_registry=registry))["schema registry"].text.startswith("1 subjects")
    finding = findings(DoctorConfig(bootstrap_servers=dead, schema_registry=f"http://{dead}"))["schema registry"]
    assert not finding.ok
    assert "--profile registry" in finding.remedy


def test_registry_url_without_scheme_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        DoctorConfig(schema_registry="localhost:8081")
