"""Dashboards and alerts: current, and naming only what there is. Every panel's query is run against records of a real run."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoemb_pipeline.ops.grafana.generate import FOLDER, LAST_RECORDS, TOPICS, rendered
from autoemb_pipeline.schemas.vocabulary import METRICS
from tests.ops.recorded import flat, recorded

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "ops" / "prometheus" / "rules" / "autoemb.yml"
METRIC_NAME = re.compile(r"\bautoemb_[a-z_]+")
TASKS = {"mse": "binary", "cross_entropy": "rating"}


def panels(name: str) -> list[dict[str, Any]]:
    document = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def transformation(panel: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [t["options"] for t in panel["transformations"] if t["id"] == name]
    return found


def run_query(panel: dict[str, Any], topics: dict[str, list[dict[str, Any]]], variables: dict[str, str]) -> dict[str, list[Any]]:
    """What the panel would draw: the target's last records as rows, the rows of the run, the columns that the pattern names."""

    def filled(text: str) -> str:
        return re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda m: variables[m[1] or m[2]], text)

    (target,) = panel["targets"]
    rows = topics[target["topicName"]][-target["lastN"] :]
    (run,) = transformation(panel, "filterByValue")["filters"]
    assert run["config"]["id"] == "regex"
    rows = [row for row in rows if re.search(filled(run["config"]["options"]["value"]), row[run["fieldName"]])]
    pattern = re.fullmatch(r"/(.*)/", filled(transformation(panel, "filterFieldsByName")["include"]["pattern"]))
    assert pattern is not None
    columns = {name for row in rows for name in row if re.search(pattern[1], name)}
    for alternative in re.fullmatch(r"\^\(Time\|(.*)\)\$", pattern[1])[1].split("|"):  # type: ignore[index]
        assert any(re.fullmatch(alternative, name) for name in columns), (panel["title"], alternative)
    return {name: [row.get(name) for row in rows] for name in columns}


def check_kafka_panels(topics: dict[str, list[dict[str, Any]]], loss: str, run: str) -> None:
    for panel in panels("autoemb-kafka.json"):
        drawn = run_query(panel, topics, {"loss": loss, "run": run})
        for name, values in drawn.items():
            assert any(isinstance(value, int | float) for value in values), (panel["title"], name)
        for override in panel["fieldConfig"].get("overrides", []):
            pattern = override["matcher"]["options"].strip("/")
            assert any(re.search(pattern, name) for name in drawn), (panel["title"], pattern)
        if panel["type"] == "bargauge":
            order = transformation(panel, "organize")["indexByName"]
            assert set(drawn) <= set(order)


def test_the_committed_dashboards_are_current() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert committed == rendered(), "run: python -m autoemb_pipeline.ops.grafana.generate"


@pytest.mark.parametrize("loss", sorted(TASKS))
def test_every_kafka_panel_finds_its_fields_in_the_records(loss: str) -> None:
    metrics, runtime = flat(*recorded(task=TASKS[loss]))
    check_kafka_panels({TOPICS["metrics"]: [metrics], TOPICS["runtime"]: [runtime]}, loss, metrics["run_id"])


def test_a_renamed_field_would_be_noticed() -> None:
    metrics, runtime = flat(*recorded())
    runtime["records_behind"] = runtime.pop("lag")
    with pytest.raises(AssertionError, match="Lag"):
        check_kafka_panels({TOPICS["metrics"]: [metrics], TOPICS["runtime"]: [runtime]}, "mse", ".*")


def test_panels_do_not_share_a_stream_and_name_provisioned_datasources() -> None:
    kafka = [target for panel in panels("autoemb-kafka.json") for target in panel["targets"]]
    assert len({target["refId"] for target in kafka}) == len(kafka)
    assert {target["lastN"] for target in kafka} == {LAST_RECORDS}
    provisioned = yaml.safe_load((ROOT / "ops/grafana/provisioning/datasources/autoemb.yml").read_text())["datasources"]
    known = {(source["type"], source["uid"]) for source in provisioned}
    used = {(p["datasource"]["type"], p["datasource"]["uid"]) for name in rendered() for p in panels(name)}
    assert used == known


def test_both_dashboards_show_the_same_panels_in_full_rows() -> None:
    titles = [[panel["title"] for panel in panels(name)] for name in sorted(rendered())]
    assert titles[0] == titles[1]
    for name in rendered():
        widths: dict[int, int] = {}
        for panel in panels(name):
            widths[panel["gridPos"]["y"]] = widths.get(panel["gridPos"]["y"], 0) + panel["gridPos"]["w"]
        assert set(widths.values()) == {24}


def test_dashboards_and_alerts_name_only_metrics_that_exist() -> None:
    exposed = {spec.name for spec in METRICS}
    expressions = [target["expr"] for panel in panels("autoemb-prometheus.json") for target in panel["targets"]]
    rules = [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert len(rules) == 5
    for expression in expressions + rules:
        named = set(METRIC_NAME.findall(expression))
        assert named
        assert named <= exposed, expression


def test_legends_name_labels_that_exist() -> None:
    labels = {spec.name: set(spec.labels) for spec in METRICS}
    for panel in panels("autoemb-prometheus.json"):
        for target in panel["targets"]:
            (name,) = METRIC_NAME.findall(target["expr"])
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels[name]
            assert set(re.findall(r"(\w+)=~?\"", target["expr"])) - {"instance"} <= labels[name]


def test_promtool_fires_every_alert_and_none_in_ordinary_life(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    scenario = tmp_path / "alerts_test.yml"
    scenario.write_text((Path(__file__).with_name("alerts_test.yml")).read_text().replace("RULES", str(RULES)))
    tested = set(re.findall(r"alertname: (\w+)", scenario.read_text()))
    assert tested == {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    for arguments in (["check", "rules", "--lint-fatal", str(RULES)], ["test", "rules", str(scenario)]):
        done = subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
