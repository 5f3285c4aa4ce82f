"""What `train` tells people while it runs and at its end."""

import time
from collections.abc import Mapping
from typing import Any

import structlog

from autoemb_pipeline.run import RunSummary
from autoemb_pipeline.schemas.notices import budget_notice, bytes_notice, given_up_text, label_notice
from autoemb_pipeline.schemas.scores import (
    ACCURACY,
    METHOD,
    MODELS,
    score_field,
    scored,
)
from autoemb_pipeline.schemas.vocabulary import BYTES_SHARE, GIVEN_UP, HELD_BACK, LAG, THROUGHPUT

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
            _log.info("waiting for interactions", lag=runtime[LAG.field], **_held_back(runtime))
        else:
            _log_step(metrics, runtime)
        self._step = step


def _log_step(metrics: Mapping[str, Any], runtime: Mapping[str, Any]) -> None:
    loss = scored(metrics).field
    _log.info(
        "training",
        step=metrics["step"],
        examples=metrics["examples"],
        **{loss if model is METHOD else model.name: _rounded(metrics[score_field(model, loss)]) for model in MODELS},
        **_bytes(metrics),
        per_second=round(runtime[THROUGHPUT.field]),
        lag=runtime[LAG.field],
        **({"dead_letters": metrics["dead_letters"]} if metrics["dead_letters"] else {}),
        **_held_back(runtime),
    )


def _bytes(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    share, lost = metrics.get(BYTES_SHARE.field), given_up_text(metrics)
    return ({} if share is None else {BYTES_SHARE.field: round(share, 3)}) | ({} if lost is None else {GIVEN_UP.field: lost})


def _held_back(runtime: Mapping[str, Any]) -> Mapping[str, str]:
    held = runtime.get(HELD_BACK.field)
    return {HELD_BACK.field: held} if held else {}


def _rounded(value: float | None) -> float | None:
    """Four places, as the paper prints."""
    return None if value is None else round(value, 4)


def describe(summary: RunSummary, *, until_end: bool, stopped: bool) -> str:
    """How the training ended, for people."""
    notes = [*_counted(summary.metrics), *(f"  {text}" for text in summary.unread)]
    if summary.trained == 0:
        if stopped or not until_end:
            head = f"stopped: run {summary.run_id}, step {summary.step}"
        elif summary.examples == 0:
            head = f"nothing to train on: the topic holds no interactions (run {summary.run_id})"
        else:
            head = f"nothing new: run {summary.run_id} has trained all {summary.examples:,} interactions of the topic (step {summary.step})"
        return "\n".join([head, *notes])
    metrics = summary.metrics
    loss = scored(metrics).field
    names = {model: model.title for model in MODELS} | {METHOD: f"{metrics['method']} ({metrics['preset']})"}
    lines = [
        f"  {name:24} {loss} {metrics[score_field(model, loss)]:.4f}   {ACCURACY} {metrics[score_field(model, ACCURACY)]:.4f}"
        for model, name in names.items()
    ]
    kept = bytes_notice(metrics)
    if kept is not None:
        lines[0] += f"   {kept}"
    head = "stopped" if stopped else "done"
    return "\n".join(
        [
            f"{head}: run {summary.run_id}, {summary.examples:,} interactions, {summary.step} steps, context {metrics['context_mode']}",
            *lines,
            *notes,
        ]
    )


def _counted(metrics: Mapping[str, Any]) -> list[str]:
    """What became of records that were not simply trained on, and what is wrong with the labels, where there is anything."""
    meanings = {
        "dead_letters": "records were no interactions: see the dead-letter topic",
        "late": "interactions came late, and were trained in order of arrival",
        "duplicates": "re-delivered interactions were skipped",
        "skipped": "records were left out, as the stream's description says",
    }
    counted = [f"  {metrics[name]:,} {meaning}" for name, meaning in meanings.items() if metrics.get(name)]
    return counted + [f"  {notice}" for notice in (label_notice(metrics), budget_notice(metrics)) if notice is not None]
