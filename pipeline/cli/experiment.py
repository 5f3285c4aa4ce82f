"""`autoemb-pipeline experiment`: the paper's tables and figures."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from autoemb_pipeline.cli.options import broker_options, together
from autoemb_pipeline.cli.replay import dataset_options, reading_options
from autoemb_pipeline.cli.run_options import (
    batch_size_option,
    context_option,
    device_option,
    epochs_option,
    preset_option,
    settings_option,
    task_option,
    tolerance_option,
)
from autoemb_pipeline.cli.through import TopicOf, topics
from autoemb_pipeline.config import learner_config, trainer_config
from autoemb_pipeline.experiments import figures, river_reference, table1, table2
from autoemb_pipeline.experiments.cells import Stream
from autoemb_pipeline.experiments.figure1 import Figure1Config
from autoemb_pipeline.experiments.figure1 import run as run_figure1
from autoemb_pipeline.experiments.jobs import Job, only_warnings, run_jobs
from autoemb_pipeline.learners.config import METHODS, learner_class
from autoemb_pipeline.producers.datasets.catalogue import load_dataset
from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.records import ContextMode, OfflineStage
from autoemb_pipeline.schemas.scores import LOSSES
from autoemb_pipeline.trainer import TrainerConfig

PAPER_METHODS = "fse,sam,darts,autoemb"
REGIMES = {
    "batch": "Regime batch-{size}: labels of earlier mini-batches only.",
    "event": "Regime event: statistics and rows may know labels of earlier interactions; all else, of earlier mini-batches.",
    "strict": "Regime strict: as event, but inside a mini-batch only labels with an earlier timestamp.",
}
BEHIND = " The paper's network knows labels of earlier mini-batches only; its references here know more: compare it under --context batch."


def regime_of(preset: str, context: str, batch_size: int) -> str:
    """What the predictions of a table may know, in words."""
    network_is_behind = context != "batch" and not learner_class(preset).takes_context
    return f"Preset {preset}. {REGIMES[context].format(size=batch_size)}{BEHIND if network_is_behind else ''}"


def comma_list(choices: Sequence[str] | None = None) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """Splits a,b,c; refuses what is not among the choices."""

    def split(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        wrong = [name for name in names if choices is not None and name not in choices]
        if wrong or not names:
            raise click.BadParameter(f"{', '.join(wrong) or 'nothing'} is not among {', '.join(choices or ())}", ctx, param)
        return names

    return split


shared_options = together(
    reading_options,
    click.option(
        "--datasets", default="ml-latest-small,ml-100k", show_default=True, callback=comma_list(), help="Names or paths, with commas."
    ),
    click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="As for replay. Default: AUTOEMB_DATA_DIR."),
    click.option("--limit", type=click.IntRange(min=1), help="Only the first N interactions of each dataset."),
    click.option(
        "--output",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("autoemb-state") / "experiments",
        show_default=True,
        help="Cells and results; an experiment started again goes on there.",
    ),
)
"""Options of every experiment."""


def streams(
    names: Sequence[str], data_dir: Path | None, limit: int | None, console: Console, options: dict[str, Any]
) -> list[tuple[Stream, SortedDataset]]:
    """The datasets, read as the options say, as streams that cells can read again and again."""
    reading = dataset_options(data_dir, console, **{name: options[name] for name in ("columns", "ties", "order")})
    datasets = [load_dataset(name, reading) for name in names]
    return [(as_stream(dataset, limit), dataset) for dataset in datasets]


def as_stream(dataset: SortedDataset, limit: int | None) -> Stream:
    """A dataset's first interactions; a limited stream has a name of its own."""
    selection = dataset.select(limit=limit)
    cut = len(selection) < dataset.length
    return Stream(
        name=f"{dataset.name} (first {len(selection):,})" if cut else dataset.name,
        fingerprint=f"{dataset.fingerprint}:{len(selection)}",
        length=len(selection),
        open=partial(dataset.blocks, selection),
    )


@click.group("experiment")
def command() -> None:
    """The paper's tables, resumable cell by cell."""


@command.command("table1")
@shared_options
def table1_command(datasets: tuple[str, ...], data_dir: Path | None, limit: int | None, output: Path, **options: Any) -> None:
    """Count users, items and interactions of each dataset (the paper's Table 1)."""
    console = Console(stderr=True)
    counts = [table1.count(stream) for stream, _ in streams(datasets, data_dir, limit, console, options)]
    output.mkdir(parents=True, exist_ok=True)
    table1.as_frame(counts).write_parquet(output / "table1.parquet")
    click.echo(table1.as_markdown(counts), nl=False)


cell_options = together(
    shared_options,
    broker_options,
    click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Seeds 0 to N-1."),
    preset_option,
    context_option,
    batch_size_option,
    click.option(
        "--offline-fraction",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.7,
        show_default=True,
        help="Of each stream, trained before the figures begin.",
    ),
    epochs_option,
    device_option,
    tolerance_option,
    settings_option,
    click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of torch, in each process."),
    click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, each training a cell."),
    click.option(
        "--through",
        type=click.Choice(["direct", "kafka"]),
        default="direct",
        show_default=True,
        help="kafka: replay into a topic and train from it, same bits; on a broker of its own unless one is named.",
    ),
)
"""Options of experiments that train cells of methods, tasks and seeds."""


@command.command("table2")
@click.option("--methods", default=PAPER_METHODS, show_default=True, callback=comma_list(METHODS), help="With commas.")
@click.option("--tasks", default="binary,rating", show_default=True, callback=comma_list(("binary", "rating")), help="With commas.")
@click.option("--river/--no-river", default=True, show_default=True, help="River's BiasedMF as a further reference, where it is installed.")
@cell_options
def table2_command(
    datasets: tuple[str, ...], data_dir: Path | None, limit: int | None, output: Path, *, threads: int, **options: Any
) -> None:
    """Compare the methods in the online stage of each dataset (the paper's Table 2), with intervals and references."""
    torch.set_num_threads(threads)
    console = Console(stderr=True)
    table: list[table2.Row] = []
    with topics(options["through"], options["bootstrap_servers"], options["kafka_config"], console) as topic_of:
        for stream, dataset in streams(datasets, data_dir, limit, console, options):
            for task in options["tasks"]:
                table += _rows_of(console, stream, dataset, task, output, topic_of, options)
    epochs = options["offline_epochs"]
    name = f"table2-{options['preset']}-{options['mode']}" + ("" if epochs == 1 else f"-e{epochs}")
    table2.as_frame(table).write_parquet(output / f"{name}.parquet")
    regime = regime_of(options["preset"], options["mode"], options["batch_size"])
    notes = ["", _NO_RIVER] if options["river"] and not river_reference.is_installed() else []
    text = table2.as_markdown(table, regime=regime, fraction=options["offline_fraction"], epochs=epochs, notes=notes)
    (output / f"{name}.md").write_text(text, encoding="utf-8")
    click.echo(text, nl=False)


_NO_RIVER = "No row of River's BiasedMF: River is not installed (pip install 'autoemb-pipeline[experiments]')."


def _rows_of(
    console: Console, stream: Stream, dataset: SortedDataset, task: str, output: Path, topic_of: TopicOf | None, options: dict[str, Any]
) -> list[table2.Row]:
    """Trains a dataset's and task's cells and references, and sums them up."""
    configs, _ = cells(stream, task, output, options)
    references: dict[str, Path] = {}
    extra: list[Job] = []
    if task == "binary" and options["river"] and river_reference.is_installed():
        epochs = options["offline_epochs"]
        folder = output / "references" / f"{stream.name}-river-{options['mode']}-e{epochs}".replace("/", "_")
        references[river_reference.NAME] = folder
        river = partial(
            _river, folder, stream, options["batch_size"], options["mode"], configs[0].offline, epochs, configs[0].positive_above
        )
        extra = [Job(run=river, length=stream.length)]
    configs, folders = train_cells(console, stream, dataset, task, output, topic_of, options, extra)
    return table2.rows(stream, configs, folders, references)


def _river(
    folder: Path,
    stream: Stream,
    batch_size: int,
    mode: ContextMode,
    offline: OfflineStage | None,
    epochs: int,
    positive_above: float,
    progress: Callable[[int], None],
) -> None:
    river_reference.run_river_cell(
        folder,
        stream,
        batch_size=batch_size,
        mode=mode,
        offline=offline,
        epochs=epochs,
        positive_above=positive_above,
        progress=progress,
    )


def cells(stream: Stream, task: str, output: Path, options: dict[str, Any]) -> tuple[list[TrainerConfig], list[Path]]:
    """A dataset's and task's cells: every method and seed, and where each lies."""
    offline = table2.offline_stage(stream, options["offline_fraction"])
    stages = {"offline": offline, "offline_epochs": options["offline_epochs"]}
    configs = [
        replace(trainer_config({**options, "method": method, "task": task, "seed": seed}), **stages)
        for method in options["methods"]
        for seed in range(options["seeds"])
    ]
    return configs, [table2.cell_folder(output, stream, config, through=options["through"]) for config in configs]


def train_cells(
    console: Console,
    stream: Stream,
    dataset: SortedDataset,
    task: str,
    output: Path,
    topic_of: TopicOf | None,
    options: dict[str, Any],
    extra: Sequence[Job] = (),
) -> tuple[list[TrainerConfig], list[Path]]:
    """Trains what is missing of a dataset's and task's cells, and does the extra jobs."""
    only_warnings()
    configs, folders = cells(stream, task, output, options)
    topic = None if topic_of is None else topic_of(dataset, stream)
    jobs = [*table2.cell_jobs(stream, configs, folders, batch_size=options["batch_size"], topic=topic), *extra]
    with _cells_bar(console, f"{stream.name} {task}", len(jobs), sum(job.length for job in jobs)) as show:
        run_jobs(jobs, workers=options["jobs"], progress=show)
    return configs, folders


def _figure_command(number: int, methods: str, doc: str) -> None:
    @command.command(f"figure{number}", help=doc)
    @click.option("--methods", default=methods, show_default=True, callback=comma_list(METHODS), help="With commas.")
    @task_option
    @cell_options
    def figure(
        datasets: tuple[str, ...], data_dir: Path | None, limit: int | None, output: Path, *, task: str, threads: int, **options: Any
    ) -> None:
        torch.set_num_threads(threads)
        console = Console(stderr=True)
        with topics(options["through"], options["bootstrap_servers"], options["kafka_config"], console) as topic_of:
            for stream, dataset in streams(datasets, data_dir, limit, console, options):
                _, folders = train_cells(console, stream, dataset, task, output, topic_of, options)
                panels = figures.panels_of(number, figures.one_group(folders))
                path = output / f"figure{number}-{stream.name}-{task}-{options['preset']}-{options['mode']}".replace(" ", "-")
                title = f"{figures.FIGURES[number]}: {stream.name}, preset {options['preset']}, context {options['mode']}"
                figures.write(path, panels, title=title)
                click.echo(f"{path}.png")


_figure_command(6, "fse,sam,autoemb", "Draw error by popularity of users and items, FSE, SAM and AutoEmb (the paper's Figure 6).")
_figure_command(7, "autoemb", "Draw AutoEmb's weights by popularity (the paper's Figure 7).")
_figure_command(8, "fse,sam,autoemb", "Draw the error over the stream, offline stage included (the paper's Figure 8).")


@command.command("figure1")
@task_option
@click.option("--dims", default="2,16,128", show_default=True, callback=comma_list(), help="Fixed dimensions, one model each.")
@click.option("--ratings", default="1,2,5,10,20,40,80", show_default=True, callback=comma_list(), help="Training ratings per user.")
@click.option("--test-ratings", type=click.IntRange(min=1), default=10, show_default=True, help="Kept for testing, per user.")
@click.option("--epochs", type=click.IntRange(min=1), default=5, show_default=True, help="How often each training set is read.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Seeds 0 to N-1; a seed also draws the split.")
@settings_option
@shared_options
def figure1_command(
    datasets: tuple[str, ...],
    data_dir: Path | None,
    limit: int | None,
    output: Path,
    *,
    task: str,
    dims: tuple[str, ...],
    ratings: tuple[str, ...],
    settings: tuple[str, ...],
    **options: Any,
) -> None:
    """Draw error and accuracy of fixed dimensions against training ratings per user (the paper's Figure 1)."""
    torch.set_num_threads(1)
    console = Console(stderr=True)
    learner = learner_config({"method": "fse", "task": task, "preset": "paper-layernorm", "settings": settings})
    choices = {name: options[name] for name in ("test_ratings", "epochs", "seeds")}
    config = Figure1Config(dims=_numbers(dims, "--dims"), ratings=_numbers(ratings, "--ratings"), **choices)
    for stream, _ in streams(datasets, data_dir, limit, console, options):
        models = config.seeds * len(config.ratings) * len(config.dims)
        with _cells_bar(console, f"figure 1 {stream.name}", models, models) as show:
            results = run_figure1(stream, learner, config, progress=lambda done, show=show: show(done, done))  # type: ignore[misc]
        path = output / f"figure1-{stream.name}-{task}".replace(" ", "-")
        users, tests = results["users"][0], results["tests"][0]
        title = f"Fixed dimensions against training ratings: {stream.name}, {users:,} users, {tests:,} test ratings"
        figures.write(path, figures.figure1_panels(results, LOSSES[task].long_title), title=title)
        results.write_parquet(path.with_name(f"{path.name}-seeds.parquet"))
        click.echo(f"{path}.png")


def _numbers(texts: tuple[str, ...], option: str) -> tuple[int, ...]:
    if not all(text.isdigit() for text in texts):
        raise click.BadParameter(f"{','.join(texts)}: whole numbers with commas", param_hint=option)
    return tuple(int(text) for text in texts)


class _cells_bar:  # noqa: N801 - reads as the context manager it is
    """A bar over all cells of a dataset and task, by interactions."""

    def __init__(self, console: Console, title: str, cells: int, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[finished]} cells"), TimeElapsedColumn())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(title, total=total, finished=f"0/{cells}")
        self._cells = cells

    def __enter__(self) -> Callable[[int, int], None]:
        self._bar.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _show(self, done: int, finished: int) -> None:
        self._bar.update(self._task, completed=done, finished=f"{finished}/{self._cells}")
