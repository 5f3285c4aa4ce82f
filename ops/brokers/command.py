"""`autoemb-pipeline broker`: a broker in the foreground, for whoever has none."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from autoemb_pipeline.errors import BrokerError
from autoemb_pipeline.ops.brokers.base import Broker
from autoemb_pipeline.ops.brokers.embedded import EmbeddedBroker, EmbeddedConfig
from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka, LocalKafkaConfig

DEFAULT_PORT = 9092
DEFAULT_DATA_DIR = Path("autoemb-state") / "kafka"
_POLL_SECONDS = 0.5


def make_broker(env: Mapping[str, str], *, port: int, data_dir: Path) -> Broker:
    """Local Apache Kafka if ``KAFKA_HOME`` is set, else the embedded Tansu; not started yet.

    Args:
        env: the process's environment.
        port: clients' port on loopback.
        data_dir: keeps Apache Kafka's data from one start to the next; the embedded broker writes only its log there.

    Raises:
        ConfigurationError: KAFKA_HOME holds no Kafka, or the port is no port.
        BrokerError: Java or the embedded broker is not installed.
    """
    home = env.get("KAFKA_HOME")
    if home:
        return LocalKafka(LocalKafkaConfig(home=Path(home), data_dir=data_dir, port=port))
    return EmbeddedBroker(EmbeddedConfig(port=port, log_dir=data_dir))


def run_broker(env: Mapping[str, str], *, port: int, data_dir: Path, announce: Callable[[str], None]) -> None:
    """Runs a broker until SIGINT or SIGTERM. Call it from the main thread: it handles signals.

    Args:
        env, port, data_dir: as for `make_broker`.
        announce: receives each line meant for the user.

    Raises:
        ConfigurationError, BrokerError: it cannot start; BrokerError also when it ends by itself.
    """
    broker = make_broker(env, port=port, data_dir=data_dir)
    with _stop_signals() as stop, broker:
        if broker.kind == "apache":
            announce(f"Apache Kafka serves at {broker.bootstrap_servers}; data in {data_dir.absolute()}")
        else:
            announce(f"The embedded broker (Tansu) serves at {broker.bootstrap_servers}; in memory only: stopping it loses all data")
            announce("for Apache Kafka set KAFKA_HOME to its unpacked download")
        announce(f"use it with --bootstrap-servers {broker.bootstrap_servers}; stop it with Ctrl-C")
        while not stop.wait(_POLL_SECONDS):
            if broker.pid is None:
                raise BrokerError(f"The broker at {broker.bootstrap_servers} ended by itself", why=f"last log lines:\n{broker.log_tail()}")
    announce("stopped")


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; the former handlers come back at the end."""
    stop = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
