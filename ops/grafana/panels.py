"""What the two dashboards show, once: the topics' fields for the Kafka datasource and PromQL for Prometheus, panel by panel."""

from dataclasses import dataclass
from typing import Literal

BUCKETS = ("0", *(str(2**power) for power in range(15)))  # lower bounds of the popularity buckets
ONE_RUN = '{instance=~"$instance"}'
LOSS = "${loss}"  # mse or cross_entropy: the dashboard's variable
_MODELS = {"": "method", "running_mean_": "running mean", "logistic_": "logistic"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PanelSpec:
    """One panel of both dashboards.

    Attributes:
        title, description, unit: as Grafana shows them; the unit is Grafana's id.
        topic: `metrics` or `runtime`.
        fields: regular expression without ``|`` or groups (matched whole) -> display name; "" keeps the field's own.
        queries: PromQL -> legend.
        kind: `lines` over time, `bars` of the newest values, or `number`s.
        width: of 24 columns.
        limits: of the axis.
    """

    title: str
    description: str
    unit: str
    topic: Literal["metrics", "runtime"]
    fields: dict[str, str]
    queries: dict[str, str]
    kind: Literal["lines", "bars", "number"] = "lines"
    width: int = 12
    limits: tuple[float, float] | None = None


def _models(what: str, suffix: str) -> dict[str, str]:
    return {f"{prefix}{what}{suffix}": name for prefix, name in _MODELS.items()}


def _by_bucket(side: str) -> tuple[PanelSpec, PanelSpec]:
    error = PanelSpec(
        title=f"Error by popularity of the {side}",
        description=f"Mean loss over the run by the {side}'s earlier interactions (the bucket's lower bound): the paper's Figure 6.",
        unit="none",
        topic="metrics",
        fields={f"{side}_bucket_loss_[0-9]+": ""},
        queries={f'autoemb_bucket_loss{{side="{side}",instance=~"$instance"}}': "{{popularity}}"},
        kind="bars",
        width=8,
    )
    weights = PanelSpec(
        title=f"Effective dimension by popularity of the {side}",
        description="Mean of weight times dimension, summed, over the run: large dimensions should come with popularity (Figure 7).",
        unit="none",
        topic="metrics",
        fields={f"{side}_bucket_dimension_[0-9]+": ""},
        queries={f'autoemb_bucket_dimension{{side="{side}",instance=~"$instance"}}': "{{popularity}}"},
        kind="bars",
        width=8,
    )
    return error, weights


def _weights(side: str) -> PanelSpec:
    return PanelSpec(
        title=f"Dimension shares, {side}s",
        description=f"Mean controller weight of each dimension over a mini-batch's {side}s. Empty for methods without controllers.",
        unit="percentunit",
        topic="metrics",
        fields={f"{side}_weight_[0-9]+": ""},
        queries={f'autoemb_weight_ratio{{side="{side}",instance=~"$instance"}}': "dimension {{dimension}}"},
        width=8,
        limits=(0.0, 1.0),
    )


QUALITY: tuple[PanelSpec, ...] = (
    PanelSpec(
        title="Prequential error, sliding window",
        description="Every prediction is made before its label is learned from. Binary task: squared error; rating task: nats.",
        unit="none",
        topic="metrics",
        fields=_models(LOSS, "_window"),
        queries={'autoemb_prequential_loss{kind="window",instance=~"$instance"}': "{{model}}"},
    ),
    PanelSpec(
        title="Prequential error since the beginning",
        description="Mean over the run, beside two references that see the same interactions under the same rules.",
        unit="none",
        topic="metrics",
        fields=_models(LOSS, ""),
        queries={'autoemb_prequential_loss{kind="cumulative",instance=~"$instance"}': "{{model}}"},
    ),
    PanelSpec(
        title="Accuracy, sliding window",
        description="Share of predictions with the right class.",
        unit="percentunit",
        topic="metrics",
        fields=_models("accuracy", "_window"),
        queries={'autoemb_prequential_accuracy_ratio{kind="window",instance=~"$instance"}': "{{model}}"},
        width=8,
    ),
    PanelSpec(
        title="Entropy of the controllers",
        description="Mean entropy of an id's weights, nats: 0 is one dimension for certain, ln 3 = 1.1 is no preference among three.",
        unit="none",
        topic="metrics",
        fields={"user_entropy": "users", "item_entropy": "items"},
        queries={f"autoemb_weight_entropy_nats{ONE_RUN}": "{{side}}s"},
        width=8,
    ),
    PanelSpec(
        title="Late, duplicate, dead",
        description="Interactions behind the merge frontier (trained all the same), re-deliveries skipped, undecodable records set aside.",
        unit="short",
        topic="metrics",
        fields={"late": "late", "duplicates": "duplicates", "dead_letters": "dead letters"},
        queries={
            f"autoemb_late_interactions_total{ONE_RUN}": "late",
            f"autoemb_duplicates_total{ONE_RUN}": "duplicates",
            f"autoemb_dead_letters_total{ONE_RUN}": "dead letters",
        },
        width=8,
    ),
)
DIMENSIONS: tuple[PanelSpec, ...] = (
    _weights("user"),
    *_by_bucket("user"),
    _weights("item"),
    *_by_bucket("item"),
)
OPERATION: tuple[PanelSpec, ...] = (
    PanelSpec(
        title="Throughput",
        description="Interactions predicted and trained on.",
        unit="ops",
        topic="runtime",
        fields={"interactions_per_second": "interactions"},
        queries={f"rate(autoemb_interactions_total{ONE_RUN}[$__rate_interval])": "interactions"},
        width=8,
    ),
    PanelSpec(
        title="Lag",
        description="Records not trained yet, over all partitions; of them, interactions that wait in the partial mini-batch.",
        unit="short",
        topic="runtime",
        fields={"lag": "records", "waiting_interactions": "waiting in the mini-batch"},
        queries={f"autoemb_lag_records{ONE_RUN}": "records", f"autoemb_waiting_interactions{ONE_RUN}": "waiting in the mini-batch"},
        width=8,
    ),
    PanelSpec(
        title="Step latency",
        description="Time of one mini-batch: context, prediction, update.",
        unit="s",
        topic="runtime",
        fields={"step_latency_p50": "median", "step_latency_p95": "95 %", "step_latency_p99": "99 %"},
        queries={f"autoemb_step_latency_seconds{ONE_RUN}": "{{quantile}}"},
        width=8,
    ),
    PanelSpec(
        title="Time by phase",
        description="Seconds of each reporting interval (two seconds) spent waiting, stepping, emitting.",
        unit="s",
        topic="runtime",
        fields={"phase_seconds_.+": ""},
        queries={f"autoemb_phase_seconds{ONE_RUN}": "{{phase}}"},
        width=8,
    ),
    PanelSpec(
        title="Checkpoint age",
        description="Since the newest checkpoint. It grows without harm while no interactions come.",
        unit="s",
        topic="runtime",
        fields={"checkpoint_age_seconds": "age"},
        queries={f"autoemb_checkpoint_age_seconds{ONE_RUN}": "age"},
        width=8,
    ),
    PanelSpec(
        title="Checkpoint size and memory",
        description="Bytes of the newest checkpoint, and of the trainer's resident memory.",
        unit="bytes",
        topic="runtime",
        fields={"checkpoint_bytes": "checkpoint", "rss_bytes": "memory"},
        queries={f"autoemb_checkpoint_size_bytes{ONE_RUN}": "checkpoint", f"autoemb_resident_memory_bytes{ONE_RUN}": "memory"},
        width=8,
    ),
)
ROWS: dict[str, tuple[PanelSpec, ...]] = {"Quality": QUALITY, "Dimensions": DIMENSIONS, "Operation": OPERATION}
