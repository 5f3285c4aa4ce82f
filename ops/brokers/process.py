"""A broker's server process: owned, watched, and never left behind.

Shared by `ops.brokers.local_kafka` and `ops.brokers.embedded`, which differ in the command line and in what "ready" needs.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autoemb_pipeline.errors import BrokerError
from autoemb_pipeline.private import PRIVATE_UMASK, private_files

LOOPBACK = "127.0.0.1"
LOG_TAIL_LINES = 15
_POLL_SECONDS = 0.05
# TERM first: Kafka then closes its segments and the next start needs no log recovery.
_WATCHDOG = 'cat >/dev/null; kill "$1"; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.5; kill -0 "$1" || exit; done; kill -9 "$1"'


def free_port() -> int:
    """A loopback TCP port that nobody listens on.

    Taken from below the ephemeral range: a port inside it can be handed to some client's outgoing connection while the broker is
    down between `kill()` and `restart()`, or a reconnecting client can even connect to itself.
    """
    for _ in range(200):
        port = random.randrange(20_000, 32_000)  # noqa: S311  # spreads test runs, protects nothing
        if port_is_free(port):
            return port
    raise BrokerError("No free TCP port between 20000 and 32000", remedy="name one with --port")


def port_is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could bind host:port now."""
    with socket.socket() as probe:
        # As servers do; otherwise a port whose last connections rest in TIME_WAIT would seem taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def answers_tcp(host: str, port: int, *, timeout: float = 1.0) -> bool:
    """Whether something accepts TCP connections at host:port within `timeout` seconds."""
    try:
        with socket.create_connection((host, port), timeout=timeout):
            return True
    except OSError:
        return False


class ServerProcess:
    """One server process that dies with its parent, however the parent dies.

    It runs in its own session, so that Ctrl-C at the terminal reaches the client first and lets it flush. A watchdog shell beside it
    reads a pipe whose other end only this process holds: its end of file means that the parent is gone. (Linux' PR_SET_PDEATHSIG
    would fire already when the starting *thread* ends, and other systems lack it.)

    Args:
        command: program and arguments.
        log: file that receives stdout and stderr; it grows over restarts.
        environment: added to this process's environment.
        name: what error messages call the server.
    """

    def __init__(self, command: Sequence[str], *, log: Path, name: str, environment: Mapping[str, str] | None = None) -> None:
        self._command = list(command)
        self._log = log
        self._name = name
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it is not running."""
        return self._process.pid if self.running() and self._process else None

    def running(self) -> bool:
        """Whether the server process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], bool], *, timeout: float, inherits: Sequence[int] = ()) -> None:
        """Starts the server and returns once `ready()` holds.

        Args:
            ready: whether it serves.
            timeout: seconds that it may take.
            inherits: file descriptors that the server gets, and with them the locks they hold.

        Raises:
            BrokerError: it ended, or was not ready within `timeout` seconds; carries the last log lines.
        """
        if self.running():
            return
        self.stop()
        with private_files():
            self._log.parent.mkdir(parents=True, exist_ok=True)
            log_file = self._log.open("ab")
        self._log_start = self._log.stat().st_size
        with log_file as log:
            try:
                self._process = subprocess.Popen(  # noqa: S603  # a fixed program, no shell
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._environment},
                    start_new_session=True,
                    pass_fds=inherits,
                    umask=PRIVATE_UMASK,  # its data are users' interactions
                )
            except OSError as error:
                raise BrokerError(f"{self._name} could not be started", why=str(error)) from error
        self._watch(self._process.pid)
        try:
            self._wait(ready, timeout)
        except BaseException:
            self.kill()
            raise

    def stop(self, *, timeout: float = 20.0) -> None:
        """SIGTERM, and SIGKILL after `timeout` seconds. Does nothing when it is not running."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """SIGKILL. Does nothing when it is not running."""
        self._end(signal.SIGKILL, 10.0)

    def log_tail(self) -> str:
        """The last lines that the server wrote since its latest start."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def _wait(self, ready: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            if not self.running():
                code = self._process.returncode if self._process else None
                raise BrokerError(
                    f"{self._name} ended while it started (exit status {code})",
                    why=f"last lines of {self._log}:\n{self.log_tail()}",
                    remedy="mend what the log names, then start it again",
                )
            if ready():
                return
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"{self._name} was not ready within {timeout:.0f} s",
                    why=f"last lines of {self._log}:\n{self.log_tail()}",
                    remedy="see whether the machine is overloaded or its memory is full, then start it again",
                )
            time.sleep(_POLL_SECONDS)

    def _watch(self, pid: int) -> None:
        self._watchdog = subprocess.Popen(  # noqa: S603  # a constant script
            ["/bin/sh", "-c", _WATCHDOG, "broker-watchdog", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _unwatch(self) -> None:
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is None:
            return
        # Its whole session: the shell's `cat` or `sleep` must not outlive it. Killed before the server is reaped, so that it can
        # never signal a process id that meanwhile belongs to somebody else.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(watchdog.pid, signal.SIGKILL)
        watchdog.wait()
        if watchdog.stdin:
            watchdog.stdin.close()

    def _end(self, how: signal.Signals, timeout: float) -> None:
        process, self._process = self._process, None
        self._unwatch()
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
