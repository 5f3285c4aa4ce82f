"""`autoemb-pipeline watch`."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live

from autoemb_pipeline.cli.options import broker_options, kafka_settings, open_registry, reading_registry_option, stop_on_signals
from autoemb_pipeline.errors import StateError
from autoemb_pipeline.ops.metrics.reader import MetricsReader, Record, flat_json
from autoemb_pipeline.ops.topics import wait_for_topic
from autoemb_pipeline.ops.watch.live_view import one_line, picture
from autoemb_pipeline.ops.watch.run_history import RECORDS_KEPT, Histories

_POLL_SECONDS = 0.25
_APPEAR_SECONDS = 5.0

Fresh = list[tuple[str, Record]]
Show = Callable[[Histories, Fresh], None]
Readers = dict[str, MetricsReader]


@click.command("watch")
@click.option("--metrics-topic", default="autoemb.metrics", show_default=True, help="Prequential metrics.")
@click.option("--runtime-topic", default="autoemb.runtime", show_default=True, help="Rates, lag and latency.")
@click.option("--run-id", help="Watch this run. Default: the newest, also when another begins.")
@click.option("--json", "as_json", is_flag=True, help="Each new record as a line of flat JSON; `kind` says of which topic.")
@click.option("--once", is_flag=True, help="Show what is known now, and exit.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between pictures (or lines).")
@reading_registry_option
@broker_options
def command(
    metrics_topic: str,
    runtime_topic: str,
    run_id: str | None,
    as_json: bool,
    once: bool,
    interval: float,
    schema_registry: str | None,
    schema_registry_config: Path | None,
    bootstrap_servers: str | None,
    kafka_config: Path | None,
) -> None:
    """Watch a running trainer: errors beside the references, weights, rates, lag; Ctrl-C ends it.

    Reads the metrics and runtime topics and disturbs nobody: committed records, no consumer group. On a terminal one picture, redrawn
    (without colours where NO_COLOR is set); in a pipe one line per interval, or every record with --json.
    """
    kafka = kafka_settings(bootstrap_servers, kafka_config)
    registry = open_registry(schema_registry, schema_registry_config)
    topics = {"metrics": metrics_topic, "runtime": runtime_topic}
    # A run that is named may be old: read all. Otherwise the newest records are those of the newest run.
    last = None if run_id else RECORDS_KEPT
    histories = Histories(run_id)
    with stop_on_signals() as stopping:
        for topic in topics.values():
            if wait_for_topic(kafka, topic, stopping.is_set, _APPEAR_SECONDS if once else None) is None:
                return
        readers = {kind: MetricsReader(kafka, topic, kind, last=last, registry=registry) for kind, topic in topics.items()}
        try:
            _catch_up(histories, readers, stopping.is_set)
            if once:
                _show_once(histories, as_json=as_json)
                return
            with _display(as_json=as_json) as show:
                _follow(histories, readers, show, interval, stopping.is_set)
        finally:
            for reader in readers.values():
                reader.close()


def _catch_up(histories: Histories, readers: Readers, stop: Callable[[], bool]) -> None:
    """Reads what the topics hold, before anything is shown."""
    for kind, reader in readers.items():
        while not reader.caught_up and not stop():
            histories.add(kind, reader.poll(_POLL_SECONDS))


def _follow(histories: Histories, readers: Readers, show: Show, interval: float, stop: Callable[[], bool]) -> None:
    show(histories, _newest(histories))
    due = time.monotonic() + interval
    fresh: Fresh = []
    while not stop():
        for kind, reader in readers.items():
            fresh += [(kind, record) for record in histories.add(kind, reader.poll(min(_POLL_SECONDS, interval / 2)))]
        if time.monotonic() >= due:
            show(histories, fresh)
            due, fresh = time.monotonic() + interval, []


def _newest(histories: Histories) -> Fresh:
    current = histories.current
    return [] if current is None else [(kind, record) for kind in ("metrics", "runtime") if (record := current.latest(kind))]


@contextmanager
def _display(*, as_json: bool) -> Iterator[Show]:
    """How to show: JSON lines, a live picture on a terminal, else one line per interval."""
    console = Console(highlight=False)
    if as_json:
        yield lambda _, fresh: _print_json(fresh)
    elif console.is_terminal and not console.is_dumb_terminal:
        # The alternate screen: the scrollback keeps what was there, over ssh and in tmux too.
        with Live(console=console, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
            yield lambda histories, _: live.update(picture(histories.current, console), refresh=True)
    else:
        yield _print_line


def _print_line(histories: Histories, fresh: Fresh) -> None:
    if fresh and histories.current is not None:
        click.echo(one_line(histories.current))


def _print_json(fresh: Fresh) -> None:
    for kind, record in fresh:
        sys.stdout.write(json.dumps({"kind": kind, **flat_json(kind, record)}, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _show_once(histories: Histories, *, as_json: bool) -> None:
    if histories.current is None:
        raise StateError("The topics hold no such run", why="or none yet", remedy="leave out --run-id to see the newest, or start train")
    if as_json:
        _print_json(_newest(histories))
    else:
        console = Console(highlight=False)
        console.print(picture(histories.current, console))
