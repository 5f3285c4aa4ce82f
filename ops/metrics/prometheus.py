"""Every metric of the Prometheus endpoint, once: name, kind, help, labels, and how its samples come from the topics' records.

Names and units follow https://prometheus.io/docs/practices/naming/: seconds, bytes, ratios from 0 to 1, `_total` on counters. Losses have
the unit of the task's loss (binary: squared error; rating: nats).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Record = Mapping[str, Any]
Sample = tuple[tuple[str, ...], float]
Kind = Literal["counter", "gauge", "summary"]

SIDES = ("user", "item")
MODELS = {"method": "", "running_mean": "running_mean_", "logistic": "logistic_"}
KINDS = {"cumulative": "", "window": "_window", "fading": "_fading"}
QUANTILES = {"0.5": "p50", "0.95": "p95", "0.99": "p99"}


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricSpec:
    """One metric family.

    Attributes:
        name: as scraped; a counter's with its `_total`.
        kind, help, labels: as exposed.
        source: the topic whose record it is read from.
        samples: record -> (label values, value); nothing where the record does not say.
    """

    name: str
    kind: Kind
    help: str
    source: Literal["metrics", "runtime"]
    samples: Callable[[Record], Iterable[Sample]]
    labels: tuple[str, ...] = ()


def _scalar(field: str, scale: float = 1.0) -> Callable[[Record], Iterator[Sample]]:
    def samples(record: Record) -> Iterator[Sample]:
        value = record.get(field)
        if value is not None:
            yield (), value * scale

    return samples


def _entries(field: str) -> Callable[[Record], Iterator[Sample]]:
    def samples(record: Record) -> Iterator[Sample]:
        for key, value in (record.get(field) or {}).items():
            if value is not None:
                yield (str(key),), value

    return samples


def _per_side(field: str) -> Callable[[Record], Iterator[Sample]]:
    """`field` with {side}: a scalar, or a map whose key holds the further labels (`64`, or `64_16` for popularity and dimension)."""

    def samples(record: Record) -> Iterator[Sample]:
        for side in SIDES:
            value = record.get(field.format(side=side))
            entries = value.items() if isinstance(value, Mapping) else [("", value)]
            for key, entry in entries:
                if entry is not None:
                    yield (side, *(str(key).split("_") if key != "" else ())), entry

    return samples


def _losses(record: Record) -> Iterator[Sample]:
    for loss in ("mse", "cross_entropy"):  # the task's is there, the other is null
        yield from _by_model(loss)(record)


def _by_model(what: str) -> Callable[[Record], Iterator[Sample]]:
    def samples(record: Record) -> Iterator[Sample]:
        for model, prefix in MODELS.items():
            for kind, suffix in KINDS.items():
                value = record.get(f"{prefix}{what}{suffix}")
                if value is not None:
                    yield (model, kind), value

    return samples


def _latencies(record: Record) -> Iterator[Sample]:
    for quantile, name in QUANTILES.items():
        value = record.get(f"step_latency_{name}")
        if value is not None:
            yield (quantile,), value


def _run(record: Record) -> Iterator[Sample]:
    values = tuple(record.get(label) for label in _RUN_LABELS)
    if all(value is not None for value in values):
        yield tuple(map(str, values)), 1.0


_RUN_LABELS = ("run_id", "method", "task", "preset", "context_mode")
_LOSS_HELP = "binary task: squared error; rating task: cross-entropy in nats"

METRICS: tuple[MetricSpec, ...] = (
    MetricSpec(
        name="autoemb_run_info",
        kind="gauge",
        help="Always 1; the labels say which run this is.",
        source="metrics",
        samples=_run,
        labels=_RUN_LABELS,
    ),
    MetricSpec(
        name="autoemb_interactions_total",
        kind="counter",
        help="Interactions predicted and trained on since the run began.",
        source="metrics",
        samples=_scalar("examples"),
    ),
    MetricSpec(
        name="autoemb_steps_total", kind="counter", help="Mini-batches since the run began.", source="metrics", samples=_scalar("step")
    ),
    MetricSpec(
        name="autoemb_event_timestamp_seconds",
        kind="gauge",
        help="Event time of the last interaction, Unix time.",
        source="metrics",
        samples=_scalar("event_time", 0.001),
    ),
    MetricSpec(
        name="autoemb_prequential_loss",
        kind="gauge",
        help=f"Mean loss of predictions made before learning ({_LOSS_HELP}).",
        source="metrics",
        samples=_losses,
        labels=("model", "kind"),
    ),
    MetricSpec(
        name="autoemb_prequential_accuracy_ratio",
        kind="gauge",
        help="Share of predictions with the right class, made before learning.",
        source="metrics",
        samples=_by_model("accuracy"),
        labels=("model", "kind"),
    ),
    MetricSpec(
        name="autoemb_weight_ratio",
        kind="gauge",
        help="Mean controller weight of an embedding space in the last mini-batch.",
        source="metrics",
        samples=_per_side("{side}_weight"),
        labels=("side", "dimension"),
    ),
    MetricSpec(
        name="autoemb_weight_entropy_nats",
        kind="gauge",
        help="Mean entropy of the controller weights in the last mini-batch.",
        source="metrics",
        samples=_per_side("{side}_entropy"),
        labels=("side",),
    ),
    MetricSpec(
        name="autoemb_effective_dimension",
        kind="gauge",
        help="Mean of weight times dimension, summed, in the last mini-batch.",
        source="metrics",
        samples=_per_side("{side}_dimension"),
        labels=("side",),
    ),
    MetricSpec(
        name="autoemb_bucket_interactions_total",
        kind="counter",
        source="metrics",
        samples=_per_side("{side}_bucket_count"),
        help="Interactions by popularity at the prediction (the bucket's lower bound).",
        labels=("side", "popularity"),
    ),
    MetricSpec(
        name="autoemb_bucket_loss",
        kind="gauge",
        help=f"Mean loss over the run by popularity ({_LOSS_HELP}).",
        source="metrics",
        samples=_per_side("{side}_bucket_loss"),
        labels=("side", "popularity"),
    ),
    MetricSpec(
        name="autoemb_bucket_dimension",
        kind="gauge",
        help="Mean effective dimension over the run by popularity.",
        source="metrics",
        samples=_per_side("{side}_bucket_dimension"),
        labels=("side", "popularity"),
    ),
    MetricSpec(
        name="autoemb_bucket_weight_ratio",
        kind="gauge",
        help="Mean controller weight over the run by popularity.",
        source="metrics",
        samples=_per_side("{side}_bucket_weight"),
        labels=("side", "popularity", "dimension"),
    ),
    MetricSpec(
        name="autoemb_late_interactions_total",
        kind="counter",
        help="Interactions before the merge frontier, trained all the same.",
        source="metrics",
        samples=_scalar("late"),
    ),
    MetricSpec(
        name="autoemb_duplicates_total",
        kind="counter",
        help="Re-delivered records, skipped.",
        source="metrics",
        samples=_scalar("duplicates"),
    ),
    MetricSpec(
        name="autoemb_dead_letters_total",
        kind="counter",
        help="Undecodable records, sent to the dead-letter topic.",
        source="metrics",
        samples=_scalar("dead_letters"),
    ),
    MetricSpec(
        name="autoemb_next_offset",
        kind="gauge",
        help="Offset of the first record not trained on.",
        source="metrics",
        samples=_entries("next_offsets"),
        labels=("partition",),
    ),
    MetricSpec(
        name="autoemb_lag_records",
        kind="gauge",
        help="Records not read yet, over all partitions.",
        source="runtime",
        samples=_scalar("lag"),
    ),
    MetricSpec(
        name="autoemb_interactions_per_second",
        kind="gauge",
        help="Trained over the last reporting interval (two seconds).",
        source="runtime",
        samples=_scalar("interactions_per_second"),
    ),
    MetricSpec(
        name="autoemb_step_latency_seconds",
        kind="summary",
        help="Time of a mini-batch's step, of the last 512.",
        source="runtime",
        samples=_latencies,
        labels=("quantile",),
    ),
    MetricSpec(
        name="autoemb_phase_seconds",
        kind="gauge",
        help="Time spent in a phase of the loop over the last reporting interval.",
        source="runtime",
        samples=_entries("phase_seconds"),
        labels=("phase",),
    ),
    MetricSpec(
        name="autoemb_resident_memory_bytes",
        kind="gauge",
        help="Resident memory of the trainer.",
        source="runtime",
        samples=_scalar("rss_bytes"),
    ),
    MetricSpec(
        name="autoemb_checkpoint_age_seconds",
        kind="gauge",
        help="Time since the newest checkpoint; goes on growing if the trainer hangs.",
        source="runtime",
        samples=_scalar("checkpoint_age_seconds"),
    ),
    MetricSpec(
        name="autoemb_checkpoint_size_bytes",
        kind="gauge",
        help="Size of the newest checkpoint.",
        source="runtime",
        samples=_scalar("checkpoint_bytes"),
    ),
    MetricSpec(
        name="autoemb_buffer_entries",
        kind="gauge",
        help="Entries in a buffer now.",
        source="runtime",
        samples=_entries("buffer_size"),
        labels=("buffer",),
    ),
    MetricSpec(
        name="autoemb_last_update_timestamp_seconds",
        kind="gauge",
        help="When the trainer last reported, Unix time: two seconds ago, unless it hangs.",
        source="runtime",
        samples=_scalar("wall_time", 0.001),
    ),
)
