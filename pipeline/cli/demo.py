"""`autoemb-pipeline demo`: broker, replay, training and live metrics in one command."""

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import structlog
from rich.console import Console
from rich.live import Live

from autoemb_pipeline.cli.options import stop_on_signals
from autoemb_pipeline.cli.progress import describe
from autoemb_pipeline.cli.replay import dataset_options, progress_bar
from autoemb_pipeline.cli.replay import describe as describe_replay
from autoemb_pipeline.cli.run_options import train_options
from autoemb_pipeline.config import Ports, run_config
from autoemb_pipeline.errors import DatasetError
from autoemb_pipeline.ops.brokers.command import make_broker
from autoemb_pipeline.ops.brokers.process import free_port
from autoemb_pipeline.ops.topics import ensure_interactions_topic, ensure_metrics_topics, topic_id
from autoemb_pipeline.ops.watch.live_view import one_line, picture
from autoemb_pipeline.ops.watch.run_history import Histories
from autoemb_pipeline.producers.config import ReplayConfig
from autoemb_pipeline.producers.datasets.catalogue import load_dataset
from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.replay import replay
from autoemb_pipeline.run import RunSummary, train
from autoemb_pipeline.schemas.metrics import PREQUENTIAL, RUNTIME
from autoemb_pipeline.schemas.registry import InteractionDecoder
from autoemb_pipeline.schemas.scores import LOGISTIC, score_field, scored

TOPIC = "interactions"
_REAL = "ml-latest-small"


class DemoView:
    """What `watch` shows, twice a second on a terminal, else a line now and then."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live
        self._histories = Histories()

    def __call__(self, metrics: Mapping[str, Any], runtime: Mapping[str, Any]) -> None:
        """Observer of the main path: records as the topics will hold them."""
        self._histories.add("runtime", [RUNTIME.normalise(runtime)])
        if metrics:
            self._histories.add("metrics", [PREQUENTIAL.normalise({"run_id": runtime["run_id"], **metrics})])
        history = self._histories.current
        if self._console.is_terminal:
            self._live.update(picture(history, self._console), refresh=True)
        elif metrics and history is not None:
            self._console.print(one_line(history), highlight=False, soft_wrap=True)


def demo_dataset(spec: str | None, data_dir: Path | None, console: Console) -> SortedDataset:
    """The named dataset, else ml-latest-small if it can be had, else the synthetic one, saying so."""
    options = dataset_options(data_dir, console)
    if spec is not None:
        return load_dataset(spec, options)
    try:
        return load_dataset(_REAL, options)
    except DatasetError as error:
        console.print(f"{_REAL} cannot be had here ({error.what}): [bold]using synthetic data[/bold] instead.", highlight=False)
        console.print("For real data: AUTOEMB_DATA_DIR=FOLDER with FOLDER/ml-latest-small/ratings.csv\n", style="dim", highlight=False)
        return load_dataset("synthetic", options)


@click.command("demo")
@click.option("--dataset", metavar="NAME|PATH", help="As for replay. Default: ml-latest-small if it can be had, else synthetic.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N interactions.")
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder with NAME/ or NAME.zip. Default: AUTOEMB_DATA_DIR."
)
@train_options
def command(dataset: str | None, limit: int | None, data_dir: Path | None, **options: Any) -> int:
    """Start a broker, replay a dataset, train on it with live metrics, and sum up. Leaves nothing behind."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    console = Console(stderr=True)
    data = demo_dataset(dataset, data_dir, console)
    with ExitStack() as closing:
        scratch = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="autoemb-demo-")))
        stopping = closing.enter_context(stop_on_signals())
        broker = closing.enter_context(make_broker(os.environ, port=free_port(), data_dir=scratch / "broker"))
        kafka = {"bootstrap.servers": broker.bootstrap_servers}
        kind = "Apache Kafka" if broker.kind == "apache" else "embedded Tansu, in memory"
        console.print(f"broker     {kind} at {broker.bootstrap_servers}", highlight=False)
        ensure_interactions_topic(kafka, TOPIC, 1)
        with progress_bar(console, "replay") as show:
            result = replay(data, ReplayConfig(topic=TOPIC, limit=limit), kafka=kafka, progress=show, stop=stopping.is_set)
        console.print(f"replay     {describe_replay(result, data.length)}", highlight=False, soft_wrap=True)
        if stopping.is_set():
            return 130
        summary = _train(scratch / "state", kafka, console, stopping.is_set, options)
    click.echo(describe(summary, until_end=True, stopped=stopping.is_set()))
    if summary.trained:
        click.echo(_verdict(summary.metrics, data.name))
    return 130 if stopping.is_set() else 0


def _train(state_dir: Path, kafka: Mapping[str, str], console: Console, stop: Callable[[], bool], options: Mapping[str, Any]) -> RunSummary:
    config = run_config({**options, "topic": TOPIC, "state_dir": state_dir, "until_end": True, "predictions_kept": 0})
    ensure_metrics_topics(kafka, config.metrics_topic, config.runtime_topic, config.dead_letter_topic)
    with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
        observers = (DemoView(console, live),)
        decoder = InteractionDecoder(registry=None)
        return train(config, Ports(kafka=kafka, decoder=decoder, topic_id=topic_id(kafka, TOPIC), stop=stop, observers=observers))


def _verdict(metrics: Mapping[str, Any], dataset: str) -> str:
    loss = scored(metrics).field
    difference = metrics[loss] - metrics[score_field(LOGISTIC, loss)]
    against = "below" if difference < 0 else "above"
    return (
        f"on {dataset}, one epoch, every prediction before its label: {abs(difference):.4f} {against} the {LOGISTIC.title} reference\n"
        "next: autoemb-pipeline broker, then replay and train in two more terminals; see README.md"
    )
