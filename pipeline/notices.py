"""Log lines about what no step shows: a stream that fell silent while something waits, labels that teach nothing."""

from collections.abc import Mapping
from typing import Any

import structlog

from autoemb_pipeline.schemas.notices import budget_notice, label_notice, waiting_notice

_log = structlog.get_logger()
_QUIET_MS = 60_000


class Notices:
    """Looks at every runtime record beside the last step's metrics; says a thing when it begins, not while it lasts."""

    def __init__(self) -> None:
        self._label_warning: str | None = None
        self._over_budget = False
        self._stood_at: tuple[Any, ...] = ()
        self._quiet_until = 0

    def look(self, metrics: Mapping[str, Any], runtime: Mapping[str, Any]) -> None:
        """Called with the last step's metrics, empty before the first, and the runtime record."""
        if metrics:
            self._look_at_labels(metrics)
            self._look_at_budget(metrics)
        self._look_at_silence(runtime)

    def _look_at_labels(self, metrics: Mapping[str, Any]) -> None:
        before, self._label_warning = self._label_warning, metrics["label_warning"]
        if self._label_warning == before:
            return
        notice = label_notice(metrics)
        if notice is None:
            _log.info("labels of another class have come", positive_share=metrics["positive_share"])
        else:
            _log.warning("the labels teach nothing", why=notice)

    def _look_at_budget(self, metrics: Mapping[str, Any]) -> None:
        before, notice = self._over_budget, budget_notice(metrics)
        self._over_budget = notice is not None
        if notice is not None and not before:
            _log.warning("the memory budget cannot be kept", why=notice)

    def _look_at_silence(self, runtime: Mapping[str, Any]) -> None:
        """Nothing has come between two records, and something waits: said at most once a minute, however slow the stream."""
        stands_at = tuple(runtime[name] for name in ("step", "lag", "waiting_interactions", "waiting_dead_letters"))
        is_silent, self._stood_at = stands_at == self._stood_at, stands_at
        notice = waiting_notice(runtime) if is_silent else None
        if notice is not None and runtime["wall_time"] >= self._quiet_until:
            self._quiet_until = runtime["wall_time"] + _QUIET_MS
            _log.info("the stream is silent, and read records wait", waiting=notice, lag=runtime["lag"])
