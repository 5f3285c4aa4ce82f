"""`autoemb-pipeline metrics`."""

from pathlib import Path

import click

from autoemb_pipeline.cli.options import broker_options, kafka_settings, open_registry, reading_registry_option, stop_on_signals
from autoemb_pipeline.ops.metrics.export import export as export_table
from autoemb_pipeline.ops.metrics.reader import MetricsReader


@click.group("metrics")
def command() -> None:
    """The metrics topic as a file."""


@command.command("export")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="NAME.parquet or NAME.csv; replaced if it is there."
)
@click.option("--run-id", "run_ids", multiple=True, help="Only of this run; repeatable. Default: all runs.")
@click.option("--runtime", is_flag=True, help="The runtime topic instead: rates, lag, latency.")
@click.option("--topic", help="Default: autoemb.metrics, or autoemb.runtime with --runtime.")
@reading_registry_option
@broker_options
def export(
    output: Path,
    run_ids: tuple[str, ...],
    runtime: bool,
    topic: str | None,
    schema_registry: str | None,
    schema_registry_config: Path | None,
    bootstrap_servers: str | None,
    kafka_config: Path | None,
) -> None:
    """Write the topic's records up to now as a table: one row per step, columns as in docs/metrics.md, times in UTC."""
    kind = "runtime" if runtime else "metrics"
    kafka = kafka_settings(bootstrap_servers, kafka_config)
    registry = open_registry(schema_registry, schema_registry_config)
    with stop_on_signals() as stopping, MetricsReader(kafka, topic or f"autoemb.{kind}", kind, registry=registry) as reader:
        rows = export_table(reader, kind, output, run_ids=run_ids, stop=stopping.is_set)
        skipped = f"; {reader.skipped:,} records were none" if reader.skipped else ""
    click.echo(f"{output}: {rows:,} rows{skipped}")
