"""What a person should be told of a record, in words: one wording for the log, `watch` and a run's last message."""

from collections.abc import Mapping
from typing import Any

from autoemb_pipeline.schemas.vocabulary import (
    BATCH_CLOSES_IN,
    BYTES_SHARE,
    GIVEN_UP,
    GIVEN_UP_HIGH,
    GIVEN_UP_LOW,
    LABEL_WARNING,
    REMOVED_IDS,
    WAITING_DEAD_LETTERS,
    WAITING_INTERACTIONS,
)


def waiting_notice(runtime: Mapping[str, Any]) -> str | None:
    """What was read and waits for its mini-batch to be closed, and when that is; None where nothing waits."""
    counts = [(runtime.get(WAITING_INTERACTIONS.field), "interaction"), (runtime.get(WAITING_DEAD_LETTERS.field), "dead letter")]
    parts = [f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in counts if count]
    if not parts:
        return None
    closes_in = runtime.get(BATCH_CLOSES_IN.field)
    closes = "when it is full" if closes_in is None else f"in {closes_in:.0f} s"
    return f"{', '.join(parts)}; the mini-batch closes {closes}"


def label_notice(metrics: Mapping[str, Any]) -> str | None:
    """Why the labels teach nothing and what mends it; None where both classes (rating task: several) were seen."""
    warning = metrics.get(LABEL_WARNING.field)
    if warning is None:
        return None
    low, high = metrics["rating_min"], metrics["rating_max"]
    what = {"all-negative": "negative", "all-positive": "positive"}.get(warning, "of one class")
    seen = f"all {metrics['examples']:,} labels so far are {what}"
    if low == high:
        return f"{seen}: every rating is {low:g}. A model of them only learns to say so: the topic needs interactions of another class too"
    binary = "" if metrics["task"] == "binary" else "--task binary "
    return f"{seen}: ratings lie between {low:g} and {high:g}. Start again: --new-run {binary}--positive-above {(low + high) / 2:g}"


def budget_notice(metrics: Mapping[str, Any]) -> str | None:
    """Why the memory budget cannot be kept and what mends it; None where it can, or there is none."""
    budget, least = metrics.get("memory_budget"), metrics.get("least_bytes")
    if budget is None or least is None or least <= budget:
        return None
    return (
        f"biases and index of the known ids alone take {least:,} bytes, more than --memory-budget {budget:,}: nobody gets an embedding any "
        f"more. Start again with more: --new-run --memory-budget {2 * least}"
    )


def share_text(share: float) -> str:
    """Two digits of a share, as 28% or 4.6%."""
    return f"{share:.1%}" if share < 0.0995 else f"{share:.0%}"  # noqa: PLR2004  # below it, 9.9%


def given_up_text(metrics: Mapping[str, Any]) -> str | None:
    """The loss given up with half of its interval's width, once there is one, as 1.1±0.3e-4; None where nothing is searched."""
    value, low, high = (metrics.get(metric.field) for metric in (GIVEN_UP, GIVEN_UP_LOW, GIVEN_UP_HIGH))
    if value is None:
        return None
    width = "" if low is None or high is None else f"±{1e4 * (high - low) / 2:.1f}"
    return f"{1e4 * value:.1f}{width}e-4"


def bytes_notice(metrics: Mapping[str, Any]) -> str | None:
    """What is kept for embeddings and what that costs, beside the error: 28% of fixed bytes, given up 1.1±0.3e-4; None where unknown."""
    share, lost = metrics.get(BYTES_SHARE.field), given_up_text(metrics)
    if share is None:
        return None
    gone = removed_text(metrics)
    return f"{share_text(share)} of fixed bytes" + ("" if lost is None else f", given up {lost}") + ("" if gone is None else f", {gone}")


def removed_text(metrics: Mapping[str, Any]) -> str | None:
    """Ids removed by a time to live, as 1,200 users and 34 items removed; None without one."""
    counts = [(side, metrics.get(field)) for (side,), field in REMOVED_IDS.fields()]
    known = [f"{count:,} {side}s" for side, count in counts if count is not None]
    return f"{' and '.join(known)} removed" if known else None
