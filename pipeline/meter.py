"""Rates, latencies and memory of a running trainer: functions of the machine, kept apart from the metrics of the stream."""

import resource
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

LATENCIES_KEPT = 512


class Meter:
    """Collects step latencies and phase times; `snapshot` empties the phase times and the rate's counter.

    Args:
        clock: seconds, monotonic; injected in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._latencies: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._phases: dict[str, float] = {}
        self._since = clock()
        self._interactions = 0
        self.total = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time of a block to a phase (wait, step, emit, checkpoint)."""
        start = self._clock()
        try:
            yield
        finally:
            self._phases[name] = self._phases.get(name, 0.0) + self._clock() - start

    @contextmanager
    def step(self, interactions: int) -> Iterator[None]:
        """Around the processing of one mini-batch."""
        start = self._clock()
        with self.phase("step"):
            yield
        self._latencies.append(self._clock() - start)
        self._interactions += interactions
        self.total += interactions

    @property
    def age(self) -> float:
        """Seconds since the last snapshot."""
        return self._clock() - self._since

    def snapshot(self) -> dict[str, object]:
        """Fields of the runtime topic since the last snapshot: interactions/s, latency quantiles and phases in seconds, RSS in bytes."""
        elapsed = max(self.age, 1e-9)
        quantiles = np.quantile(self._latencies, [0.5, 0.95, 0.99]) if self._latencies else [None] * 3
        fields: dict[str, object] = {
            "interactions_per_second": self._interactions / elapsed,
            **{f"step_latency_p{q}": None if v is None else float(v) for q, v in zip((50, 95, 99), quantiles, strict=True)},
            "phase_seconds": dict(self._phases),
            "rss_bytes": rss_bytes(),
        }
        self._phases, self._interactions, self._since = {}, 0, self._clock()
        return fields


def rss_bytes() -> int:
    """Resident memory now (Linux), else the peak so far."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123  # read every two seconds: no Path object for it
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
