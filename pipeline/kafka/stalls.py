"""Warnings while something does not go on, said now and then: a log that repeats itself hides the rest."""

import time
from collections.abc import Hashable

import structlog
from confluent_kafka import KafkaError

_SECONDS = 10.0
_log = structlog.get_logger(__name__)


class Throttle:
    """Decides when what goes on is said again: at once, then once an interval, each key for itself.

    Args:
        seconds: the interval.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._said: dict[Hashable, float] = {}

    def due(self, key: Hashable, now: float) -> bool:
        """Whether it is to be said at ``now`` (seconds, monotonic); it then counts as said."""
        said = self._said.get(key)
        if said is not None and now - said < self._seconds:
            return False
        self._said[key] = now
        return True


class BrokerWait:
    """A wait for the broker: says every ten seconds that it goes on, and why as far as the client knows."""

    def __init__(self) -> None:
        self._cause = ""
        self.begin()

    def on_error(self, error: KafkaError) -> None:
        """librdkafka's error callback: informational unless fatal; a fatal one also fails a delivery."""
        self._cause = error.str()

    def because(self, cause: str) -> None:
        """What the wait is for."""
        self._cause = cause

    def begin(self) -> None:
        """A wait begins: nothing is said for the first ten seconds."""
        self._throttle = Throttle()
        self._throttle.due("", time.monotonic())

    def waiting(self, records: int) -> None:
        """The wait goes on."""
        if self._throttle.due("", time.monotonic()):
            _log.warning("waiting for the broker", unacknowledged=records, cause=self._cause)
