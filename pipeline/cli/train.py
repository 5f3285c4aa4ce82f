"""`autoemb-pipeline train`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import structlog
import torch

from autoemb_pipeline.checkpoint.identity import read_identity
from autoemb_pipeline.cli.options import (
    broker_options,
    configure_logging,
    kafka_settings,
    logging_options,
    open_registry,
    outage_option,
    registry_option,
    stop_on_signals,
)
from autoemb_pipeline.cli.progress import ProgressLog, describe
from autoemb_pipeline.cli.replay import EventTime
from autoemb_pipeline.config import Observer, Ports, RunConfig
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.errors import BrokerError, ConfigurationError
from autoemb_pipeline.learners.config import METHODS, PRESETS, STREAM_METHODS, LearnerConfig, from_preset, parse_settings
from autoemb_pipeline.ops.metrics.endpoint import PrometheusExporter, parse_address
from autoemb_pipeline.ops.topics import broker_kind, ensure_metrics_topics, partition_count, record_count, topic_id, wait_for_topic
from autoemb_pipeline.ops.training_topics import check_for_training
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.records import OfflineStage
from autoemb_pipeline.run import train
from autoemb_pipeline.schemas.registry import InteractionDecoder, RegistryCodec
from autoemb_pipeline.trainer import TrainerConfig

_log = structlog.get_logger()

DEFAULT_PRESET = "stream" if "stream" in PRESETS else "paper"


def resolve_device(device: str) -> str:
    """`auto` is CUDA where there is a GPU, else the CPU.

    Raises:
        ConfigurationError: cuda was asked for and is not there.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ConfigurationError(
            "There is no CUDA device",
            why="torch sees none",
            remedy="use --device cpu, or install torch's CUDA build (README, Installation)",
        )
    return "cuda" if device == "cuda" or (device == "auto" and available) else "cpu"


def learner_config(method: str, task: str, preset: str, seed: int, device: str, settings: tuple[str, ...]) -> LearnerConfig:
    """The learner's configuration from the command line."""
    changes = {"method": method, "task": task, "seed": seed, "device": device, **parse_settings(preset, settings)}
    return from_preset(preset, **changes)


def settings_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """--set, and the learner settings that have options of their own."""
    own = {name: options.get(name) for name in ("memory_budget",)}
    return (*options["settings"], *(f"{name}={value}" for name, value in own.items() if value is not None))


def trainer_config(learner: LearnerConfig, context: str, positive_above: float, window: int, fading: float) -> TrainerConfig:
    """All that decides a run's bits."""
    return TrainerConfig(
        learner=learner,
        context=ContextConfig(mode=context, spaces=len(learner.dims), with_classes=learner.task == "rating"),  # type: ignore[arg-type]
        prequential=PrequentialConfig(task=learner.task, window=window, fading=fading),
        positive_above=positive_above,
    )


class CountOrTime(click.ParamType[OfflineStage]):
    """A number of interactions, or an ISO 8601 event time."""

    name = "count|time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> OfflineStage:
        """The stage that ends there."""
        if isinstance(value, OfflineStage):
            return value
        text = str(value)
        return OfflineStage(count=int(text)) if text.isdigit() else OfflineStage(until_ms=EventTime().convert(text, param, ctx))


def with_offline_stage(
    config: RunConfig, kafka: Mapping[str, str], until: OfflineStage | None, fraction: float | None, epochs: int = 1
) -> RunConfig:
    """The configuration with its offline stage; a fraction is of the records the topic held when the run began.

    Raises:
        ConfigurationError: both given, a fraction of a stream without end, or several passes over what cannot be read again.
    """
    if fraction is None:
        return replace(config, trainer=replace(config.trainer, offline=until, offline_epochs=epochs))
    if until is not None or not config.until_end:
        raise ConfigurationError(
            "--offline-fraction cannot be used so",
            why="it is a part of all records between the topic's beginning and its end",
            remedy="give it with --until-end and without --offline-until",
        )
    found = None if config.new_run else read_identity(config.state_dir)
    known = found.configuration.get("offline_fraction") == fraction if found is not None else False
    count = found.configuration["offline.count"] if found is not None and known else int(fraction * record_count(kafka, config.topic))
    trainer = replace(config.trainer, offline=OfflineStage(count=count), offline_epochs=epochs)
    return replace(config, trainer=trainer, offline_fraction=fraction)


def train_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that decide a run's bits; `demo` shares them."""
    options = [
        click.option(
            "--method",
            type=click.Choice(METHODS + STREAM_METHODS),
            default="autoemb",
            show_default=True,
            help="How embedding dimensions are chosen.",
        ),
        click.option(
            "--task",
            type=click.Choice(["binary", "rating"]),
            default="binary",
            show_default=True,
            help="binary: is the rating above 3.5 (squared error); rating: which of five classes (cross-entropy).",
        ),
        click.option(
            "--preset", type=click.Choice(sorted(PRESETS)), default=DEFAULT_PRESET, show_default=True, help="See docs/algorithm.md."
        ),
        click.option("--batch-size", type=click.IntRange(min=1), default=500, show_default=True, help="Interactions of a mini-batch."),
        click.option(
            "--context",
            type=click.Choice(["batch", "event", "strict"]),
            default="event",
            show_default=True,
            help="Labels that context features may know: of earlier mini-batches; also of earlier events; only with earlier timestamps.",
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Of initial parameters and every random choice."),
        click.option(
            "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where a step computes."
        ),
        click.option("--positive-above", type=float, default=3.5, show_default=True, help="Ratings above it are positive."),
        *_stream_options(),
        click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A learner setting of docs/algorithm.md; repeatable."),
        click.option("--window", type=click.IntRange(min=1), default=5000, show_default=True, help="Interactions of the metrics' window."),
        click.option("--fading", type=float, default=0.999, show_default=True, help="Factor per interaction of the fading metrics."),
        click.option("--threads", type=click.IntRange(min=1), help="Of torch. Default: the checkpoint's, else torch's own."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _stream_options() -> list[Callable[..., Any]]:
    return [
        click.option(
            "--memory-budget",
            type=click.IntRange(min=0),
            metavar="BYTES",
            help="Bound on embeddings, optimiser state and index (preset stream). Default: 0, none.",
        ),
    ]


def storage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where a run lives and how it is kept."""
    options = [
        click.option(
            "--state-dir",
            type=click.Path(file_okay=False, path_type=Path),
            help="Checkpoints and state of one run. Default: autoemb-state/TOPIC/METHOD-TASK.",
        ),
        click.option("--run-id", help="Key prefix of the run's metrics. Default: the state directory's, else a new one."),
        click.option("--new-run", is_flag=True, help="Put the state directory's run aside and begin anew."),
        click.option("--checkpoint-every", type=click.IntRange(min=1), default=200, show_default=True, help="Steps between checkpoints."),
        click.option(
            "--checkpoint-seconds",
            type=click.FloatRange(min=0, min_open=True),
            default=60.0,
            show_default=True,
            help="Seconds between checkpoints, if something was trained meanwhile; whichever of the two comes first.",
        ),
        click.option("--keep-checkpoints", type=click.IntRange(min=1), default=3, show_default=True, help="How many stay."),
        click.option("--cache-mb", type=click.IntRange(min=1), default=256, show_default=True, help="Memory of the row cache, MiB."),
        click.option(
            "--keep-predictions",
            type=click.IntRange(min=0),
            default=10_000_000,
            show_default=True,
            help="Interactions in the prediction log (for `report`), about 60 bytes each; 0 switches it off.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("train")
@click.option("--topic", default="interactions", show_default=True, help="The interactions; waited for if missing, never created.")
@train_options
@storage_options
@click.option("--metrics-topic", default="autoemb.metrics", show_default=True, help="Prequential metrics, one record a step.")
@click.option("--runtime-topic", default="autoemb.runtime", show_default=True, help="Rates, lag and latency, one record every two seconds.")
@click.option("--dead-letter-topic", help="Records that are no interactions. Default: TOPIC.dlq.")
@click.option("--metrics-format", type=click.Choice(["json", "avro"]), default="json", show_default=True, help="Of both metrics topics.")
@click.option("--exactly-once-metrics", is_flag=True, help="Metrics and dead letters in Kafka transactions (Apache Kafka only).")
@click.option(
    "--offline-until",
    type=CountOrTime(),
    help="The paper's offline stage ends there: after N interactions, or at an ISO 8601 time; online metrics begin anew behind it.",
)
@click.option(
    "--offline-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="The same, as a part of what the topic holds now; with --until-end.",
)
@click.option(
    "--offline-epochs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Passes over the offline stage; those after the first only train, and need a preset without context features.",
)
@click.option(
    "--until-end", is_flag=True, help="Stop at the end of what the topic's present partitions hold now; train the last partial batch."
)
@click.option(
    "--batch-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds that close a partial batch on a slow live stream; with --until-end the clock closes none.",
)
@click.option(
    "--idle-timeout",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds that the other partitions wait for a silent one.",
)
@click.option(
    "--max-ahead",
    type=click.FloatRange(min=0),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="Records of a live stream whose event time lies further beyond the clock go to the dead-letter topic.",
)
@outage_option
@click.option("--prometheus", metavar="[HOST:]PORT", help="Serve Prometheus metrics there (docs/metrics.md). Without HOST: loopback only.")
@registry_option
@broker_options
@logging_options
def command(topic: str, until_end: bool, **options: Any) -> int:
    """Train on a topic of interactions: predict, score, learn; emit prequential metrics. Goes on from the state directory's checkpoint."""
    configure_logging(options["log_format"])
    config = run_config(topic, until_end=until_end, **options)
    kafka = kafka_settings(options["bootstrap_servers"], options["kafka_config"])
    registry = open_registry(options["schema_registry"], options["schema_registry_config"])
    if config.exactly_once and broker_kind(kafka) == "tansu":
        raise BrokerError(
            "--exactly-once-metrics needs Apache Kafka",
            why="the embedded broker shows aborted transactions to its readers",
            remedy="leave the option out, or use Apache Kafka: docker compose up -d, or KAFKA_HOME=... autoemb-pipeline broker",
        )
    with stop_on_signals() as stopping, prometheus_observer(options["prometheus"]) as observers:
        if partition_count(kafka, topic) is None:
            _log.info("waiting for the topic", topic=topic, hint=f"autoemb-pipeline replay --dataset ml-latest-small --topic {topic}")
        if wait_for_topic(kafka, topic, stopping.is_set) is None:
            click.echo("stopped: the topic has not appeared")
            return 0
        check_for_training(kafka, topic, longest_outage=options["longest_outage"])
        config = with_offline_stage(config, kafka, options["offline_until"], options["offline_fraction"], options["offline_epochs"])
        ensure_metrics_topics(kafka, config.metrics_topic, config.runtime_topic, config.dead_letter_topic)
        summary = train(config, ports(config, kafka, registry, stopping.is_set, (ProgressLog(), *observers)))
    click.echo(describe(summary, until_end=until_end, stopped=stopping.is_set()))
    return 0


@contextmanager
def prometheus_observer(address: str | None) -> Iterator[tuple[Observer, ...]]:
    """The endpoint's update as an observer of the main path, while it serves; none without an address.

    Raises:
        ConfigurationError: the address is none, or cannot be listened on.
    """
    if address is None:
        yield ()
        return
    host, port = parse_address(address)
    with PrometheusExporter(host, port) as exporter:
        _log.info("prometheus", url=f"http://{host}:{exporter.port}/metrics")
        yield (exporter.update,)


def run_config(topic: str, *, until_end: bool, **options: Any) -> RunConfig:
    """The run's configuration from the command line."""
    learner = learner_config(
        options["method"], options["task"], options["preset"], options["seed"], resolve_device(options["device"]), settings_of(options)
    )
    return RunConfig(
        topic=topic,
        state_dir=options["state_dir"] or Path("autoemb-state") / topic / f"{learner.method}-{learner.task}",
        trainer=trainer_config(learner, options["context"], options["positive_above"], options["window"], options["fading"]),
        batch_size=options["batch_size"],
        run_id=options["run_id"],
        new_run=options["new_run"],
        metrics_topic=options["metrics_topic"],
        runtime_topic=options["runtime_topic"],
        dead_letter_topic=options["dead_letter_topic"] or f"{topic}.dlq",
        batch_timeout=options["batch_timeout"],
        idle_timeout=options["idle_timeout"],
        max_ahead=options["max_ahead"],
        until_end=until_end,
        checkpoint_every=options["checkpoint_every"],
        checkpoint_seconds=options["checkpoint_seconds"],
        checkpoints_kept=options["keep_checkpoints"],
        cache_bytes=options["cache_mb"] << 20,
        predictions_kept=options["keep_predictions"],
        exactly_once=options["exactly_once_metrics"],
        metrics_format=options["metrics_format"],
        threads=options["threads"],
    )


def ports(
    config: RunConfig, kafka: Mapping[str, str], registry: RegistryCodec | None, stop: Callable[[], bool], observers: tuple[Any, ...]
) -> Ports:
    """What the main path is connected to."""
    return Ports(
        kafka=kafka,
        decoder=InteractionDecoder(registry=registry),
        topic_id=topic_id(kafka, config.topic),
        registry=registry,
        stop=stop,
        observers=observers,
    )
