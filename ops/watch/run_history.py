"""What a live view remembers of runs: the last records of each, within limits."""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]
RECORDS_KEPT = 600
RUNS_KEPT = 8


@dataclass(slots=True)
class RunHistory:
    """The last records of one run, oldest first."""

    run_id: str
    metrics: deque[Record] = field(default_factory=lambda: deque(maxlen=RECORDS_KEPT))
    runtime: deque[Record] = field(default_factory=lambda: deque(maxlen=RECORDS_KEPT))

    def series(self, kind: str, name: str) -> list[float | None]:
        """A field over the kept records."""
        return [record.get(name) for record in (self.metrics if kind == "metrics" else self.runtime)]

    def latest(self, kind: str) -> Record:
        """The newest record; {} before the first."""
        kept = self.metrics if kind == "metrics" else self.runtime
        return kept[-1] if kept else {}


class Histories:
    """The runs seen lately; one of them is watched.

    Args:
        run_id: the watched run; None follows the run of the newest record.
    """

    def __init__(self, run_id: str | None = None) -> None:
        self._wanted = run_id
        self._runs: OrderedDict[str, RunHistory] = OrderedDict()
        self._newest: dict[str, str] = {}

    def add(self, kind: str, records: Iterable[Record]) -> list[Record]:
        """Remembers records of `metrics` or `runtime`; returns those of the run that is watched once each was added."""
        watched = []
        for record in records:
            run_id = record["run_id"]
            if self._wanted is not None and run_id != self._wanted:
                continue
            history = self._runs.setdefault(run_id, RunHistory(run_id))
            self._runs.move_to_end(run_id)
            (history.metrics if kind == "metrics" else history.runtime).append(record)
            self._newest[kind] = run_id
            # Not the current run: reading the runtime topic from afar meets many older runs again after the metrics were read.
            if len(self._runs) > RUNS_KEPT:
                del self._runs[next(other for other, kept in self._runs.items() if kept is not self.current)]
            if self.current is history:
                watched.append(record)
        return watched

    @property
    def current(self) -> RunHistory | None:
        """The watched run: the newest on the metrics topic, or on the runtime topic while that is silent."""
        run_id = self._newest.get("metrics") or self._newest.get("runtime")
        return self._runs.get(run_id) if run_id else None
