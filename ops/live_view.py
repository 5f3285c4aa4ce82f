"""A run at a glance, for a terminal of 80 columns or more: lines of text, the colours optional, nothing told by colour alone."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops.run_history import RunHistory

Record = Mapping[str, Any]
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*%#"
_SILENT_SECONDS = 30
_LABEL = 20
_MODELS = {"running_mean_": "running mean", "logistic_": "online logistic"}


def sparkline(values: Sequence[float | None], width: int, *, ramp: str = BLOCKS) -> str:
    """At most `width` signs, the newest values last, from the series' lowest to its highest; a gap where nothing is known."""
    kept = list(values)[-width:]
    known = [value for value in kept if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(ramp) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if value is None else ramp[round((value - low) * scale)] for value in kept)


def bar(share: float, width: int, *, ramp: str = BLOCKS) -> str:
    """A horizontal bar of a share from 0 to 1."""
    return (ramp[-1] * round(min(max(share, 0.0), 1.0) * width)).ljust(width, "·" if ramp is BLOCKS else " ")


def live_view(history: RunHistory, *, width: int, now: float | None = None, ramp: str = BLOCKS) -> RenderableType:
    """Everything of one run on one screen.

    Args:
        history: the run's last records.
        width: columns of the terminal.
        now: Unix time in seconds; None: now.
        ramp: signs from low to high; `ASCII` where blocks cannot be shown.
    """
    metrics, runtime = history.latest("metrics"), history.latest("runtime")
    silent = max(0.0, (time.time() if now is None else now) - runtime["wall_time"] / 1000) if runtime else 0.0
    parts: list[RenderableType] = [_head(history.run_id, metrics, silent)]
    if metrics:
        parts += [Text(), _errors(history, metrics, width, ramp)]
        # A step that scored nothing (dead letters behind the last whole batch) has none of its own.
        weighted = next((record for record in reversed(history.metrics) if record.get("user_weight")), None)
        if weighted is not None:
            parts += [Text(), _weights(weighted, width, ramp)]
        parts += [Text(), _popularity(metrics, ramp)]
    else:
        parts.append(Text("no interactions yet"))
    if runtime:
        parts += [Text(), _operation(history, runtime, width, ramp, silent)]
    if metrics:
        parts += [Text(), _counts(metrics)]
    return Group(*parts)


def one_line(history: RunHistory) -> str:
    """The run in one line, for a log or a pipe."""
    metrics, runtime = history.latest("metrics"), history.latest("runtime")
    if not metrics:
        return f"{history.run_id}  no interactions yet  lag {_number(runtime.get('lag'))}"
    loss = _loss(metrics)
    references = "  ".join(f"{name} {_fixed(metrics.get(f'{prefix}{loss}'))}" for prefix, name in _MODELS.items())
    rate = f"  {_number(runtime.get('interactions_per_second'))}/s  lag {_number(runtime.get('lag'))}" if runtime else ""
    return (
        f"{history.run_id}  step {metrics['step']:,}  {metrics['examples']:,} interactions  "
        f"{loss} {_fixed(metrics.get(loss))} (window {_fixed(metrics.get(f'{loss}_window'))})  {references}{rate}"
    )


def _head(run_id: str, metrics: Record, silent: float) -> Text:
    head = Text(run_id, style="bold", no_wrap=True, overflow="ellipsis")
    if metrics:
        time_of = datetime.fromtimestamp((metrics["event_time"] or 0) / 1000, UTC)
        seen = "" if metrics["event_time"] is None else f", up to {time_of:%Y-%m-%d}"
        head.append(
            f"\n{metrics['method']} ({metrics['preset']}), {metrics['task']}, context {metrics['context_mode']}   "
            f"{metrics['examples']:,} interactions{seen}",
            style="not bold",
        )
    if silent > _SILENT_SECONDS:
        head.append(f"\nno report for {_duration(silent)}: stopped, or hanging", style="not bold yellow")
    return head


def _errors(history: RunHistory, metrics: Record, width: int, ramp: str) -> Table:
    loss = _loss(metrics)
    name = "MSE" if loss == "mse" else "cross-entropy"
    table = _table(f"prequential {name}", "all", "window", "accuracy", "window's course")
    for prefix, label in {"": str(metrics["method"]), **_MODELS}.items():
        course = sparkline(history.series("metrics", f"{prefix}{loss}_window"), width - _LABEL - 36, ramp=ramp)
        cells = [_fixed(metrics.get(f"{prefix}{field}")) for field in (loss, f"{loss}_window", "accuracy_window")]
        table.add_row(label, *cells, course, style="" if prefix else "bold cyan")
    return table


def _weights(metrics: Record, width: int, ramp: str) -> Table:
    dimensions = sorted(metrics["user_weight"], key=int)
    table = _table("weights by dimension", *dimensions, "effective", "entropy")
    bars = max(3, (width - _LABEL - 24) // max(1, len(dimensions)) - 8)
    for side in ("user", "item"):
        cells = [
            f"{weight:.2f} {bar(weight, bars, ramp=ramp)}" for weight in (metrics[f"{side}_weight"][dimension] for dimension in dimensions)
        ]
        table.add_row(f"{side}s", *cells, f"{metrics[f'{side}_dimension']:.1f}", f"{metrics[f'{side}_entropy']:.2f}")
    return table


def _popularity(metrics: Record, ramp: str) -> Table:
    """Buckets from 0 to the most popular, one sign each."""
    shown = [("loss", 3), *([("dimension", 0)] if metrics.get("user_bucket_dimension") else [])]
    table = _table("by popularity", *["error, rare → popular", "range", "dimension", "range"][: 2 * len(shown)])
    for side in ("user", "item"):
        cells = []
        for what, digits in shown:
            buckets = metrics.get(f"{side}_bucket_{what}") or {}
            values = [buckets[bucket] for bucket in sorted(buckets, key=int)]
            known = [value for value in values if value is not None]
            cells += [sparkline(values, 16, ramp=ramp), f"{min(known):.{digits}f} to {max(known):.{digits}f}" if known else ""]
        table.add_row(f"of the {side}", *cells)
    return table


def _operation(history: RunHistory, runtime: Record, width: int, ramp: str, silent: float) -> Table:
    course = max(10, width - _LABEL - 34)
    table = _table("trainer", "now", "course")
    rate, lag = history.series("runtime", "interactions_per_second"), history.series("runtime", "lag")
    table.add_row("interactions/s", _number(runtime.get("interactions_per_second")), sparkline(rate, course, ramp=ramp))
    held = runtime.get("held_back_by")  # in the place of the course: the view fills a terminal of 24 lines
    table.add_row("lag, held back by" if held else "lag, records", _number(runtime.get("lag")), held or sparkline(lag, course, ramp=ramp))
    latencies = [runtime.get(f"step_latency_p{q}") for q in (50, 95, 99)]
    text = " ".join("–" if value is None else f"{1000 * value:,.0f}" for value in latencies)
    table.add_row("step, ms 50/95/99 %", text, sparkline(history.series("runtime", "step_latency_p95"), course, ramp=ramp))
    age = runtime.get("checkpoint_age_seconds")
    size = "" if runtime.get("checkpoint_bytes") is None else f"{runtime['checkpoint_bytes'] / 1e6:,.1f} MB"
    table.add_row("checkpoint", "none yet" if age is None else f"{_duration(age + silent)} old", size)
    memory = runtime.get("rss_bytes")
    table.add_row("memory", "–" if memory is None else f"{memory / 1e6:,.0f} MB", "")
    return table


def _counts(metrics: Record) -> Text:
    dead = metrics["dead_letters"]
    text = Text(f"step {metrics['step']:,}   late {metrics['late']:,}   duplicates {metrics['duplicates']:,}   ")
    return text.append(f"dead letters {dead:,}", style="bold red" if dead else "")


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(first, min_width=_LABEL, no_wrap=True)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _loss(metrics: Record) -> str:
    return "mse" if metrics["task"] == "binary" else "cross_entropy"


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
