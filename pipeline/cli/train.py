"""`autoemb-pipeline train`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import structlog

from autoemb_pipeline.cli.options import (
    StartTime,
    StreamFile,
    broker_options,
    configure_logging,
    field_option,
    given_options,
    kafka_settings,
    logging_options,
    open_registry,
    outage_option,
    registry_option,
    stop_on_signals,
)
from autoemb_pipeline.cli.progress import ProgressLog, describe
from autoemb_pipeline.cli.run_options import storage_options, stream_options, train_options
from autoemb_pipeline.config import Observer, Ports, RunConfig, run_config, with_offline_stage
from autoemb_pipeline.errors import BrokerError
from autoemb_pipeline.mapping.decoder import stream_decoder
from autoemb_pipeline.method import load_kernels_beside
from autoemb_pipeline.ops.topics import broker_kind, ensure_metrics_topics, partition_count, record_count, topic_id, wait_for_topic
from autoemb_pipeline.ops.training_topics import check_for_training
from autoemb_pipeline.run import train
from autoemb_pipeline.schemas.registry import InteractionDecoder

_log = structlog.get_logger()


@click.command("train")
@field_option(RunConfig, "topic")
@field_option(RunConfig, "stream", type=StreamFile(), metavar="FILE")
@field_option(RunConfig, "start_at", "--from", type=StartTime(), metavar="beginning|latest|TIME", default="beginning", show_default=True)
@train_options
@storage_options
@stream_options
@outage_option
@click.option("--prometheus", metavar="[HOST:]PORT", help="Serve Prometheus metrics there (docs/metrics.md). Without HOST: loopback only.")
@registry_option
@broker_options
@logging_options
@click.pass_context
def command(context: click.Context, /, **options: Any) -> int:
    """Train on a topic of interactions: predict, score, learn; emit prequential metrics. Goes on from the state directory's checkpoint."""
    configure_logging(options["log_format"])
    config = run_config(given_options(context, options, ("topic", "positive_above")))
    load_kernels_beside()
    kafka = kafka_settings(options["bootstrap_servers"], options["kafka_config"])
    registry = open_registry(options["schema_registry"], options["schema_registry_config"])
    if config.exactly_once and broker_kind(kafka) == "tansu":
        raise BrokerError(
            "--exactly-once-metrics needs Apache Kafka",
            why="the embedded broker shows aborted transactions to its readers",
            remedy="leave the option out, or use Apache Kafka: docker compose up -d, or KAFKA_HOME=... autoemb-pipeline broker",
        )
    decoder = InteractionDecoder(registry=registry) if config.stream is None else stream_decoder(config.stream, registry)
    with stop_on_signals() as stopping, prometheus_observer(options["prometheus"]) as observers:
        for topic in config.topics:
            if partition_count(kafka, topic) is None:
                _log.info("waiting for the topic", topic=topic, hint=_hint(config, topic))
            if wait_for_topic(kafka, topic, stopping.is_set) is None:
                click.echo(f"stopped: topic {topic} has not appeared")
                return 0
            check_for_training(kafka, topic, longest_outage=options["longest_outage"])
        config = with_offline_stage(
            config,
            until=options["offline_until"],
            fraction=options["offline_fraction"],
            epochs=options["offline_epochs"],
            record_count=lambda: sum(record_count(kafka, topic) for topic in config.topics),
        )
        ensure_metrics_topics(kafka, config.metrics_topic, config.runtime_topic, config.dead_letter_topic)
        ports = Ports(
            kafka=kafka,
            decoder=decoder,
            topic_id=",".join(topic_id(kafka, topic) for topic in config.topics),
            registry=registry,
            stop=stopping.is_set,
            observers=(ProgressLog(), *observers),
        )
        summary = train(config, ports)
    click.echo(describe(summary, until_end=config.until_end, stopped=stopping.is_set()))
    return 0


def _hint(config: RunConfig, topic: str) -> str:
    if config.stream is None:
        return f"autoemb-pipeline replay --dataset ml-latest-small --topic {topic}"
    return "it is the one that the stream's description names; training begins when somebody has created it"


@contextmanager
def prometheus_observer(address: str | None) -> Iterator[tuple[Observer, ...]]:
    """The endpoint's update as an observer of the main path, while it serves; none without an address.

    Raises:
        ConfigurationError: the address is none, or cannot be listened on.
    """
    if address is None:
        yield ()
        return
    from autoemb_pipeline.ops.metrics.endpoint import PrometheusExporter, parse_address  # noqa: PLC0415 - its client takes .1 s

    host, port = parse_address(address)
    with PrometheusExporter(host, port) as exporter:
        _log.info("prometheus", url=f"http://{host}:{exporter.port}/metrics")
        yield (exporter.update,)
