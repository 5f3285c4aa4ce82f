"""A run at a glance, for a terminal of 80 columns or more: lines of text, the colours optional, nothing told by colour alone."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoemb_pipeline.ops.watch.held import held_by_popularity, spaces_of
from autoemb_pipeline.ops.watch.run_history import RunHistory
from autoemb_pipeline.schemas.notices import (
    budget_notice,
    bytes_notice,
    given_up_text,
    label_notice,
    removed_text,
    share_text,
    waiting_notice,
)
from autoemb_pipeline.schemas.scores import (
    ACCURACY,
    METHOD,
    MODELS,
    REFERENCES,
    SIDES,
    WINDOW,
    score_field,
    scored,
)
from autoemb_pipeline.schemas.vocabulary import (
    BUCKET_DIMENSION,
    BUCKET_LOSS,
    BYTES_SHARE,
    CHECKPOINT_AGE,
    CHECKPOINT_SIZE,
    DEAD_LETTERS,
    DIMENSION,
    DUPLICATES,
    ENTROPY,
    EVENT_TIME,
    HELD_BACK,
    IDS_OF_SPACE,
    LAG,
    LAST_UPDATE,
    LATE,
    LOSS,
    MEMORY,
    SKIPPED,
    STEP_LATENCY,
    THROUGHPUT,
    WEIGHT,
)

Record = Mapping[str, Any]
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*%#"
_SILENT_SECONDS = 30
_LABEL = 20


def sparkline(values: Sequence[float | None], width: int, *, ramp: str = BLOCKS) -> str:
    """At most `width` signs, the newest values last, from the series' lowest to its highest; a gap where nothing is known."""
    kept = list(values)[-width:]
    known = [value for value in kept if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    height = high - low if high > low else 1.0
    return "".join(" " if value is None else ramp[round((value - low) / height * (len(ramp) - 1))] for value in kept)


def signs(shares: Sequence[float | None], *, ramp: str = BLOCKS) -> str:
    """A sign per share from 0 to 1, whatever the others are; a dot for none at all, a gap where nothing is known."""
    empty = "·" if ramp is BLOCKS else " "
    return "".join(
        " " if share is None else empty if share < 0.005 else ramp[min(int(share * len(ramp)), len(ramp) - 1)]  # noqa: PLR2004  # half a percent
        for share in shares
    )


def bar(share: float, width: int, *, ramp: str = BLOCKS) -> str:
    """A horizontal bar of a share from 0 to 1."""
    return (ramp[-1] * round(min(max(share, 0.0), 1.0) * width)).ljust(width, "·" if ramp is BLOCKS else " ")


def picture(history: RunHistory | None, console: Console) -> RenderableType:
    """`live_view` as this console can show it; without a run, that one is awaited."""
    if history is None:
        return Text("waiting for a run")
    return live_view(history, width=console.width, ramp=BLOCKS if console.encoding.lower().startswith("utf") else ASCII)


def live_view(history: RunHistory, *, width: int, now: float | None = None, ramp: str = BLOCKS) -> RenderableType:
    """Everything of one run on one screen.

    Args:
        history: the run's last records.
        width: columns of the terminal.
        now: Unix time in seconds; None: now.
        ramp: signs from low to high; `ASCII` where blocks cannot be shown.
    """
    metrics, runtime = history.latest("metrics"), history.latest("runtime")
    silent = max(0.0, (time.time() if now is None else now) - runtime[LAST_UPDATE.field] * LAST_UPDATE.scale) if runtime else 0.0
    parts: list[RenderableType] = [_head(history.run_id, metrics, silent)]
    # Instead of an empty line, not below it: a terminal of 24 lines is full.
    parts += [Text(f"{name}: {text}", style="yellow") for name, text in _notices(metrics, runtime)] or [Text()]
    if metrics:
        parts.append(_errors(history, metrics, width, ramp))
        # A step that scored nothing (dead letters behind the last whole batch) has none of its own.
        weighted = next((record for record in reversed(history.metrics) if any(record.get(field) for _, field in WEIGHT.fields())), None)
        if spaces_of(metrics):
            parts += [Text(), _held(metrics, width, ramp)]
        elif weighted is not None:
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
    notices = "".join(f"  {name}: {text}" for name, text in _notices(metrics, runtime))
    if not metrics:
        return f"{history.run_id}  no interactions yet  lag {_number(runtime.get(LAG.field))}{notices}"
    loss = scored(metrics).field
    references = "  ".join(f"{model.title} {_fixed(metrics.get(score_field(model, loss)))}" for model in REFERENCES)
    kept = bytes_notice(metrics)
    beside = "" if kept is None else f"{kept}  "
    rate = f"  {_number(runtime.get(THROUGHPUT.field))}/s  lag {_number(runtime.get(LAG.field))}" if runtime else ""
    window = _fixed(metrics.get(score_field(METHOD, loss, WINDOW)))
    return (
        f"{history.run_id}  step {metrics['step']:,}  {metrics['examples']:,} interactions  "
        f"{loss} {_fixed(metrics.get(loss))} (window {window})  {beside}{references}{rate}{notices}"
    )


def _notices(metrics: Record, runtime: Record) -> list[tuple[str, str]]:
    """What a person should know beside the numbers: (kind, text)."""
    texts = (("warning", label_notice(metrics)), ("warning", budget_notice(metrics)), ("waiting", waiting_notice(runtime)))
    return [(kind, text) for kind, text in texts if text is not None]


def _head(run_id: str, metrics: Record, silent: float) -> Text:
    head = Text(run_id, style="bold", no_wrap=True, overflow="ellipsis")
    if metrics:
        time_of = datetime.fromtimestamp((metrics[EVENT_TIME.field] or 0) * EVENT_TIME.scale, UTC)
        seen = "" if metrics[EVENT_TIME.field] is None else f", up to {time_of:%Y-%m-%d}"
        head.append(
            f"\n{metrics['method']} ({metrics['preset']}), {metrics['task']}, context {metrics['context_mode']}   "
            f"{metrics['examples']:,} interactions{seen}",
            style="not bold",
        )
    if silent > _SILENT_SECONDS:
        head.append(f"\nno report for {_duration(silent)}: stopped, or hanging", style="not bold yellow")
    return head


def _errors(history: RunHistory, metrics: Record, width: int, ramp: str) -> Table:
    loss = scored(metrics)
    kept = {}  # title -> what the method's row says
    if metrics.get(BYTES_SHARE.field) is not None:
        kept["bytes"] = share_text(metrics[BYTES_SHARE.field])
    lost = given_up_text(metrics)
    if lost is not None:
        kept["given up"] = lost if ramp is BLOCKS else lost.replace("±", "+-")
    room = width - _LABEL - 36 - sum(2 + max(map(len, column)) for column in kept.items())
    table = _table(f"{LOSS.title.lower().removesuffix('error')}{loss.title}", "all", "window", ACCURACY, *kept, "its course")
    for model in MODELS:
        window = score_field(model, loss.field, WINDOW)
        course = sparkline(history.series(LOSS.topic, window), room, ramp=ramp)
        cells = [_fixed(metrics.get(field)) for field in (score_field(model, loss.field), window, score_field(model, ACCURACY, WINDOW))]
        own = model is METHOD
        beside = kept.values() if own else [""] * len(kept)
        table.add_row(str(metrics["method"]) if own else model.title, *cells, *beside, course, style="bold cyan" if own else "")
    return table


def _weights(metrics: Record, width: int, ramp: str) -> Table:
    """Rows of users and items: bars of their weights, effective dimension, entropy."""
    fields = zip(SIDES, *([field for _, field in metric.fields()] for metric in (WEIGHT, DIMENSION, ENTROPY)), strict=True)
    rows = [(side, *(metrics[name] for name in names)) for side, *names in fields]
    dimensions = sorted(rows[0][1], key=int)
    table = _table(WEIGHT.title.lower(), *dimensions, "effective", ENTROPY.title.lower())
    bars = max(3, (width - _LABEL - 24) // max(1, len(dimensions)) - 8)
    for side, weights, effective, entropy in rows:
        cells = [f"{weights[dimension]:.2f} {bar(weights[dimension], bars, ramp=ramp)}" for dimension in dimensions]
        table.add_row(f"{side}s", *cells, f"{effective:.1f}", f"{entropy:.2f}")
    return table


def _held(metrics: Record, width: int, ramp: str) -> Table:
    """The histogram of dimensions held by popularity: for each dimension a sign per bucket, from none of its interactions to all."""
    spaces = spaces_of(metrics)
    table = _table("held, rare → popular", *("none" if space == "0" else space for space in spaces))
    room = max(1, (width - _LABEL - 2) // len(spaces) - 2)
    for side in SIDES:
        shares = held_by_popularity(metrics, side, room)
        table.add_row(f"{side}s", *(signs(shares[space], ramp=ramp) for space in spaces))
    return table


def _ids_of_spaces(metrics: Record, side: str) -> str:
    """Percent of the ids that hold each dimension now, none first."""
    ids = metrics[IDS_OF_SPACE.field.format(side=side)]
    return "/".join(f"{100 * ids[space] / max(1, sum(ids.values())):.0f}" for space in spaces_of(metrics))


def _popularity(metrics: Record, ramp: str) -> Table:
    """Buckets from 0 to the most popular, one sign each; where dimensions are searched, the ids that hold each."""
    searched = bool(spaces_of(metrics))
    asked = ((BUCKET_LOSS, 3),) if searched else ((BUCKET_LOSS, 3), (BUCKET_DIMENSION, 0))
    shown = [(metric, digits) for metric, digits in asked if any(metric.samples(metrics))]
    titles = ["error, rare → popular", "range", "dimension", "range"][: 2 * len(shown)]
    table = _table("by popularity", *titles, *(["ids that hold, %"] if searched else []))
    for side in SIDES:
        cells = []
        for metric, digits in shown:
            buckets = metrics.get(metric.field.format(side=side)) or {}
            values = [buckets[bucket] for bucket in sorted(buckets, key=int)]
            known = [value for value in values if value is not None]
            cells += [sparkline(values, 16, ramp=ramp), f"{min(known):.{digits}f} to {max(known):.{digits}f}" if known else ""]
        table.add_row(f"of the {side}", *cells, *([_ids_of_spaces(metrics, side)] if searched else []))
    return table


def _operation(history: RunHistory, runtime: Record, width: int, ramp: str, silent: float) -> Table:
    course = max(10, width - _LABEL - 34)

    def line(field: str) -> str:
        return sparkline(history.series("runtime", field), course, ramp=ramp)

    table = _table("trainer", "now", "course")
    table.add_row(THROUGHPUT.unit, _number(runtime.get(THROUGHPUT.field)), line(THROUGHPUT.field))
    held = runtime.get(HELD_BACK.field)  # in the place of the course: the view fills a terminal of 24 lines
    beside = HELD_BACK.title.lower() if held else LAG.unit
    table.add_row(f"{LAG.title.lower()}, {beside}", _number(runtime.get(LAG.field)), held or line(LAG.field))
    latencies = [field for _, field in STEP_LATENCY.fields()]
    seconds = [runtime.get(field) for field in latencies]
    text = " ".join("–" if value is None else f"{1000 * value:,.0f}" for value in seconds)
    table.add_row("step, ms 50/95/99 %", text, line(latencies[1]))
    age, size = runtime.get(CHECKPOINT_AGE.field), runtime.get(CHECKPOINT_SIZE.field)
    size_text = "" if size is None else f"{size / 1e6:,.1f} MB"
    table.add_row("checkpoint", "none yet" if age is None else f"{_duration(age + silent)} old", size_text)
    memory = runtime.get(MEMORY.field)
    table.add_row(MEMORY.title.lower(), "–" if memory is None else f"{memory / 1e6:,.0f} MB", "")
    return table


def _counts(metrics: Record) -> Text:
    late, duplicates, dead = (f"{metric.title.lower()} {metrics[metric.field]:,}" for metric in (LATE, DUPLICATES, DEAD_LETTERS))
    skipped = f"{SKIPPED.title.lower()} {metrics[SKIPPED.field]:,}   " if metrics.get(SKIPPED.field) else ""
    text = Text(f"step {metrics['step']:,}   {late}   {duplicates}   {skipped}")
    text.append(dead, style="bold red" if metrics[DEAD_LETTERS.field] else "")
    gone = removed_text(metrics)
    return text if gone is None else text.append(f"   {gone}")


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(first, min_width=_LABEL, no_wrap=True)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
