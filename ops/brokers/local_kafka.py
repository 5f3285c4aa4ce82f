"""Apache Kafka from plain jars: one KRaft node on loopback, started, stopped, killed and restarted by this process.

``KAFKA_HOME`` is any folder with ``libs/*.jar``: the official download, or just its jars. Needs Java 17 or newer.
"""

import base64
import fcntl
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from autoemb_pipeline.errors import BrokerError, ConfigurationError
from autoemb_pipeline.ops.brokers.base import Broker
from autoemb_pipeline.ops.brokers.process import LOG_TAIL_LINES, LOOPBACK, ServerProcess, free_port, port_is_free
from autoemb_pipeline.private import private_files

_MAX_PORT = 65_535
_JAVA_REMEDY = "install Java 17 or newer (Debian: apt-get install openjdk-17-jre-headless) or point JAVA_HOME at one"
# Own file, so that the broker logs the same from a download (whose default writes into its own folder) and from plain jars.
_LOG4J2 = """\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR">
  <Appenders>
    <Console name="OUT" target="SYSTEM_OUT"><PatternLayout pattern="%d{ISO8601} %p %c{1} %m%n"/></Console>
  </Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="OUT"/></Root></Loggers>
</Configuration>
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalKafkaConfig:
    """One Apache Kafka node.

    Attributes:
        home: folder with ``libs/*.jar``.
        data_dir: holds the log segments, server.properties and the server's log; made when missing, reused when it has data.
        port: clients' port on loopback.
        controller_port: the KRaft controller's own port on loopback.
        heap_mb: the JVM's largest heap, MiB.
        session_timeout_ms: after `kill()` the restarted broker is fenced until this is over (Kafka's default of 9 s makes that 13 s).
        start_timeout: seconds until the server must answer.
    """

    home: Path
    data_dir: Path
    port: int = field(default_factory=free_port)
    controller_port: int = field(default_factory=free_port)
    heap_mb: int = 512
    session_timeout_ms: int = 3_000
    start_timeout: float = 90.0

    def __post_init__(self) -> None:
        for name, port in (("port", self.port), ("controller port", self.controller_port)):
            if not 0 < port <= _MAX_PORT:
                raise ConfigurationError(f"The {name} {port} is not a TCP port", remedy="choose one from 1 to 65535")
        if self.port == self.controller_port:
            raise ConfigurationError(f"Broker and controller cannot share port {self.port}", remedy="choose two ports")
        if self.heap_mb < 128:  # noqa: PLR2004  # below this the server dies while it loads its classes' metadata
            raise ConfigurationError(f"A heap of {self.heap_mb} MiB is too small for Kafka", remedy="give at least 128")
        if not any((self.home / "libs").glob("kafka_*.jar")):
            raise ConfigurationError(
                f"KAFKA_HOME={self.home} holds no Apache Kafka",
                why="there is no libs/kafka_*.jar in it",
                remedy="point KAFKA_HOME at the unpacked download of Apache Kafka 4 (the folder with libs/)",
            )

    @property
    def properties_file(self) -> Path:
        """server.properties, written anew at every start."""
        return self.data_dir / "server.properties"

    def to_properties(self) -> str:
        """server.properties of a one-node cluster.

        Replication factors of 1: a single node cannot replicate, and without these settings consumer groups and transactions hang.
        Topics are never created by accident (docs/operations.md): with Kafka's default retention a replayed history is deleted at once.
        """
        client, controller = f"{LOOPBACK}:{self.port}", f"{LOOPBACK}:{self.controller_port}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            # The static form: unlike the dynamic one it stores no endpoint in the data, so data can be reopened on other ports.
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{client},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{client}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.data_dir.absolute() / "data",
            "num.partitions": 1,
            "auto.create.topics.enable": "false",
            "default.replication.factor": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # Nobody else will join: do not make the first consumer group wait 3 s.
            "group.initial.rebalance.delay.ms": 0,
            "broker.session.timeout.ms": self.session_timeout_ms,
            "broker.heartbeat.interval.ms": max(100, self.session_timeout_ms // 6),
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())


class LocalKafka(Broker):
    """Apache Kafka. `stop()` and `kill()` alike keep its data."""

    kind = "apache"

    def __init__(self, config: LocalKafkaConfig) -> None:
        self.config = config
        self._java = find_java()
        log4j2 = config.data_dir / "log4j2.xml"
        command = [
            self._java,
            f"-Xmx{config.heap_mb}m",
            "-XX:+UseSerialGC",
            # Without the optimising compiler a start costs 3 s of CPU instead of 6, and a local broker never lives to earn it back.
            "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={log4j2.absolute()}",
            "-cp",
            str(config.home.absolute() / "libs" / "*"),
            "kafka.Kafka",
            str(config.properties_file.absolute()),
        ]
        self._log4j2 = log4j2
        super().__init__(ServerProcess(command, log=config.data_dir / "kafka.log", name="Apache Kafka"), port=config.port)

    def start(self) -> Self:
        """Formats the storage on first use, starts the broker, returns when every partition has a leader.

        Raises:
            BrokerError: the data directory or a port is taken, or the server ended or hung; carries the last log lines.
        """
        if self._server.running():
            return self
        with private_files(), _hold(self.config.data_dir) as descriptor:
            self._check_ports()
            self._log4j2.write_text(_LOG4J2, encoding="utf-8")
            self.config.properties_file.write_text(self.config.to_properties(), encoding="utf-8")
            self._format_storage()
            self._server.start(self._ready, timeout=self.config.start_timeout, inherits=[descriptor])
        return self

    def _check_ports(self) -> None:
        for port in (self.config.port, self.config.controller_port):
            if not port_is_free(port):
                raise BrokerError(
                    f"Apache Kafka cannot listen on {LOOPBACK}:{port}",
                    why="another process listens there",
                    remedy="stop it, or choose another port (--port)",
                )

    def stop(self) -> None:
        """SIGTERM: half a second. Does nothing when it is not running."""
        self._server.stop()

    def _format_storage(self) -> None:
        if (self.config.data_dir / "data" / "meta.properties").exists():
            return
        command = [self._java, "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command += [f"-Dlog4j2.configurationFile={self._log4j2.absolute()}", "-cp", str(self.config.home.absolute() / "libs" / "*")]
        command += ["kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(self.config.properties_file.absolute())]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603  # no shell
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-LOG_TAIL_LINES:])
            raise BrokerError(f"Kafka's storage in {self.config.data_dir} could not be formatted", why=tail, remedy=_JAVA_REMEDY)


@contextmanager
def _hold(data_dir: Path) -> Iterator[int]:
    """Locks the data directory, made if missing; the server that inherits the descriptor holds it until it ends, however it ends.

    Kafka's own lock comes too late: a second KRaft node writes to the metadata log before it asks for that lock, and the first one
    dies of the damage.

    Raises:
        BrokerError: a broker has it, or it cannot be used.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "LOCK", os.O_RDWR | os.O_CREAT, 0o600)
        data_dir.chmod(0o700)  # made by an earlier version: what lies in it may be readable, but nobody gets there
    except OSError as error:
        raise BrokerError(
            f"The data directory {data_dir} cannot be used", why=str(error), remedy="choose another one (--data-dir)"
        ) from error
    try:
        _lock(descriptor, data_dir)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, data_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise BrokerError(
            f"The data directory {data_dir} is in use by the broker of process {holder}",
            why="two brokers on one directory would destroy its data",
            remedy=f"use that broker, stop it (kill {holder}), or choose another directory and port (--data-dir, --port)",
        ) from error
    except OSError as error:
        why = f"its file system refuses flock: {error}"
        raise BrokerError(
            f"The data directory {data_dir} cannot be locked", why=why, remedy="choose one on a local disk (--data-dir)"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def find_java() -> str:
    """Path of the java program: JAVA_HOME's, else the one on PATH. Raises BrokerError when there is none."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if java is None:
        why = f"JAVA_HOME={home} has no bin/java" if home else "there is no java on PATH"
        raise BrokerError("Apache Kafka needs Java, and none was found", why=why, remedy=_JAVA_REMEDY)
    return java


def _cluster_id() -> str:
    # Kafka's Uuid: 16 random bytes, base64url without padding. A leading dash would be read as an option.
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text
