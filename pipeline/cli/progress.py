"""What `train` tells people while it runs and at its end."""

import time
from collections.abc import Mapping
from typing import Any

import structlog

from pipeline.run import RunSummary

_log = structlog.get_logger()
_QUIET_SECONDS = 60.0


class ProgressLog:
    """One line every two seconds while steps are made, the method beside the references; one a minute while none are."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._due = 0.0

    def __call__(self, metrics: Mapping[str, Any], runtime: Mapping[str, Any]) -> None:
        """Called with the last step's metrics, empty before the first, and the runtime record."""
        step, now = metrics.get("step", 0), time.monotonic()
        if step == self._step and now < self._due:
            return
        self._due = now + _QUIET_SECONDS
        if not metrics or step == self._step:
            _log.info("waiting for interactions", lag=runtime["lag"], **_held_back(runtime))
        else:
            _log_step(metrics, runtime)
        self._step = step


def _log_step(metrics: Mapping[str, Any], runtime: Mapping[str, Any]) -> None:
    loss = "mse" if metrics["task"] == "binary" else "cross_entropy"
    _log.info(
        "training",
        step=metrics["step"],
        examples=metrics["examples"],
        **{loss: _rounded(metrics[loss]), "running_mean": _rounded(metrics[f"running_mean_{loss}"])},
        logistic=_rounded(metrics[f"logistic_{loss}"]),
        per_second=round(runtime["interactions_per_second"]),
        lag=runtime["lag"],
        **({"dead_letters": metrics["dead_letters"]} if metrics["dead_letters"] else {}),
        **_held_back(runtime),
    )


def _held_back(runtime: Mapping[str, Any]) -> Mapping[str, str]:
    held = runtime.get("held_back_by")
    return {"held_back_by": held} if held else {}


def _rounded(value: float | None) -> float | None:
    """Four places, as the paper prints."""
    return None if value is None else round(value, 4)


def describe(summary: RunSummary, *, until_end: bool, stopped: bool) -> str:
    """How the training ended, for people."""
    notes = _counted(summary.metrics)
    if summary.trained == 0:
        if stopped or not until_end:
            head = f"stopped: run {summary.run_id}, step {summary.step}"
        elif summary.examples == 0:
            head = f"nothing to train on: the topic holds no interactions (run {summary.run_id})"
        else:
            head = f"nothing new: run {summary.run_id} has trained all {summary.examples:,} interactions of the topic (step {summary.step})"
        return "\n".join([head, *notes])
    metrics = summary.metrics
    loss = "mse" if metrics["task"] == "binary" else "cross_entropy"
    rows = [("", metrics), ("running_mean_", metrics), ("logistic_", metrics)]
    names = (f"{metrics['method']} ({metrics['preset']})", "running mean", "logistic reference")
    lines = [
        f"  {name:24} {loss} {m[prefix + loss]:.4f}   accuracy {m[prefix + 'accuracy']:.4f}"
        for name, (prefix, m) in zip(names, rows, strict=True)
    ]
    head = "stopped" if stopped else "done"
    return "\n".join(
        [
            f"{head}: run {summary.run_id}, {summary.examples:,} interactions, {summary.step} steps, context {metrics['context_mode']}",
            *lines,
            *notes,
        ]
    )


def _counted(metrics: Mapping[str, Any]) -> list[str]:
    """What became of records that were not simply trained on, where there are any."""
    meanings = {
        "dead_letters": "records were no interactions: see the dead-letter topic",
        "late": "interactions came late, and were trained in order of arrival",
        "duplicates": "re-delivered interactions were skipped",
    }
    return [f"  {metrics[name]:,} {meaning}" for name, meaning in meanings.items() if metrics.get(name)]
