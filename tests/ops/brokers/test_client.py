"""Finding a broker within 5 s, or saying how to get one; reading librdkafka's settings."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline.errors import BrokerError, ConfigurationError
from autoemb_pipeline.ops.brokers import client
from autoemb_pipeline.ops.brokers.client import client_config, load_kafka_config, resolve_bootstrap
from autoemb_pipeline.ops.brokers.process import answers_tcp, free_port

THREE_WAYS = ("docker compose up -d", "autoemb-pipeline broker", "--bootstrap-servers")


@contextmanager
def silent_server() -> Iterator[int]:
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []
        server.settimeout(0.2)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                try:
                    kept.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()
        for connection in kept:
            connection.close()


def assert_names_three_ways_within_5_s(flag: str | None, env: dict[str, str]) -> BrokerError:
    started = time.monotonic()
    with pytest.raises(BrokerError) as caught:
        resolve_bootstrap(flag, env)
    assert time.monotonic() - started < 5
    for way in THREE_WAYS:
        assert way in caught.value.remedy
    return caught.value


def test_no_broker_at_all_names_three_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DEFAULT_BOOTSTRAP", f"localhost:{free_port()}")
    error = assert_names_three_ways_within_5_s(None, {})
    assert error.exit_code == 3


def test_dead_address_given_is_an_error_though_another_broker_might_answer() -> None:
    address = f"127.0.0.1:{free_port()}"
    assert address in assert_names_three_ways_within_5_s(address, {}).what
    error = assert_names_three_ways_within_5_s(None, {"AUTOEMB_BOOTSTRAP_SERVERS": address})
    assert "AUTOEMB_BOOTSTRAP_SERVERS" in error.what


def test_something_that_is_no_kafka_is_an_error_within_5_s() -> None:
    with silent_server() as port:
        error = assert_names_three_ways_within_5_s(f"127.0.0.1:{port}", {})
    assert "does not answer as Kafka" in error.why


def test_unroutable_address_is_an_error_within_5_s() -> None:
    assert_names_three_ways_within_5_s("192.0.2.1:9092,198.51.100.1:9092", {})


def test_unknown_host_name_is_an_error_within_5_s() -> None:
    assert_names_three_ways_within_5_s("no-such-host.invalid:9092", {})


@pytest.mark.parametrize("address", ["localhost:kafka", ":9092", ",", "host:"])
def test_malformed_address_is_a_configuration_error(address: str) -> None:
    with pytest.raises(ConfigurationError):
        resolve_bootstrap(address, {})


def test_flag_goes_before_environment_before_file_before_default(broker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alive, dead = broker.bootstrap_servers, f"127.0.0.1:{free_port()}"
    assert resolve_bootstrap(alive, {"AUTOEMB_BOOTSTRAP_SERVERS": dead}) == alive
    assert resolve_bootstrap(None, {"AUTOEMB_BOOTSTRAP_SERVERS": alive}) == alive
    file = tmp_path / "kafka.properties"
    file.write_text(f"bootstrap.servers={dead}\nlinger.ms=7\n")
    assert client_config(alive, file, {}) == {"client.id": "autoemb-pipeline", "linger.ms": "7", "bootstrap.servers": alive}
    with pytest.raises(BrokerError, match="--kafka-config"):
        client_config(None, file, {})
    monkeypatch.setattr(client, "DEFAULT_BOOTSTRAP", alive)
    assert resolve_bootstrap(None, {}) == alive


def test_one_living_broker_of_several_is_enough(broker) -> None:
    servers = f"127.0.0.1:{free_port()},{broker.bootstrap_servers}"
    assert resolve_bootstrap(servers, {}) == servers


def test_properties_and_json_read_alike(tmp_path: Path) -> None:
    properties, document = tmp_path / "a.properties", tmp_path / "a.json"
    properties.write_text("# comment\n\n security.protocol = SASL_SSL \nsasl.password=a=b\nsocket.keepalive.enable=true\nlinger.ms=5\n")
    document.write_text(
        json.dumps({"security.protocol": "SASL_SSL", "sasl.password": "a=b", "socket.keepalive.enable": True, "linger.ms": 5})
    )
    # SASL without mechanism credentials is for the connection to judge, not for the file.
    expected = {"security.protocol": "SASL_SSL", "sasl.password": "a=b", "socket.keepalive.enable": "true", "linger.ms": "5"}
    assert client._parse_properties(properties, properties.read_text()) == expected
    assert client._parse_json(document, document.read_text()) == expected


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){1,2}", fullmatch=True),
        st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20).map(str.strip),
        max_size=5,
    )
)
def test_written_properties_read_back(settings: dict[str, str]) -> None:
    text = "".join(f"{key} = {value}\n" for key, value in settings.items())
    assert client._parse_properties(Path("f"), text) == settings


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("no.such.key=1", "no.such.key"),
        ("linger.ms=soon", "linger.ms"),
        ("linger.ms", "line 1"),
        ("linger.ms=1\nlinger.ms=2", "line 2"),
        ('{"linger.ms": [1]}', "linger.ms"),
        ('{"linger.ms": 1', "JSON"),
        ("auto.offset.reset=earliest", "auto.offset.reset"),
        ("enable.idempotence=false", "enable.idempotence"),
        ("message.timeout.ms=1000", "message.timeout.ms"),
    ],
)
def test_unusable_settings_are_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_kafka_config(file)
    assert named in caught.value.what


def test_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_kafka_config(tmp_path / "none")


def test_free_port_is_free() -> None:
    assert not answers_tcp("127.0.0.1", free_port(), timeout=0.5)
