"""What a run writes is its user's own, and no secret leaves the process: permissions and redaction, through `train` on the real broker."""

import base64
import io
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from autoemb_pipeline.cli.errors import render
from autoemb_pipeline.cli.main import main
from autoemb_pipeline.cli.options import configure_logging
from autoemb_pipeline.config import RunConfig
from autoemb_pipeline.errors import BrokerError
from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka
from autoemb_pipeline.schemas.registry import InteractionDecoder, RegistryCodec
from tests.run.conftest import MakeStream
from tests.run.kafka_reading import read_all
from tests.schemas.test_registry import Registry, _Handler
from tests.streams import synthetic_stream

kafka = pytest.mark.kafka
RECORDS = synthetic_stream(1_000, seed=31, users=60, items=50)
PASSWORD = "correct-horse-7"  # noqa: S105
USER_INFO = f"alice:{PASSWORD}"


@contextmanager
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    try:
        yield
        after = os.umask(0o022)
        assert after == 0o022, "the caller's umask is back"
    finally:
        os.umask(before)


def readable_by_others(root: Path) -> list[str]:
    """Whatever in the folder group or others may touch. Files that go while it looks were private, or are seen the next time."""
    found = []
    for folder, folders, files in os.walk(root):
        for path in (Path(folder), *(Path(folder) / name for name in (*folders, *files))):
            with suppress(FileNotFoundError):
                mode = path.lstat().st_mode
                if not stat.S_ISLNK(mode) and mode & 0o077:
                    found.append(f"{mode & 0o777:o} {path.relative_to(root)}")
    return sorted(set(found))


@kafka
def test_all_of_a_state_directory_is_private_at_every_moment(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS)
    config = stream.config(checkpoint_every=2)
    found: list[str] = []

    def stop() -> bool:
        found.extend(readable_by_others(config.state_dir))
        return False

    with usual_umask():
        stream.train(config, stop=stop)
        stream.train(replace(config, new_run=True), stop=stop)
    assert found == []
    assert readable_by_others(config.state_dir) == []
    names = {p.name for p in config.state_dir.rglob("*")}
    assert {"LOCK", "run.json", "outputs.json", "live", "old-runs", "manifest.json", "CURRENT", "LOG"} <= names
    assert any(name.endswith(".sst") for name in names)
    assert any(name.endswith(".parquet") for name in names)


@kafka
def test_a_directory_of_an_earlier_version_is_tightened(make_stream: MakeStream, tmp_path: Path) -> None:
    stream = make_stream()
    stream.send(RECORDS[:600])
    config = stream.config()
    outside = tmp_path / "outside"
    outside.write_text("not the run's")
    outside.chmod(0o644)
    with usual_umask():
        stream.train(config)
        for path in (config.state_dir, *config.state_dir.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (config.state_dir / "link").symlink_to(outside)
        stream.train(config)
    assert readable_by_others(config.state_dir) == []
    assert outside.stat().st_mode & 0o777 == 0o644, "links are not followed"


def test_a_local_brokers_data_is_private(own_broker: Callable[[], LocalKafka]) -> None:
    with usual_umask():
        broker = own_broker()
    assert readable_by_others(broker.config.data_dir) == []
    assert list(broker.config.data_dir.rglob("*.log"))


class _Echo(_Handler):
    """A registry that knows no schema and says so with the request's credentials, as a debugging proxy might."""

    def do_GET(self) -> None:  # noqa: N802
        self._route()
        header = self.headers.get("Authorization", "none")
        decoded = base64.b64decode(header.split()[-1]).decode() if header.startswith("Basic") else "none"
        message = f"not for {decoded}, {header}, sasl.password={PASSWORD}"
        self._answer(self.server.failing or 404, {"error_code": 40403 if self.server.failing is None else 50001, "message": message})


@pytest.fixture
def echo() -> Iterator[Registry]:
    server = Registry()
    server.RequestHandlerClass = _Echo
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def secrets() -> tuple[bytes, ...]:
    return (PASSWORD.encode(), base64.b64encode(USER_INFO.encode()), base64.b64encode(PASSWORD.encode()))


def assert_no_secret(data: bytes, where: str) -> None:
    for secret in secrets():
        assert secret not in data, where


@kafka
def test_no_secret_in_logs_metrics_dead_letters_checkpoints_or_errors(
    make_stream: MakeStream, echo: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream()
    stream.send([*RECORDS[:300], b"\0\0\0\0\x07from a registry", *RECORDS[300:]])
    registry = RegistryCodec({"url": echo.url, "basic.auth.user.info": USER_INFO, "max.retries": 0})
    config = stream.config()
    settings = {**stream.kafka, "sasl.password": PASSWORD, "sasl.username": "alice"}
    lines = io.StringIO()
    monkeypatch.setattr("sys.stderr", lines)
    try:
        configure_logging("json")
        stream.train(config, kafka=settings, decoder=InteractionDecoder(registry=registry))
        structlog.get_logger().warning(f"refused {USER_INFO}", settings={"sasl.password": PASSWORD, "all": [f"http://{USER_INFO}@host"]})
    finally:
        structlog.reset_defaults()
    logged = lines.getvalue()
    assert "refused [hidden]" in logged
    assert_no_secret(logged.encode(), "log")
    (letter,) = read_all(stream.kafka, config.dead_letter_topic)
    assert b"no such schema" in dict(letter.headers())["detail"]
    assert_no_secret(repr(letter.headers()).encode(), "dead letter")
    for topic in (config.metrics_topic, config.runtime_topic):
        for message in read_all(stream.kafka, topic):
            assert_no_secret(message.value() + message.key(), topic)
    assert_files_hold_no_secret(config)

    echo.failing = 500
    stream.send([b"\0\0\0\0\x08from a registry"])
    with pytest.raises(BrokerError) as caught:
        stream.train(config, kafka=settings, decoder=InteractionDecoder(registry=registry))
    assert "[hidden]" in caught.value.why
    assert_no_secret(f"{render(caught.value)} {caught.value}".encode(), "error")


def assert_files_hold_no_secret(config: RunConfig) -> None:
    files = [path for path in config.state_dir.rglob("*") if path.is_file()]
    assert any(path.name == "manifest.json" for path in files)
    for path in files:
        assert_no_secret(path.read_bytes(), str(path))


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    return ended.value.code, printed.out + printed.err


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--bootstrap-servers", "SERVERS"),
        ("replay", "--dataset", "synthetic", "--bootstrap-servers", "SERVERS"),
        ("watch", "--once", "--bootstrap-servers", "SERVERS"),
        ("metrics", "export", "--output", "x.csv", "--bootstrap-servers", "SERVERS"),
        ("doctor", "--bootstrap-servers", "127.0.0.1:1"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("url", [f"http://{USER_INFO}@127.0.0.1:9", f"{USER_INFO}@127.0.0.1:9"])
def test_credentials_in_the_url_are_refused(broker, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], url: str) -> None:
    filled = [broker.bootstrap_servers if word == "SERVERS" else word for word in command]
    code, printed = run_command(capsys, *filled, "--schema-registry", url)
    assert code == 2
    assert "holds credentials" in printed
    assert "--schema-registry-config" in printed
    assert "AUTOEMB_SCHEMA_REGISTRY_USER_INFO" in printed
    assert_no_secret(printed.encode(), "message")


@pytest.mark.parametrize("given", ["file", "environment"])
def test_doctor_authenticates_and_prints_no_secret(
    echo: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    options = ["--schema-registry", echo.url]
    if given == "file":
        file = tmp_path / "registry.properties"
        file.write_text(f"url={echo.url}\nbasic.auth.user.info={USER_INFO}\ntimeout=3\n")
        options = ["--schema-registry-config", str(file)]
    else:
        monkeypatch.setenv("AUTOEMB_SCHEMA_REGISTRY_USER_INFO", USER_INFO)
    code, printed = run_command(capsys, "doctor", "--bootstrap-servers", "127.0.0.1:1", *options)
    assert code == 1
    assert "not for [hidden]" in printed, "the registry was sent the credentials, and its answer was shown without them"
    assert_no_secret(printed.encode(), "doctor")


@pytest.mark.parametrize(
    "text",
    [
        PASSWORD,
        f"sasl.password {PASSWORD}=",
        f"{base64.b64encode(PASSWORD.encode()).decode()}==",
        f"{PASSWORD}=",
        f"sasl.password={PASSWORD}\n{PASSWORD}",
        f"security.protocol={PASSWORD}",
        f"linger.ms={PASSWORD}",
        f"ssl.key.pem={PASSWORD}\nsecurity.protocol=ssl",
        json.dumps({"sasl.password": [PASSWORD]}),
        json.dumps({"sasl.password": PASSWORD})[:-1],
    ],
)
def test_a_wrong_file_of_settings_prints_no_value(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text(text)
    code, printed = run_command(capsys, "train", "--kafka-config", str(file))
    assert code == 2
    assert "kafka.properties" in printed
    assert_no_secret(printed.encode(), "message")


@kafka
def test_a_brokers_refusal_prints_no_password(broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kafka.properties"
    lines = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "PLAIN", "sasl.username": "alice", "sasl.password": PASSWORD}
    file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    code, printed = run_command(capsys, "train", "--bootstrap-servers", broker.bootstrap_servers, "--kafka-config", str(file))
    assert code == 3
    assert_no_secret(printed.encode(), "message")
