"""The commands on a real broker: what they show of two real runs, in a pipe, in a terminal, and as a file."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from autoemb_pipeline.cli.main import cli
from autoemb_pipeline.errors import ConfigurationError, StateError, TopicError
from autoemb_pipeline.ops.brokers.process import free_port
from autoemb_pipeline.ops.grafana.generate import TOPICS
from autoemb_pipeline.ops.metrics.reader import MetricsReader, flat_json
from autoemb_pipeline.schemas.metrics import PREQUENTIAL
from autoemb_pipeline.schemas.notices import given_up_text, share_text
from tests.ops.grafana.test_dashboards import check_kafka_panels
from tests.ops.watch.conftest import EVENTS, SETTINGS, Watched

pytestmark = pytest.mark.kafka


def records(watched: Watched, kind: str) -> list[dict]:
    topic = watched.metrics if kind == "metrics" else watched.runtime
    found = []
    with MetricsReader({"bootstrap.servers": watched.servers}, topic, kind) as reader:
        while not reader.caught_up:
            found += reader.poll(1)
        assert reader.skipped == 0
    return found


@pytest.fixture
def own_topics(watched: Watched, make_topic: Callable[..., str], topic_name: str) -> tuple[list[str], str]:
    """A copy of the topics that a test may write to: the command's options, and the metrics topic."""
    metrics, runtime = make_topic(f"{topic_name}.metrics"), make_topic(f"{topic_name}.runtime")
    producer = Producer({"bootstrap.servers": watched.servers})
    for kind, topic in (("metrics", metrics), ("runtime", runtime)):
        for record in records(watched, kind):
            producer.produce(topic, json.dumps(flat_json(kind, record)).encode(), f"{record['run_id']}:{record['step']}".encode())
    assert producer.flush(20) == 0
    return ["--metrics-topic", metrics, "--runtime-topic", runtime, "--bootstrap-servers", watched.servers], metrics


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from autoemb_pipeline.cli.main import main; main()", *arguments]


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM")}
    return {**kept, "TERM": "xterm-256color", **changes}


def test_once_shows_the_newest_run_in_words(watched: Watched, topics: list[str]) -> None:
    done = subprocess.run(
        program("watch", "--once", *topics), capture_output=True, text=True, timeout=60, check=True, env=environment(COLUMNS="100")
    )
    assert "\x1b" not in done.stdout
    own = [record for record in records(watched, "metrics") if record["run_id"] == watched.newest_run]
    newest = own[-1]
    assert newest["batch_examples"] == 0  # the rubbish at the stream's end is a step of its own
    for expected in (
        watched.newest_run,
        f"{newest['mse']:.4f}",
        share_text(newest["bytes_share_of_fixed"]),
        given_up_text(newest),
        "1,050 interactions",
        "dead letters 1",
    ):
        assert expected in done.stdout
    assert watched.older_run not in done.stdout


def test_json_for_pipes_is_the_record_of_the_topic(watched: Watched, topics: list[str]) -> None:
    result = CliRunner().invoke(cli, ["watch", "--once", "--json", "--run-id", watched.older_run, *topics], catch_exceptions=False)
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert [line.pop("kind") for line in lines] == ["metrics", "runtime"]
    older = [record for record in records(watched, "metrics") if record["run_id"] == watched.older_run]
    assert lines[0] == flat_json("metrics", older[-1])
    assert lines[1]["run_id"] == watched.older_run


def test_an_unknown_run_and_topics_that_are_not_there(watched: Watched, topics: list[str]) -> None:
    result = CliRunner().invoke(cli, ["watch", "--once", "--run-id", "nobody", *topics])
    assert isinstance(result.exception, StateError)
    missing = CliRunner().invoke(cli, ["watch", "--once", "--metrics-topic", "nowhere", "--bootstrap-servers", watched.servers])
    assert isinstance(missing.exception, TopicError)
    with pytest.raises(TopicError, match="no topic nowhere"):
        MetricsReader({"bootstrap.servers": watched.servers}, "nowhere", "metrics")


def test_a_run_that_begins_is_followed_in_a_pipe(watched: Watched, own_topics: tuple[list[str], str]) -> None:
    """New records of a third run appear as lines; the end of the pipe's reader or a signal ends it."""
    topics, metrics = own_topics
    process = subprocess.Popen(
        program("watch", "--interval", "0.2", *topics), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(watched.newest_run)
        template = [record for record in records(watched, "metrics") if record["run_id"] == watched.newest_run][-1]
        producer = Producer({"bootstrap.servers": watched.servers})
        record = {**template, "run_id": "a-third-run", "step": 1, "mse": 0.125}
        producer.produce(metrics, PREQUENTIAL.to_json(record), b"a-third-run:1", 0)
        producer.produce(metrics, b"{not json", b"noise", 0)
        assert producer.flush(20) == 0
        line = process.stdout.readline()
        assert line.startswith("a-third-run  step 1  ")
        assert "mse 0.1250" in line
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_records_of_aborted_transactions_are_not_shown(watched: Watched, own_topics: tuple[list[str], str]) -> None:
    topics, metrics = own_topics
    producer = Producer({"bootstrap.servers": watched.servers, "transactional.id": f"{metrics}-abort"})
    producer.init_transactions(20)
    producer.begin_transaction()
    record = {**records(watched, "metrics")[0], "run_id": "aborted-run"}
    producer.produce(metrics, PREQUENTIAL.to_json(record), b"aborted-run:1", 0)
    producer.flush(20)
    producer.abort_transaction(20)
    result = CliRunner().invoke(cli, ["watch", "--once", *topics], catch_exceptions=False)
    assert "aborted-run" not in result.output


def test_in_a_terminal_without_and_with_colours(watched: Watched, topics: list[str], tmp_path: Path) -> None:
    tmux = shutil.which("tmux")
    if tmux is None:
        pytest.skip("needs tmux: apt-get install tmux")
    socket = tmp_path / "tmux"
    own = environment(LANG="C.UTF-8", LC_ALL="C.UTF-8")

    def call(*arguments: str) -> str:
        line = [tmux, "-S", str(socket), *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=30, check=True, env=own).stdout

    command = " ".join(f"'{part}'" for part in program("watch", "--run-id", watched.newest_run, *topics))
    pictures = {}
    for name, prefix in (("plain", "NO_COLOR=1 "), ("coloured", "")):
        call("-f", "/dev/null", "new-session", "-d", "-s", name, "-x", "100", "-y", "30", f"cd {Path.cwd()} && {prefix}{command}")
        deadline = time.monotonic() + 40
        while "memory" not in (picture := call("capture-pane", "-p", "-t", name)):
            assert time.monotonic() < deadline, picture
            time.sleep(0.3)
        pictures[name] = call("capture-pane", "-p", "-e", "-t", name)
        assert "▁" in picture
        assert "held, rare → popular" in picture
        call("send-keys", "-t", name, "C-c")
    call("kill-server")
    assert "\x1b[36m" not in pictures["plain"]
    assert "\x1b[1m\x1b[36m" in pictures["coloured"] or "36m" in pictures["coloured"]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_export_is_the_topic_as_a_table(watched: Watched, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"metrics.{suffix}"
    arguments = ["metrics", "export", "--output", str(output), "--topic", watched.metrics, "--bootstrap-servers", watched.servers]
    for run in (watched.older_run, watched.newest_run):
        arguments += ["--run-id", run]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    table = pl.read_parquet(output) if suffix == "parquet" else pl.read_csv(output, try_parse_dates=True)
    wanted = [r for r in records(watched, "metrics") if r["run_id"] in (watched.older_run, watched.newest_run)]
    assert result.output == f"{output}: {len(wanted)} rows\n"
    assert table["step"].to_list() == [record["step"] for record in wanted]
    assert table["mse"].to_list() == [record["mse"] for record in wanted]
    assert table["user_weight_128"].to_list() == [(record["user_weight"] or {}).get("128") for record in wanted]
    assert table["next_offsets_0"][-1] == wanted[-1]["next_offsets"]["0"]
    assert table["event_time"][-1] is None  # the last step only passed the dead letter
    assert table["event_time"][-2].timestamp() * 1000 == wanted[-2]["event_time"]
    assert [name for name in table.columns if name.startswith("user_bucket_count_")][:3] == [f"user_bucket_count_{b}" for b in (0, 1, 2)]
    assert not list(tmp_path.glob("*.tmp*"))


def test_export_of_the_runtime_topic_and_what_it_refuses(watched: Watched, tmp_path: Path) -> None:
    output = tmp_path / "runtime.parquet"
    shared = ["--bootstrap-servers", watched.servers]
    CliRunner().invoke(
        cli, ["metrics", "export", "--runtime", "--topic", watched.runtime, "--output", str(output), *shared], catch_exceptions=False
    )
    table = pl.read_parquet(output)
    assert set(table["run_id"]) == {watched.older_run, watched.newest_run}
    assert table.schema["wall_time"] == pl.Datetime("ms", "UTC")
    wrong = CliRunner().invoke(cli, ["metrics", "export", "--topic", watched.metrics, "--output", str(tmp_path / "x.txt"), *shared])
    assert isinstance(wrong.exception, ConfigurationError)
    nobody = CliRunner().invoke(
        cli, ["metrics", "export", "--topic", watched.metrics, "--run-id", "nobody", "--output", str(tmp_path / "x.csv"), *shared]
    )
    assert isinstance(nobody.exception, StateError)
    assert not (tmp_path / "x.csv").exists()


def test_every_dashboard_panel_draws_something_of_these_runs(watched: Watched) -> None:
    rows = {TOPICS[kind]: [flat_json(kind, record) for record in records(watched, kind)] for kind in ("metrics", "runtime")}
    check_kafka_panels(rows, "mse", watched.newest_run)


def test_kcat_reads_the_topics_as_documented(watched: Watched) -> None:
    kcat = shutil.which("kcat")
    if kcat is None:
        pytest.skip("needs kcat: apt-get install kcat")
    commands = [line.removeprefix("$ ") for line in _documented_commands() if line.startswith("$ kcat")]
    assert len(commands) >= 3
    named = {"autoemb.metrics": watched.metrics, "autoemb.runtime": watched.runtime, "interactions.dlq": f"{watched.interactions}.dlq"}
    outputs = []
    for command in commands:
        for documented, real in named.items():
            command = command.replace(f" {documented}", f" {real}")  # noqa: PLW2901
        command = command.replace("localhost:9092", watched.servers).replace("kcat", kcat, 1)  # noqa: PLW2901
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout.strip(), command
        outputs.append(done.stdout)
    whole = [json.loads(line) for line in outputs[0].splitlines()]
    assert {record["run_id"] for record in whole} >= {watched.older_run, watched.newest_run}
    assert max(record["examples"] for record in whole) == EVENTS
    assert any("reason=" in output or "reason" in output for output in outputs)


def _documented_commands() -> list[str]:
    page = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"
    return page.read_text(encoding="utf-8").splitlines()


def test_train_serves_its_metrics_to_prometheus(watched: Watched, topics: list[str], tmp_path: Path) -> None:
    """A live trainer, not ended: what a scrape finds is what `watch` finds on the topics."""
    port = free_port()
    arguments = ["train", "--topic", watched.interactions, "--method", "fse", "--preset", "paper", "--batch-size", "50", "--threads", "1"]
    arguments += ["--run-id", f"{watched.interactions}-scraped", "--state-dir", str(tmp_path / "state"), "--device", "cpu", *topics]
    arguments += [part for setting in SETTINGS["paper"] for part in ("--set", setting)] + ["--prometheus", str(port)]
    process = subprocess.Popen(program(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        found: dict[str, dict[str, str]] = {}
        deadline = time.monotonic() + 90
        while found.get("autoemb_interactions_total", {}).get("value") != "1050.0":
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                families = text_string_to_metric_families(answer.read().decode())
                found = {s.name: {**s.labels, "value": str(s.value)} for family in families for s in family.samples}
        assert found["autoemb_run_info"]["run_id"] == f"{watched.interactions}-scraped"
        assert found["autoemb_run_info"]["method"] == "fse"
        process.terminate()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "stopped" in output
    finally:
        process.kill()
        process.communicate()
