"""The Prometheus endpoint of a trainer: the last records of the metrics and runtime topics, scraped over HTTP."""

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.schemas.entry import Metric as Entry
from autoemb_pipeline.schemas.vocabulary import CHECKPOINT_AGE, METRICS

LOOPBACK = "127.0.0.1"
_MAX_PORT = 65_535
Record = Mapping[str, Any]


def parse_address(text: str) -> tuple[str, int]:
    """HOST:PORT, :PORT or PORT; without a host only this machine can scrape.

    Raises:
        ConfigurationError: it is neither.
    """
    host, _, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
        raise ConfigurationError(f"--prometheus {text!r} is no address", remedy="give HOST:PORT, for instance 127.0.0.1:9464")
    return host or LOOPBACK, int(port)


class PrometheusExporter(Collector):
    """Serves ``/metrics`` from the time it is made until `close`.

    Args:
        host: to listen on; the endpoint has no authentication, so anything but loopback is the user's decision.
        port: 0 takes a free one.
        clock: Unix time in seconds; injected in tests.

    Attributes:
        port: listened on.

    Raises:
        ConfigurationError: the port is in use, or the host is none of this machine's.
    """

    def __init__(self, host: str = LOOPBACK, port: int = 0, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        # Replaced as one, never changed: a scrape in another thread sees either both old or both new records.
        self._records: tuple[Record, Record, float] = ({}, {}, clock())
        # A registry of its own: two exporters in a process, or a library with metrics, do not meet.
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise ConfigurationError(
                f"The Prometheus endpoint cannot listen on {host}:{port}",
                why=error.strerror or str(error),
                remedy="stop the other program, or give another --prometheus HOST:PORT",
            ) from error
        self.port: int = self._server.server_port

    def update(self, metrics: Record, runtime: Record) -> None:
        """The newest records, maps not flattened. An empty one changes nothing: the endpoint keeps what it had."""
        before = self._records
        self._records = (metrics or before[0], runtime or before[1], self._clock() if runtime else before[2])

    def collect(self) -> Iterator[Metric]:
        """Called by the registry for each scrape."""
        metrics, runtime, updated = self._records
        if metrics and "run_id" in runtime:
            metrics = {"run_id": runtime["run_id"], **metrics}  # an observer's metrics are without the run's own name
        age = runtime.get(CHECKPOINT_AGE.field)
        if age is not None:
            runtime = {**runtime, CHECKPOINT_AGE.field: age + max(0.0, self._clock() - updated)}
        for entry in METRICS:
            yield _family(entry, metrics if entry.topic == "metrics" else runtime)

    def close(self) -> None:
        """Stops serving. May be called twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _family(entry: Entry, record: Record) -> Metric:
    # The class `Metric` and not its subclasses: SummaryMetricFamily has no quantiles.
    name = entry.name.removesuffix("_total") if entry.kind == "counter" else entry.name
    family = Metric(name, entry.help, entry.kind)
    for values, number in entry.samples(record):
        family.add_sample(entry.name, dict(zip(entry.labels, values, strict=True)), float(number))
    return family
