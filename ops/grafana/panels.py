"""What the two dashboards show: which metrics of the vocabulary stand together in a panel, and how they are drawn."""

from dataclasses import dataclass
from typing import Literal

from autoemb_pipeline.schemas.entry import Metric, Topic, Unit
from autoemb_pipeline.schemas.scores import (
    ACCURACY,
    CUMULATIVE,
    MODELS,
    SIDES,
    WINDOW,
    score_field,
)
from autoemb_pipeline.schemas.vocabulary import (
    ACCURACY_RATIO,
    BUCKET_DIMENSION,
    BUCKET_LOSS,
    BYTES_SHARE,
    CHECKPOINT_AGE,
    CHECKPOINT_SIZE,
    CONTEXT_BYTES,
    DEAD_LETTERS,
    DUPLICATES,
    EMBEDDING_BYTES,
    ENTROPY,
    GIVEN_UP,
    GIVEN_UP_HIGH,
    GIVEN_UP_LOW,
    IDS_OF_SPACE,
    INTERACTIONS,
    LAG,
    LATE,
    LOSS,
    MEMORY,
    PHASES,
    REMOVED_BLOCKS,
    REMOVED_IDS,
    SKIPPED,
    STEP_LATENCY,
    THROUGHPUT,
    TOTAL_SHARE,
    WAITING_INTERACTIONS,
    WEIGHT,
)

BUCKETS = ("0", *(str(2**power) for power in range(15)))  # lower bounds of the popularity buckets
LOSS_VARIABLE = "${loss}"  # mse or cross_entropy: the dashboard's variable
_RUN = 'instance=~"$instance"'
_NUMBERS = "_[0-9]+"  # keys of a map whose entries are dimensions or buckets
_UNITS: dict[Unit, str] = {
    "ratio": "percentunit",
    "s": "s",
    "bytes": "bytes",
    "interactions/s": "ops",
    "records": "short",
    "interactions": "short",
    "ids": "short",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PanelSpec:
    """One panel of both dashboards.

    Attributes:
        title, description: as Grafana shows them.
        metrics: shown together; of one topic, in one unit of Grafana's.
        fields: regular expression without ``|`` or groups (matched whole) -> display name; "" keeps the field's own.
        queries: PromQL -> legend.
        kind: `lines` over time, or `bars` of the newest values.
        width: of 24 columns.
        limits: of the axis.
        decimals: of bars.
    """

    title: str
    description: str
    metrics: tuple[Metric, ...]
    fields: dict[str, str]
    queries: dict[str, str]
    kind: Literal["lines", "bars"] = "lines"
    width: int = 8
    limits: tuple[float, float] | None = None
    decimals: int = 0

    @property
    def topic(self) -> Topic:
        """Of the fields."""
        return self.metrics[0].topic

    @property
    def unit(self) -> str:
        """Grafana's id of the unit."""
        return _UNITS.get(self.metrics[0].unit, "none")


def _query(metric: Metric, **labels: str) -> str:
    """PromQL: the metric's series of the chosen trainer with these labels."""
    chosen = [f'{label}="{value}"' for label, value in labels.items()]
    return f"{metric.name}{{{','.join([*chosen, _RUN])}}}"


def _scores(metric: Metric, score: str, average: str, title: str, width: int) -> PanelSpec:
    """The method beside the references."""
    return PanelSpec(
        title=title,
        description=f"{metric.help} The references see the same interactions under the same rules.",
        metrics=(metric,),
        fields={score_field(model, score, average): model.title for model in MODELS},
        queries={_query(metric, kind=average): "{{model}}"},
        width=width,
    )


def _of_side(metric: Metric, side: str, *, kind: Literal["lines", "bars"], legend: str, decimals: int = 0) -> PanelSpec:
    """A map of numbers for users or items."""
    return PanelSpec(
        title=f"{metric.title}, {side}s",
        description=metric.help,
        metrics=(metric,),
        fields={f"{metric.field.format(side=side)}{_NUMBERS}": ""},
        queries={_query(metric, side=side): legend},
        kind=kind,
        limits=(0.0, 1.0) if metric.unit == "ratio" else None,
        decimals=decimals,
    )


def _plain(*metrics: Metric, title: str | None = None, width: int = 8) -> PanelSpec:
    """Metrics of one field each; several stand with their own titles."""
    return PanelSpec(
        title=title or metrics[0].title,
        description=" ".join(metric.help if len(metrics) == 1 else f"{metric.title}: {metric.help}" for metric in metrics),
        metrics=metrics,
        fields={metric.field: metric.title.lower() for metric in metrics},
        queries={_query(metric): metric.title.lower() for metric in metrics},
        width=width,
    )


def _both_sides(metric: Metric, title: str, width: int = 8) -> PanelSpec:
    """One number for users beside that for items."""
    return PanelSpec(
        title=title,
        description=metric.help,
        metrics=(metric,),
        fields={field: f"{side}s" for (side,), field in metric.fields()},
        queries={_query(metric): "{{side}}s"},
        width=width,
    )


_THROUGHPUT = PanelSpec(
    title=THROUGHPUT.title,
    description=THROUGHPUT.help,
    metrics=(THROUGHPUT,),
    fields={THROUGHPUT.field: THROUGHPUT.unit},
    queries={f"rate({_query(INTERACTIONS)}[$__rate_interval])": THROUGHPUT.unit},
)
_LATENCY = PanelSpec(
    title=STEP_LATENCY.title,
    description=STEP_LATENCY.help,
    metrics=(STEP_LATENCY,),
    fields={field: f"{float(quantile):.0%}" for (quantile,), field in STEP_LATENCY.fields()},
    queries={_query(STEP_LATENCY): "{{quantile}}"},
)
_PHASES = PanelSpec(
    title=PHASES.title,
    description=PHASES.help,
    metrics=(PHASES,),
    fields={f"{PHASES.field}_.+": ""},
    queries={_query(PHASES): "{{phase}}"},
)

ROWS: dict[str, tuple[PanelSpec, ...]] = {
    "Quality": (
        _scores(LOSS, LOSS_VARIABLE, WINDOW, f"{LOSS.title}, sliding window", 12),
        _scores(LOSS, LOSS_VARIABLE, CUMULATIVE, f"{LOSS.title} since the beginning", 12),
        _scores(ACCURACY_RATIO, ACCURACY, WINDOW, f"{ACCURACY_RATIO.title}, sliding window", 8),
        _both_sides(ENTROPY, "Entropy of the controllers"),
        _plain(LATE, DUPLICATES, DEAD_LETTERS, SKIPPED, title="Late, duplicate, dead, left out"),
    ),
    "Dimensions": tuple(
        panel
        for side in SIDES
        for panel in (
            _of_side(WEIGHT, side, kind="lines", legend="dimension {{dimension}}"),
            _of_side(BUCKET_LOSS, side, kind="bars", legend="{{popularity}}", decimals=4),
            _of_side(BUCKET_DIMENSION, side, kind="bars", legend="{{popularity}}", decimals=1),
        )
    ),
    "Bytes and what they are worth": (
        _plain(EMBEDDING_BYTES, CONTEXT_BYTES, title="Bytes kept", width=12),
        _plain(BYTES_SHARE, TOTAL_SHARE, title="Share of the fixed size's bytes", width=12),
        _plain(GIVEN_UP, GIVEN_UP_LOW, GIVEN_UP_HIGH, title=GIVEN_UP.title),
        *(_of_side(IDS_OF_SPACE, side, kind="lines", legend="dimension {{dimension}}") for side in SIDES),
        _both_sides(REMOVED_BLOCKS, REMOVED_BLOCKS.title, 12),
        _both_sides(REMOVED_IDS, REMOVED_IDS.title, 12),
    ),
    "Operation": (
        _THROUGHPUT,
        _plain(LAG, WAITING_INTERACTIONS, title=LAG.title),
        _LATENCY,
        _PHASES,
        _plain(CHECKPOINT_AGE),
        _plain(CHECKPOINT_SIZE, MEMORY, title="Checkpoint size and memory"),
    ),
}
