"""`autoemb-pipeline doctor`."""

import os
from pathlib import Path
from typing import Any

import click

from autoemb_pipeline.cli.options import broker_options, outage_option, reading_registry_option
from autoemb_pipeline.ops.doctor import DoctorConfig, examine

_MIB = 1 << 20


@click.command("doctor")
@click.option("--topic", default="interactions", show_default=True, help="The interactions.")
@click.option("--metrics-topic", default="autoemb.metrics", show_default=True, help="Prequential metrics.")
@click.option("--runtime-topic", default="autoemb.runtime", show_default=True, help="Rates, lag and latency.")
@click.option("--dead-letter-topic", help="Records that are no interactions. Default: TOPIC.dlq.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Examine this state directory, its file system and its free space too.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="What train would be asked for."
)
@click.option("--min-free-mb", type=click.IntRange(min=0), default=2048, show_default=True, help="Less free disk space is a problem, MiB.")
@outage_option
@reading_registry_option
@broker_options
@click.pass_context
def command(context: click.Context, /, topic: str, **options: Any) -> None:
    """Examine what a run needs: versions, device, state directory, broker, topics and their settings, registry.

    Each line is ok, or names the command that mends it. Exit code 0 only when all is well.
    """
    config = DoctorConfig(
        bootstrap_servers=options["bootstrap_servers"],
        kafka_config=options["kafka_config"],
        topic=topic,
        metrics=options["metrics_topic"],
        runtime=options["runtime_topic"],
        dead_letters=options["dead_letter_topic"] or f"{topic}.dlq",
        schema_registry=options["schema_registry"],
        schema_registry_config=options["schema_registry_config"],
        state_dir=options["state_dir"],
        device=options["device"],
        longest_outage=options["longest_outage"],
        min_free_bytes=options["min_free_mb"] * _MIB,
    )
    well = True
    for finding in examine(config, os.environ):
        well &= finding.ok
        click.echo(f"{'ok     ' if finding.ok else 'PROBLEM'}  {finding.subject}: {finding.text}")
        for line in finding.remedy.splitlines() if not finding.ok else ():
            click.echo(f"         {line}")
    if not well:
        context.exit(1)
