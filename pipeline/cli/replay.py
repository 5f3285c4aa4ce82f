"""`autoemb-pipeline replay`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from autoemb_pipeline.cli.options import (
    EventTime,
    broker_options,
    configure_logging,
    kafka_settings,
    logging_options,
    open_registry,
    registry_option,
    stop_on_signals,
    together,
)
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.ops.topics import ensure_interactions_topic
from autoemb_pipeline.producers.config import ReplayConfig
from autoemb_pipeline.producers.datasets.catalogue import DatasetOptions, default_cache_dir, default_data_dir, load_dataset
from autoemb_pipeline.producers.datasets.shuffling import Order
from autoemb_pipeline.producers.datasets.ties import Ties
from autoemb_pipeline.producers.formats.named import Columns
from autoemb_pipeline.producers.progress import ReplayProgress, ReplayResult
from autoemb_pipeline.producers.replay import replay
from autoemb_pipeline.schemas.columnar import HEADER
from autoemb_pipeline.schemas.registry import InteractionDecoder


class Speed(click.ParamType[float | None]):
    """A multiple of event time, or `max`."""

    name = "x|max"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """None for max."""
        if value is None or value == "max":
            return None
        try:
            return float(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither a number nor max", param, ctx)


class Parsed(click.ParamType[Any]):
    """What a class's ``parse`` makes of the text."""

    def __init__(self, kind: type[Columns | Ties | Order]) -> None:
        self._kind = kind
        self.name = kind.__name__.lower()

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """An instance of the class."""
        if isinstance(value, self._kind):
            return value
        try:
            return self._kind.parse(str(value))
        except ConfigurationError as error:
            self.fail(f"{error.what}: {error.why}; {error.remedy}", param, ctx)


reading_options = together(
    click.option(
        "--columns",
        type=Parsed(Columns),
        metavar="ROLE=NAME,...",
        help="Of a CSV or Parquet file: user=...,item=...,rating=...,timestamp=...; usual names are recognised.",
    ),
    click.option(
        "--ties",
        type=Parsed(Ties),
        metavar="file|hash[:SEED]",
        help="Order within one timestamp: as in the files, or mixed by user and item. Default: hash for Netflix's days, else file.",
    ),
    click.option(
        "--order",
        type=Parsed(Order),
        metavar="timestamp|shuffled[:SEED]",
        default="timestamp",
        show_default=True,
        help="shuffled: who rated what in random order along the sorted times.",
    ),
)
"""How a dataset is read."""


def dataset_options(data_dir: Path | None, console: Console, **reading: Any) -> DatasetOptions:
    """Where datasets are looked for: --data-dir, else AUTOEMB_DATA_DIR; then the cache and the official address; `reading_options`."""
    last: dict[str, int] = {}

    def report(stage: str, done: int, total: int | None) -> None:
        tenth = 10 * done // total if total else 0
        if last.get(stage) != tenth and total:
            last[stage] = tenth
            console.print(f"[dim]{stage}: {10 * tenth}%[/dim]", highlight=False)

    return DatasetOptions(
        cache_dir=default_cache_dir(),
        data_dir=data_dir or default_data_dir(),
        notice=lambda text: console.print(text, highlight=False, markup=False),
        report=report,
        **reading,
    )


@contextmanager
def progress_bar(console: Console, description: str) -> Iterator[Callable[[ReplayProgress], None]]:
    """A bar with rate and time left; without a terminal, a line every tenth of the way."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("[yellow]{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=False) as bar:
        task: TaskID | None = None
        tenth = -1

        def show(state: ReplayProgress) -> None:
            nonlocal task, tenth
            done = state.already + state.acknowledged
            if task is None:
                task = bar.add_task(description, total=state.total, completed=done, rate="", note="")
            seconds = bar.tasks[0].elapsed or 0.0
            rate = f"{state.acknowledged / seconds:,.0f}/s" if seconds > 0 else ""
            bar.update(task, completed=done, rate=rate, note=state.note)
            now = 10 * done // max(1, state.total)
            if not console.is_terminal and now > tenth:
                tenth = now
                console.print(f"{description}: {done:,} of {state.total:,} {state.note}", highlight=False)

        yield show


def describe(result: ReplayResult, length: int) -> str:
    """How the replay ended, for people; length: of the whole dataset."""
    whole = result.total == length
    what = (
        f"all of {result.dataset} ({length:,} interactions)"
        if whole
        else f"the {result.total:,} interactions asked for of {result.dataset}"
    )
    where = f"topic {result.topic}, {result.partitions} partition{'s' if result.partitions > 1 else ''}"
    if result.status == "already-complete":
        return f"nothing to do: {where}, already holds {what}"
    if result.status == "complete":
        rate = f"{result.sent / result.seconds:,.0f}/s" if result.seconds > 0 else "-"
        before = f", {result.already:,} were there before" if result.already else ""
        return f"done: {where}, holds {what}; sent {result.sent:,} in {result.seconds:.1f} s ({rate}){before}"
    waiting = f"; {result.unacknowledged:,} more were sent but not acknowledged" if result.unacknowledged else ""
    return (
        f"stopped: {result.already + result.sent:,} of {result.total:,} interactions are in {where}{waiting}\n"
        f"the same command goes on at sequence {result.next_sequence}"
    )


@click.command("replay")
@click.option(
    "--dataset",
    required=True,
    metavar="NAME|PATH",
    help="ml-100k, ml-1m, ml-20m, ml-latest, ml-latest-small, synthetic[:seed=1,...], or a ratings file or folder "
    "(MovieLens, Netflix Prize, RecBole, CSV, Parquet).",
)
@click.option("--topic", default="interactions", show_default=True, help="Where to publish; created if missing.")
@click.option("--limit", type=click.IntRange(min=0), help="Only the first N interactions (of the time range).")
@click.option("--from", "from_ms", type=EventTime(), help="Only from this event time on: ISO 8601, or seconds since the epoch.")
@click.option("--until", "until_ms", type=EventTime(), help="Only before this event time.")
@click.option("--speed", type=Speed(), default="max", show_default=True, help="X times event time, or as fast as the broker takes it.")
@click.option(
    "--partitions", type=click.IntRange(min=1), help="Of a topic that is created [default: 1]; an existing one must have as many."
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with NAME/ or NAME.zip, looked at before downloading. Default: AUTOEMB_DATA_DIR.",
)
@reading_options
@registry_option
@broker_options
@logging_options
def command(
    dataset: str,
    topic: str,
    limit: int | None,
    from_ms: int | None,
    until_ms: int | None,
    speed: float | None,
    partitions: int | None,
    data_dir: Path | None,
    schema_registry: str | None,
    schema_registry_config: Path | None,
    bootstrap_servers: str | None,
    kafka_config: Path | None,
    log_format: str,
    **reading: Any,
) -> int:
    """Publish a dataset's interactions to a topic in event-time order; go on where an interrupted replay stopped."""
    configure_logging(log_format)
    console = Console(stderr=True)
    config = ReplayConfig(topic=topic, partitions=partitions, speed=speed, limit=limit, from_ms=from_ms, until_ms=until_ms)
    kafka = kafka_settings(bootstrap_servers, kafka_config)
    data = load_dataset(dataset, dataset_options(data_dir, console, **reading))
    ensure_interactions_topic(kafka, topic, partitions)
    registry = open_registry(schema_registry, schema_registry_config)
    header = registry.interaction_header(topic) if registry else HEADER
    with stop_on_signals() as stopping, progress_bar(console, f"replay {data.name}") as show:
        result = replay(
            data,
            config,
            kafka=kafka,
            progress=show,
            stop=stopping.is_set,
            header=header,
            decode=InteractionDecoder(registry=registry),
        )
    click.echo(describe(result, data.length))
    sys.stdout.flush()
    return 130 if result.status == "stopped" else 0
