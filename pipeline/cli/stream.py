"""`autoemb-pipeline stream init|check`."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from autoemb_pipeline.cli.options import StreamFile, broker_options, kafka_settings, open_registry, registry_option
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.mapping.decoder import stream_decoder
from autoemb_pipeline.mapping.description import StreamDescription
from autoemb_pipeline.mapping.formats import value_reader
from autoemb_pipeline.mapping.proposal import propose
from autoemb_pipeline.mapping.reading import parse_stream, read_schema
from autoemb_pipeline.mapping.sample import Sampled, read_sample
from autoemb_pipeline.mapping.survey import report, survey


@click.group("stream")
def command() -> None:
    """Describe a JSON or Avro topic of your own, and see what a description makes of it (docs/own-stream.md)."""


@command.command("init")
@click.option("--topic", "topics", multiple=True, required=True, help="What to describe; repeatable, for topics of one shape.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file, such as stream.toml.")
@click.option("--records", type=click.IntRange(min=1), default=400, show_default=True, help="Of the newest records so many are looked at.")
@click.option(
    "--schema", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The values' Avro schema, where no registry holds it."
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@registry_option
@broker_options
def init(**options: Any) -> int:
    """Look at some records of a topic and write a commented description of it. Usual names are recognised; what was not is said."""
    output: Path = options["output"]
    if output.exists() and not options["force"]:
        raise ConfigurationError(f"{output} is there already", remedy="give another --output, or --force to replace it")
    kafka = kafka_settings(options["bootstrap_servers"], options["kafka_config"])
    registry = open_registry(options["schema_registry"], options["schema_registry_config"])
    topics = tuple(dict.fromkeys(options["topics"]))
    samples = read_sample(kafka, topics, options["records"])
    values = [value for sample in samples for value in sample.values]
    proposal = propose(topics, values, registry=registry, schema=_schema(options["schema"], output))
    stream = None if proposal.missing else parse_stream(proposal.text, name=str(output), folder=output.parent)
    try:
        output.write_text(proposal.text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigurationError(f"{output} cannot be written", why=str(error), remedy="give another --output") from error
    click.echo(f"{output}: written from {len(values):,} records")
    for name in proposal.missing:
        click.echo(f"  to be given by hand: {name}")
    if stream is not None:
        _tell(stream, samples, registry)
        click.echo(f"next: autoemb-pipeline train --stream {output}")
    return 0


@command.command("check")
@click.option("--stream", type=StreamFile(), metavar="FILE", required=True, help="The description.")
@click.option("--records", type=click.IntRange(min=1), default=10_000, show_default=True, help="Of the newest records so many are read.")
@registry_option
@broker_options
def check(**options: Any) -> int:
    """Read some records as `train` would, and say what becomes of them and what to change. Exits with 1 if none is usable."""
    stream: StreamDescription = options["stream"]
    kafka = kafka_settings(options["bootstrap_servers"], options["kafka_config"])
    registry = open_registry(options["schema_registry"], options["schema_registry_config"])
    return 0 if _tell(stream, read_sample(kafka, stream.topics, options["records"]), registry) else 1


def _tell(stream: StreamDescription, samples: list[Sampled], registry: Any) -> int:
    """Writes the survey; returns how many records are usable."""
    surveyed = survey(stream, stream_decoder(stream, registry), samples, now=round(time.time() * 1000))
    for line in report(surveyed):
        click.echo(line)
    return len(surveyed.block)


def _schema(file: Path | None, output: Path) -> tuple[str, Callable[[bytes], Any]] | None:
    """The schema's path as seen from the description, and what reads values by it."""
    if file is None:
        return None
    return os.path.relpath(file, output.parent), value_reader(json.loads(read_schema(file)))
