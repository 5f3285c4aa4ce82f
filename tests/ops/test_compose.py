"""docker-compose.yml: valid, pinned, reachable on loopback only, and its broker settings start a real Kafka."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from autoemb_pipeline.cli.main import cli
from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka, LocalKafkaConfig
from autoemb_pipeline.ops.brokers.process import free_port
from autoemb_pipeline.ops.topics import ensure_interactions_topic

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCUMENT: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]


def test_valid_by_the_compose_specification(tmp_path: Path) -> None:
    def validate(file: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = validate(COMPOSE)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("depends_on:", "depends_upon:"))
    assert validate(wrong).returncode == 1


def test_docker_compose_itself_accepts_it() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("needs the docker compose plugin (no engine)")
    command = [docker, "compose", "--profile", "*", "-f", str(COMPOSE), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_image_is_pinned_to_a_full_version() -> None:
    base = next(line.split()[1] for line in (ROOT / "ops" / "Dockerfile").read_text().splitlines() if line.startswith("FROM"))
    for image in [base, *(service["image"] for service in SERVICES.values() if "build" not in service)]:
        assert re.search(r":v?\d+\.\d+\.\d+(-[a-z-]+)?$", image), image


def test_published_ports_are_on_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_mounted_files_are_in_the_repository() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./ops"):
                assert (ROOT / source).is_dir(), source
            elif not source.startswith("$"):
                assert source in DOCUMENT["volumes"]


def test_what_waits_for_health_waits_for_a_service_with_a_healthcheck() -> None:
    for service in SERVICES.values():
        for name, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[name]


def test_datasources_point_at_services_of_this_file() -> None:
    provisioned = yaml.safe_load((ROOT / "ops/grafana/provisioning/datasources/autoemb.yml").read_text())["datasources"]
    kafka, prometheus = provisioned
    assert kafka["jsonData"]["bootstrapServers"] in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert kafka["type"] in SERVICES["grafana"]["environment"]["GF_PLUGINS_PREINSTALL_SYNC"]
    assert prometheus["url"] == "http://prometheus:9090"
    assert len({source["uid"] for source in provisioned}) == 2
    dashboards = yaml.safe_load((ROOT / "ops/grafana/provisioning/dashboards/autoemb.yml").read_text())["providers"][0]
    assert any(volume.endswith(f":{dashboards['options']['path']}:ro") for volume in SERVICES["grafana"]["volumes"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_prometheus_accepts_its_configuration() -> None:
    command = ["promtool", "check", "config", str(ROOT / "ops/prometheus/prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def options_of(name: str) -> set[str]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return {option for parameter in command.params for option in parameter.opts}


def test_prometheus_scrapes_the_trainers_port() -> None:
    command = SERVICES["trainer"]["command"]
    targets = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0]["targets"]
    host, _, port = command[command.index("--prometheus") + 1].rpartition(":")
    assert host == "0.0.0.0"  # noqa: S104  # other containers must reach it; the port is not published
    assert f"trainer:{port}" in targets


@pytest.mark.parametrize("service", ["replay", "trainer"])
def test_containers_use_options_that_the_command_has(service: str) -> None:
    name, *arguments = SERVICES[service]["command"]
    assert {argument for argument in arguments if argument.startswith("--")} <= options_of(name)


@pytest.fixture(scope="module")
def composed_kafka(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """Apache Kafka with the compose file's settings, its addresses moved to free loopback ports."""

    class Composed(LocalKafkaConfig):
        def to_properties(self) -> str:
            return "".join(f"{key}={value}\n" for key, value in composed_properties(self).items())

    with LocalKafka(Composed(home=kafka_home, data_dir=tmp_path_factory.mktemp("composed"))) as kafka:
        yield kafka


def composed_properties(config: LocalKafkaConfig) -> dict[str, str]:
    # As the image does: KAFKA_SOME_NAME becomes some.name.
    environment = SERVICES["kafka"]["environment"]
    own = {"KAFKA_HEAP_OPTS"}
    properties = {
        k.removeprefix("KAFKA_").lower().replace("_", "."): str(v) for k, v in environment.items() if k[:6] == "KAFKA_" and k not in own
    }
    containers = free_port()
    moved = {"localhost:29093": config.controller_port, ":9092": config.port, ":19092": containers}
    for key in ("controller.quorum.voters", "listeners", "advertised.listeners"):
        for address, port in moved.items():
            host = "127.0.0.1:" if "localhost" in address or key == "listeners" else ":"
            properties[key] = properties[key].replace(address, f"{host}{port}")
        properties[key] = properties[key].replace("kafka:", "127.0.0.1:").replace("localhost:", "127.0.0.1:")
    return {**properties, "log.dirs": str(config.data_dir / "data")}


@pytest.mark.kafka
@pytest.mark.slow
def test_broker_settings_start_a_real_kafka(composed_kafka: LocalKafka) -> None:
    kafka = {"bootstrap.servers": composed_kafka.bootstrap_servers}
    assert ensure_interactions_topic(kafka, "t", 2) == 2
    metadata = quiet_admin(kafka).list_topics("never-created", timeout=10)
    assert metadata.topics["never-created"].error is not None


@pytest.mark.kafka
@pytest.mark.slow
def test_broker_settings_are_all_known_to_kafka(composed_kafka: LocalKafka) -> None:
    from confluent_kafka.admin import ConfigResource  # noqa: PLC0415

    admin = quiet_admin({"bootstrap.servers": composed_kafka.bootstrap_servers})
    resource = ConfigResource(ConfigResource.Type.BROKER, "1")
    known = admin.describe_configs([resource])[resource].result(10)
    assert set(composed_properties(composed_kafka.config)) <= set(known)
