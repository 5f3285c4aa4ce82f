"""`autoemb-pipeline broker`."""

import os
from pathlib import Path

import click

from autoemb_pipeline.ops.brokers.command import DEFAULT_DATA_DIR, DEFAULT_PORT, run_broker


@click.command("broker")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="Clients' port on the loopback address."
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_DATA_DIR,
    show_default=True,
    help="Where Apache Kafka keeps its data between starts; the embedded broker keeps only its log there.",
)
def command(port: int, data_dir: Path) -> None:
    """Run a broker on this machine until Ctrl-C: Apache Kafka if KAFKA_HOME is set, else the embedded one."""
    run_broker(os.environ, port=port, data_dir=data_dir, announce=click.echo)
