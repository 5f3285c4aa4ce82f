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
from rich.table import Table

from ops.brokers.command import make_broker
from ops.brokers.process import free_port
from ops.topics import ensure_interactions_topic, ensure_metrics_topics
from pipeline.assembly.config import RunConfig
from pipeline.cli.options import stop_on_signals
from pipeline.cli.progress import describe
from pipeline.cli.replay import dataset_options, progress_bar
from pipeline.cli.replay import describe as describe_replay
from pipeline.cli.train import learner_config, ports, resolve_device, settings_of, train_options, trainer_config
from pipeline.errors import DatasetError
from pipeline.run import RunSummary, train
from producers.datasets.catalogue import load_dataset
from producers.datasets.sorted_dataset import SortedDataset
from producers.replay import ReplayConfig, replay

TOPIC = "interactions"
_REAL = "ml-latest-small"


class LiveTable:
    """The method beside the references, twice a second on a terminal, else a line now and then."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live

    def __call__(self, metrics: Mapping[str, Any], runtime: Mapping[str, Any]) -> None:
        """Observer of the main path."""
        if not metrics:
            return
        if self._console.is_terminal:
            self._live.update(table(metrics, runtime), refresh=True)
        else:
            loss = "mse" if metrics["task"] == "binary" else "cross_entropy"
            self._console.print(
                f"{metrics['examples']:>9,} interactions   {metrics['method']} {metrics[loss]:.4f}   "
                f"running mean {metrics[f'running_mean_{loss}']:.4f}   logistic {metrics[f'logistic_{loss}']:.4f}   "
                f"{runtime['interactions_per_second']:,.0f}/s",
                highlight=False,
                soft_wrap=True,
            )


def table(metrics: Mapping[str, Any], runtime: Mapping[str, Any]) -> Table:
    """Prequential metrics so far: every prediction was made before its label was learnt."""
    loss = "mse" if metrics["task"] == "binary" else "cross_entropy"
    name = "MSE" if loss == "mse" else "cross-entropy"
    view = Table(
        title=f"step {metrics['step']}   {metrics['examples']:,} interactions   {runtime['interactions_per_second']:,.0f}/s   "
        f"lag {runtime['lag']:,}",
        title_justify="left",
    )
    view.add_column("prequential, context " + str(metrics["context_mode"]))
    for heading in (name, f"{name}, last 5,000", "accuracy", "accuracy, last 5,000"):
        view.add_column(heading, justify="right")
    models = ((f"{metrics['method']} ({metrics['preset']})", ""), ("running mean", "running_mean_"), ("logistic reference", "logistic_"))
    for label, prefix in models:
        values = (metrics[f"{prefix}{f}"] for f in (loss, f"{loss}_window", "accuracy", "accuracy_window"))
        view.add_row(label, *(f"{v:.4f}" for v in values), style="bold" if not prefix else "")
    for side in ("user", "item"):
        if metrics.get(f"{side}_weight"):
            weights = "  ".join(f"{d}: {w:.2f}" for d, w in metrics[f"{side}_weight"].items())
            view.add_row(f"{side} weights  {weights}", f"dim {metrics[f'{side}_dimension']:.1f}")
    return view


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
    config = _run_config(state_dir, options)
    ensure_metrics_topics(kafka, config.metrics_topic, config.runtime_topic, config.dead_letter_topic)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        return train(config, ports(config, kafka, None, stop, (LiveTable(console, live),)))


def _run_config(state_dir: Path, options: Mapping[str, Any]) -> RunConfig:
    learner = learner_config(
        options["method"], options["task"], options["preset"], options["seed"], resolve_device(options["device"]), settings_of(options)
    )
    return RunConfig(
        topic=TOPIC,
        state_dir=state_dir,
        trainer=trainer_config(learner, options["context"], options["positive_above"], options["window"], options["fading"]),
        batch_size=options["batch_size"],
        until_end=True,
        threads=options["threads"],
        predictions_kept=0,
    )


def _verdict(metrics: Mapping[str, Any], dataset: str) -> str:
    loss = "mse" if metrics["task"] == "binary" else "cross_entropy"
    difference = metrics[loss] - metrics[f"logistic_{loss}"]
    against = "below" if difference < 0 else "above"
    return (
        f"on {dataset}, one pass, every prediction before its label: {abs(difference):.4f} {against} the logistic reference\n"
        "next: autoemb-pipeline broker, then replay and train in two more terminals; see README.md"
    )
