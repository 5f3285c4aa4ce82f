"""Generates the dashboards; a test fails while they are out of date: ``python -m autoemb_pipeline.ops.grafana.generate`` rewrites them.

Needs the extra ``test`` (grafana-foundation-sdk). The Kafka datasource (hamedkarbasi93-kafka-datasource) streams each record as one row of
a frame whose columns are the flat JSON's fields; panels choose columns by name and, with the variable `run`, rows by run_id.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from autoemb_pipeline.ops.grafana.panels import BUCKETS, LOSS_VARIABLE, ROWS, PanelSpec
from autoemb_pipeline.schemas.scores import LOSSES
from autoemb_pipeline.schemas.vocabulary import RUN_INFO

FOLDER = Path(__file__).with_name("dashboards")
TOPICS = {"metrics": "autoemb.metrics", "runtime": "autoemb.runtime"}
LAST_RECORDS = 300  # of each panel, 5 KB each: more would make opening the dashboard slow
_KAFKA = models.DataSourceRef(type_val="hamedkarbasi93-kafka-datasource", uid="autoemb-kafka")
_PROMETHEUS = models.DataSourceRef(type_val="prometheus", uid="autoemb-prometheus")
_LOSS_FIELDS = [loss.field for loss in LOSSES.values()]
_PANEL_HEIGHT = 8

PanelBuilder = timeseries.Panel | bargauge.Panel | stat.Panel


class KafkaQuery(Dataquery):
    """A target of the Kafka datasource plugin; the SDK knows none."""

    def __init__(self, topic: str, ref_id: str) -> None:
        self._topic = topic
        self._ref_id = ref_id

    def to_json(self) -> dict[str, object]:
        """The plugin's query model, version 1.7."""
        return {
            "refId": self._ref_id,
            "datasource": _KAFKA.to_json(),
            "topicName": self._topic,
            "partition": "all",
            "autoOffsetReset": "lastN",
            "lastN": LAST_RECORDS,
            "timestampMode": "message",
            "messageFormat": "json",
            "keyFormat": "none",
        }


class _Built(Builder[Dataquery]):
    def __init__(self, query: Dataquery) -> None:
        self._query = query

    def build(self) -> Dataquery:
        return self._query


def _panel(spec: PanelSpec) -> PanelBuilder:
    panel: PanelBuilder
    if spec.kind == "bars":
        panel = bargauge.Panel().orientation(common_models.VizOrientation.HORIZONTAL)
        panel.display_mode(common_models.BarGaugeDisplayMode.BASIC)
        panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        panel.decimals(spec.decimals)
    else:
        panel = timeseries.Panel().line_width(2).fill_opacity(0).show_points(common_models.VisibilityMode.NEVER)
        panel.tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
        panel.legend(common.VizLegendOptions().show_legend(True).placement(common_models.LegendPlacement.BOTTOM))
    panel.title(spec.title).description(spec.description).unit(spec.unit).span(spec.width).height(_PANEL_HEIGHT)
    if spec.limits:
        panel.min(spec.limits[0]).max(spec.limits[1])
    return panel


def kafka_panel(spec: PanelSpec, number: int) -> PanelBuilder:
    """A panel on a topic. `number`: of the panel on its dashboard.

    Grafana shares a stream among equal queries, and a panel that joins late would miss the history: hence a refId of its own.
    """
    panel = _panel(spec).datasource(_KAFKA).with_target(_Built(KafkaQuery(TOPICS[spec.topic], f"P{number}")))
    run = {"fieldName": "run_id", "config": {"id": "regex", "options": {"value": "$run"}}}
    panel.with_transformation(
        models.DataTransformerConfig(id_val="filterByValue", options={"filters": [run], "type": "include", "match": "all"})
    )
    pattern = f"/^({'|'.join(['Time', *spec.fields])})$/"
    panel.with_transformation(models.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"pattern": pattern}}))
    if spec.kind == "bars":  # fields come in alphabetical order: 0, 1, 1024, 128, ...
        prefix = next(iter(spec.fields)).removesuffix("[0-9]+")
        order = {f"{prefix}{bucket}": place for place, bucket in enumerate(BUCKETS)}
        names = {f"{prefix}{bucket}": bucket for bucket in BUCKETS}
        panel.with_transformation(models.DataTransformerConfig(id_val="organize", options={"indexByName": order, "renameByName": names}))
    losses = f"({'|'.join(_LOSS_FIELDS)})"
    for field, name in spec.fields.items():
        if name:
            matcher = f"/^{field.replace(LOSS_VARIABLE, losses)}$/"  # variables are not replaced in matchers
            panel.override_by_regexp(matcher, [models.DynamicConfigValue(id_val="displayName", value=name)])
    return panel


def prometheus_panel(spec: PanelSpec, number: int) -> PanelBuilder:
    """The same panel from the Prometheus endpoint's metrics."""
    del number
    panel = _panel(spec).datasource(_PROMETHEUS)
    for place, (expression, legend) in enumerate(spec.queries.items()):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + place))
        panel.with_target(query.instant() if spec.kind == "bars" else query.range())
    return panel


def kafka_dashboard() -> dashboard.Dashboard:
    """The metrics and runtime topics, streamed."""
    board = _board("autoemb-kafka", "AutoEmb: topics", "From the metrics and runtime topics, through the Kafka datasource.", kafka_panel)
    loss = dashboard.CustomVariable("loss").label("Loss").values(",".join(_LOSS_FIELDS))
    loss.description(", ".join(f"{loss.field} for the {task} task" for task, loss in LOSSES.items()))
    loss.current(models.VariableOption(selected=True, text=_LOSS_FIELDS[0], value=_LOSS_FIELDS[0]))
    run = dashboard.TextBoxVariable("run").label("Run").default_value(".*").description("A regular expression of run ids.")
    return board.with_variable(run).with_variable(loss)


def prometheus_dashboard() -> dashboard.Dashboard:
    """The Prometheus endpoint."""
    board = _board("autoemb-prometheus", "AutoEmb: Prometheus", "From the trainer's Prometheus endpoint.", prometheus_panel)
    instance = (
        dashboard.QueryVariable("instance").label("Trainer").datasource(_PROMETHEUS).query(f"label_values({RUN_INFO.name}, instance)")
    )
    instance.include_all(True).all_value(".*").refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    instance.current(models.VariableOption(selected=True, text="All", value="$__all"))
    return board.with_variable(instance)


def _board(uid: str, title: str, description: str, make: Callable[[PanelSpec, int], PanelBuilder]) -> dashboard.Dashboard:
    board = dashboard.Dashboard(title).uid(uid).description(description).tags(["autoemb"]).readonly().time("now-15m", "now").refresh("5s")
    board.tooltip(models.DashboardCursorSync.CROSSHAIR).timezone("browser")
    number = 0
    for row, specs in ROWS.items():
        board.with_row(dashboard.Row(row))
        for spec in specs:
            number += 1
            board.with_panel(make(spec, number))
    return board


def rendered() -> dict[str, str]:
    """File name -> JSON, as committed."""
    boards = {"autoemb-kafka.json": kafka_dashboard(), "autoemb-prometheus.json": prometheus_dashboard()}
    return {name: _json(board) for name, board in boards.items()}


def _json(board: dashboard.Dashboard) -> str:
    document: dict[str, Any] = json.loads(json.dumps(board.build(), cls=JSONEncoder))
    for number, panel in enumerate(document["panels"], start=1):
        panel["id"] = number  # stable links
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Rewrites the committed dashboards."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
