"""Finding a broker, and the client settings to reach it."""

import json
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import KafkaError

from autoemb_pipeline.errors import BrokerError, ConfigurationError
from autoemb_pipeline.kafka.errors import attempt
from autoemb_pipeline.kafka.settings import RESERVED, quiet_admin
from autoemb_pipeline.ops.brokers.process import answers_tcp
from autoemb_pipeline.redaction import HIDDEN, keep_settings_secret

ENVIRONMENT_VARIABLE = "AUTOEMB_BOOTSTRAP_SERVERS"
DEFAULT_BOOTSTRAP = "localhost:9092"
_DEFAULT_PORT = 9092
_TCP_SECONDS = 1.5
_METADATA_SECONDS = 3.0  # with the TCP probe: an answer or an error within 5 s
_THREE_WAYS = (
    "get one in one of three ways:\n"
    "  docker compose up -d                        Apache Kafka and Grafana in containers\n"
    "  autoemb-pipeline broker                     local Apache Kafka if KAFKA_HOME is set, else the embedded broker\n"
    f"  --bootstrap-servers HOST:PORT               a broker you have (or {ENVIRONMENT_VARIABLE}=HOST:PORT)"
)
# Names as librdkafka and the registry's client have them: lower case, with dots, but for a few. A token on a line of its own,
# padded with "=", would else be read as a setting's name, and named.
_KEY = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+|acks|debug|enabled_events|log_level|partitioner|retries|timeout|url")


def client_config(bootstrap_servers: str | None, config_file: Path | None, env: Mapping[str, str]) -> dict[str, str]:
    """The librdkafka settings every client starts from, with a broker that answers.

    Args:
        bootstrap_servers: --bootstrap-servers.
        config_file: --kafka-config; its ``bootstrap.servers``, if any, gives way to the flag and the environment.
        env: the process's environment.

    Raises:
        ConfigurationError: the file is missing or wrong.
        BrokerError: no broker answers, within 5 s.
    """
    settings = load_kafka_config(config_file) if config_file else {}
    resolved = resolve_bootstrap(bootstrap_servers, env, settings=settings)
    return {"client.id": "autoemb-pipeline", **settings, "bootstrap.servers": resolved}


def resolve_bootstrap(flag: str | None, env: Mapping[str, str], *, settings: Mapping[str, str] | None = None) -> str:
    """The bootstrap servers: the flag's, else the environment variable's, else the settings', else localhost:9092 if Kafka answers there.

    Args:
        flag: --bootstrap-servers, ``host:port[,host:port...]``.
        env: the process's environment.
        settings: further librdkafka settings needed to be let in (TLS, SASL).

    Raises:
        ConfigurationError: an address is not ``host:port``.
        BrokerError: nothing answers; within 5 s, naming the three ways to get a broker.
    """
    candidates = {
        "--bootstrap-servers": flag,
        ENVIRONMENT_VARIABLE: env.get(ENVIRONMENT_VARIABLE),
        "--kafka-config": (settings or {}).get("bootstrap.servers"),
    }
    source, servers = next(((name, value) for name, value in candidates.items() if value), (None, DEFAULT_BOOTSTRAP))
    why = _unreachable(servers, settings or {})
    if why is None:
        return servers
    if source:
        remedy = f"start it or correct the address, or {_THREE_WAYS}"
        raise BrokerError(f"No Kafka broker answers at {servers} ({source})", why=why, remedy=remedy)
    raise BrokerError(f"No Kafka broker found: none given, none answers at {servers}", why=why, remedy=_THREE_WAYS)


def load_kafka_config(path: Path) -> dict[str, str]:
    """Librdkafka settings from a properties file (``key=value``, # comments) or a JSON object.

    Raises:
        ConfigurationError: the file cannot be read or parsed; a key is unknown, has an unusable value, or is one the guarantees rest on.
    """
    settings = read_settings(path)
    for key in settings:
        if key in RESERVED:
            raise ConfigurationError(f"{path}: {key} cannot be changed", why=RESERVED[key], remedy=f"remove the line of {key}")
    problem = _refusal(settings)
    if problem:
        # Librdkafka may name an alias of the key instead of the key.
        culprit = next((key for key, value in settings.items() if _refusal({key: value})), "")
        raise ConfigurationError(
            f"{path}: {culprit}: {_without_values(problem, settings)}" if culprit else f"{path}: {_without_values(problem, settings)}",
            why="librdkafka, the Kafka client, does not accept it",
            remedy="see CONFIGURATION.md of librdkafka for names and values",
        )
    return settings


def read_settings(path: Path) -> dict[str, str]:
    """Settings of a client from a properties file (``key=value``, # comments) or a JSON object; their secrets are hidden from now on.

    Raises:
        ConfigurationError: the file cannot be read or parsed. No message holds anything but names and line numbers.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"The settings in {path} cannot be read", why=str(error), remedy=f"ls -l {path}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"The settings in {path} cannot be read", why="it is not UTF-8", remedy="write it as UTF-8") from error
    settings = _parse_json(path, text) if text.lstrip().startswith("{") else _parse_properties(path, text)
    keep_settings_secret(settings)
    return settings


def _without_values(message: str, settings: Mapping[str, str]) -> str:
    """A message of the client's, without the values it may quote: one may be a secret in the wrong line."""
    for value in settings.values():
        message = message.replace(f'"{value}"', HIDDEN)
    return message


def _refusal(settings: Mapping[str, str]) -> str | None:
    """Why librdkafka refuses these settings; None when it takes them."""
    try:
        quiet_admin(settings)
    except ConfigurationError as error:
        return error.why
    return None


def _parse_properties(path: Path, text: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith(("#", "!")):
            continue
        key, equals, value = (part.strip() for part in stripped.partition("="))
        if not equals or not _KEY.fullmatch(key):  # what stands in the key's place may be a part of a secret: it is not shown
            raise ConfigurationError(f"{path}, line {number}: not key=value", remedy="write one key=value on each line")
        if key in settings:
            raise ConfigurationError(f"{path}, line {number}: {key} is given twice", remedy="remove one of the two lines")
        settings[key] = value
    return settings


def _parse_json(path: Path, text: str) -> dict[str, str]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{path} is not valid JSON", why=str(error), remedy="correct it, or write key=value lines") from error
    settings = {}
    for key, value in document.items():
        if not isinstance(value, str | int | float):  # bool is an int
            raise ConfigurationError(
                f"{path}: the value of {key} is neither text, number nor boolean", remedy="librdkafka's values are scalars"
            )
        settings[key] = str(value).lower() if isinstance(value, bool) else str(value)
    return settings


def _unreachable(servers: str, settings: Mapping[str, str]) -> str | None:
    """Why no Kafka broker serves there; None when one does."""
    addresses = [_address(server) for server in servers.split(",") if server.strip()]
    if not addresses:
        raise ConfigurationError(f"{servers!r} names no broker", remedy="give host:port[,host:port...]")
    if not _any_answers(addresses):
        return "nothing accepts connections there"
    errors: list[str] = []
    admin = quiet_admin({**settings, "bootstrap.servers": servers, "error_cb": lambda error: errors.append(error.str())})
    answer = attempt(admin.list_topics, timeout=_METADATA_SECONDS)
    if isinstance(answer, KafkaError):
        reason = errors[0] if errors else answer.str()
        return f"something accepts connections there, but does not answer as Kafka does: {reason}"
    return None


def _address(server: str) -> tuple[str, int]:
    # librdkafka accepts PROTOCOL://host:port and a missing port.
    host, colon, port = server.strip().rpartition("://")[2].rpartition(":")
    if not colon or (host.startswith("[") and not host.endswith("]")):
        host, port = server.strip().rpartition("://")[2], str(_DEFAULT_PORT)
    if not port.isdigit() or not host:
        raise ConfigurationError(f"{server!r} is not the address of a broker", remedy="give host:port, for instance localhost:9092")
    return host.strip("[]"), int(port)


def _any_answers(addresses: list[tuple[str, int]]) -> bool:
    """Whether one of them accepts a connection. In threads: each, its name look-up included, can take longer than there is time."""
    answered = threading.Event()

    def probe(host: str, port: int) -> None:
        if answers_tcp(host, port, timeout=_TCP_SECONDS):
            answered.set()

    probes = [threading.Thread(target=probe, args=address, daemon=True) for address in addresses]
    for thread in probes:
        thread.start()
    deadline = time.monotonic() + _TCP_SECONDS
    while time.monotonic() < deadline and not answered.is_set() and any(thread.is_alive() for thread in probes):
        answered.wait(0.02)
    return answered.is_set()
