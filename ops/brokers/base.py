"""A broker that this process runs: what `ops.brokers.local_kafka` and `ops.brokers.embedded` share, and what their callers may count on."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from autoemb_pipeline.ops.brokers.metadata import is_ready
from autoemb_pipeline.ops.brokers.process import LOOPBACK, ServerProcess, answers_tcp


class Broker(ABC):
    """A broker as a child process on loopback. A context manager: started on entry, stopped on exit.

    Args:
        server: its process, not started yet.
        port: clients' port.
    """

    kind: str

    def __init__(self, server: ServerProcess, *, port: int) -> None:
        self._server = server
        self._port = port

    @property
    def bootstrap_servers(self) -> str:
        """``127.0.0.1:port``."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it is not running."""
        return self._server.pid

    @abstractmethod
    def start(self) -> Self:
        """Starts the server and returns when it serves requests. Raises BrokerError with the last log lines if it does not."""

    @abstractmethod
    def stop(self) -> None:
        """Stops it with no process left behind. Does nothing when it is not running."""

    def kill(self) -> None:
        """Kills it as a power cut would (SIGKILL). Does nothing when it is not running."""
        self._server.kill()

    def restart(self) -> None:
        """Stops it if it runs, then starts it on the same port and what data its `stop` leaves."""
        self.stop()
        self.start()

    def log_tail(self) -> str:
        """The server's last log lines since its latest start."""
        return self._server.log_tail()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _ready(self) -> bool:
        return answers_tcp(LOOPBACK, self._port) and is_ready(self.bootstrap_servers)
