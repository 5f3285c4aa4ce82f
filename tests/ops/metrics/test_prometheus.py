"""The endpoint: what it exposes, to prometheus_client's parser, to promtool, and to a real Prometheus."""

import json
import math
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.ops.brokers.process import free_port
from autoemb_pipeline.ops.metrics.endpoint import PrometheusExporter, parse_address
from autoemb_pipeline.schemas.vocabulary import METRICS
from tests.ops.recorded import RUN_ID, recorded

ROOT = Path(__file__).resolve().parents[3]


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install prometheus")
    return found


def test_every_metric_comes_from_the_records_of_a_real_run() -> None:
    metrics, runtime = recorded()
    with PrometheusExporter() as exporter:
        assert all(not name.startswith("autoemb") for name, _ in samples(scrape(exporter.port)))
        exporter.update(metrics, runtime)
        found = samples(scrape(exporter.port))
    assert {name for name, _ in found} == {spec.name for spec in METRICS}
    at = lambda name, **labels: found[name, tuple(sorted(labels.items()))]  # noqa: E731
    assert at("autoemb_interactions_total") == 300
    assert at("autoemb_late_interactions_total") == 6
    assert at("autoemb_prequential_loss", model="method", kind="cumulative") == metrics["mse"]
    assert at("autoemb_prequential_loss", model="logistic", kind="window") == metrics["logistic_mse_window"]
    assert at("autoemb_prequential_accuracy_ratio", model="running_mean", kind="fading") == metrics["running_mean_accuracy_fading"]
    assert at("autoemb_weight_ratio", side="item", dimension="128") == metrics["item_weight"]["128"]
    assert at("autoemb_bucket_weight_ratio", side="user", popularity="4", dimension="16") == metrics["user_bucket_weight"]["4_16"]
    assert at("autoemb_bucket_interactions_total", side="item", popularity="0") == metrics["item_bucket_count"]["0"]
    assert at("autoemb_ids", side="user", dimension="128") == metrics["user_ids_of_space"]["128"] > 0
    assert at("autoemb_embedding_bytes") == metrics["embedding_bytes"]
    assert at("autoemb_loss_given_up_high") == metrics["loss_given_up_high"]
    assert at("autoemb_loss_given_up_unresolved") == metrics["unresolved"]
    assert at("autoemb_next_offset", partition="0") == 300
    assert at("autoemb_lag_records") == 1234
    assert at("autoemb_waiting_interactions") == 300
    assert at("autoemb_batch_closes_in_seconds") == 7.25
    assert at("autoemb_positive_labels_ratio") == metrics["positive_share"]
    assert at("autoemb_step_latency_seconds", quantile="0.95") == runtime["step_latency_p95"]
    assert at("autoemb_event_timestamp_seconds") == metrics["event_time"] / 1000
    assert at("autoemb_run_info", run_id=RUN_ID, method="autoemb", task="binary", preset="stream", context_mode="event") == 1


def test_a_method_without_controllers_and_another_task() -> None:
    metrics, runtime = recorded("fse", "rating")
    with PrometheusExporter() as exporter:
        exporter.update(metrics, runtime)
        found = samples(scrape(exporter.port))
    names = {name for name, _ in found}
    assert "autoemb_weight_ratio" not in names
    assert "autoemb_bucket_loss" in names
    assert found["autoemb_prequential_loss", (("kind", "cumulative"), ("model", "method"))] == metrics["cross_entropy"]
    assert not any(math.isnan(value) for value in found.values())


def test_a_field_of_words_is_0_or_1() -> None:
    metrics, runtime = recorded()
    with PrometheusExporter() as exporter:
        seen = []
        for told in ({}, {"label_warning": "all-negative", "held_back_by": "partition 3 for 4 s"}):
            exporter.update({**metrics, **told}, {**runtime, **told})
            found = samples(scrape(exporter.port))
            seen.append((found["autoemb_one_sided_labels", ()], found["autoemb_held_back", ()]))
    assert seen == [(0, 0), (1, 1)]


def test_ages_grow_between_updates_and_an_empty_record_keeps_the_last() -> None:
    now = [1000.0]
    metrics, runtime = recorded()
    with PrometheusExporter(clock=lambda: now[0]) as exporter:
        exporter.update({}, runtime)
        assert ("autoemb_interactions_total", ()) not in samples(scrape(exporter.port))
        now[0] += 60
        exporter.update(metrics, {})
        found = samples(scrape(exporter.port))
    assert found["autoemb_checkpoint_age_seconds", ()] == 72.5
    assert found["autoemb_lag_records", ()] == 1234
    assert found["autoemb_interactions_total", ()] == 300


def test_promtool_finds_names_and_units_in_order() -> None:
    promtool = tool("promtool")
    with PrometheusExporter() as exporter:
        exporter.update(*recorded())
        text = scrape(exporter.port)
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_loopback_unless_told_otherwise_and_clear_errors() -> None:
    with PrometheusExporter() as exporter:
        assert exporter._server.server_address[0] == "127.0.0.1"
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{exporter.port}") as refused:
            PrometheusExporter(port=exporter.port)
        assert refused.value.why == "Address already in use"
        port = exporter.port
    with pytest.raises(urllib.error.URLError):
        scrape(port)
    exporter.close()
    with pytest.raises(ConfigurationError, match="cannot listen"):
        PrometheusExporter("203.0.113.7", 9464)


@pytest.mark.parametrize(
    ("text", "address"),
    [("9464", ("127.0.0.1", 9464)), (":9464", ("127.0.0.1", 9464)), ("0.0.0.0:1", ("0.0.0.0", 1)), ("[::1]:80", ("::1", 80))],  # noqa: S104
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:70000", "host:-1", "host:²"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no address"):
        parse_address(text)


@contextmanager
def prometheus(target: int, folder: Path) -> Iterator[Callable[[str, dict[str, str]], Any]]:
    """The real Prometheus with the project's own rules, scraping one port; -> ask(path, parameters)."""
    port = free_port()
    config = folder / "prometheus.yml"
    rules = ROOT / "ops" / "prometheus" / "rules" / "autoemb.yml"
    config.write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{rules}']\n"
        f"scrape_configs: [{{job_name: autoemb-trainer, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n"
    )
    command = [
        tool("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]

    def ask(path: str, parameters: dict[str, str]) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            yield ask
        finally:
            process.terminate()
            process.wait(30)


def eventually(look: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = look()
        except (urllib.error.URLError, ConnectionError):
            found = None
        if found:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_real_prometheus_scrapes_it_and_evaluates_rules_and_panels(tmp_path: Path) -> None:
    metrics, runtime = recorded()
    metrics = {**metrics, "dead_letters": 0}
    with PrometheusExporter() as exporter, prometheus(exporter.port, tmp_path) as ask:
        exporter.update(metrics, runtime)
        query = lambda text: ask("query", {"query": text})["result"]  # noqa: E731
        first = eventually(lambda: query("autoemb_interactions_total"))
        assert first[0]["value"][1] == "300"
        for spec in METRICS:
            assert query(spec.name), spec.name
        exporter.update({**metrics, "examples": 900, "dead_letters": 3, "step": 18}, runtime)
        eventually(lambda: query("increase(autoemb_dead_letters_total[1m]) > 0"))
        states = {rule["name"]: rule for group in ask("rules", {})["groups"] for rule in group["rules"]}
        assert {rule["health"] for rule in states.values()} <= {"ok", "unknown"}
        eventually(lambda: [a for a in ask("alerts", {})["alerts"] if a["labels"]["alertname"] == "AutoembDeadLetters"])
        dashboard = json.loads((ROOT / "ops" / "grafana" / "dashboards" / "autoemb-prometheus.json").read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                assert query(target["expr"].replace("$__rate_interval", "30s").replace("$instance", ".*")), (panel["title"], target["expr"])
