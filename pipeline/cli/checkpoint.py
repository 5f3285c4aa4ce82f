"""`autoemb-pipeline checkpoint ls|inspect|verify|export`."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from autoemb_pipeline.checkpoint.manifest import MANIFEST_NAME, Manifest
from autoemb_pipeline.checkpoint.reading import open_newest, open_step
from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.errors import CheckpointError
from autoemb_pipeline.predict import checkpoint_trainer, tables_of

F = TypeVar("F", bound=Callable[..., Any])

state_dir = click.option(
    "--state-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="Of the run; it may be training."
)
one_step = click.option("--step", type=click.IntRange(min=0), help="Which checkpoint. Default: the newest.")


@click.group("checkpoint")
def command() -> None:
    """List, show, check and export a run's checkpoints. Nothing here changes them, and the trainer may be running."""


@command.command("ls")
@state_dir
def ls(state_dir: Path) -> int:
    """List the checkpoints: step, time, size, and whether all files are there in full (`verify` reads every byte)."""
    store = CheckpointStore(state_dir)
    steps = store.list()
    for step in steps:
        click.echo(_line(store, step))
    for path in sorted(store.directory.glob("refused-*")):
        click.echo(f"{path.name}: damaged, set aside by the trainer")
    if not steps:
        click.echo(f"no checkpoint in {store.directory}")
    return 0


def _line(store: CheckpointStore, step: int) -> str:
    try:
        manifest = store.manifest(step)
    except CheckpointError as error:
        return f"step {step:>9,}  damaged: {error.why}"
    directory = store.path(step)
    written = datetime.fromtimestamp((directory / MANIFEST_NAME).stat().st_mtime, tz=UTC)
    torn = [name for name, record in manifest.files.items() if _size(directory / name) != record.size]
    size = sum(record.size for record in manifest.files.values())
    state = f"damaged: {', '.join(torn)}" if torn else "complete"
    return f"step {step:>9,}  {written:%Y-%m-%d %H:%M:%S} UTC  {size / 1e6:>10,.1f} MB  {state}"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


@command.command("inspect")
@state_dir
@one_step
@click.option("--json", "as_json", is_flag=True, help="The manifest as it is.")
def inspect(state_dir: Path, step: int | None, *, as_json: bool) -> int:
    """Show what a checkpoint holds: the run, its configuration, where the stream stands, its files."""
    store = CheckpointStore(state_dir)
    manifest = store.manifest(_existing(store, step))
    click.echo(manifest.encode().decode().rstrip() if as_json else _described(manifest))
    return 0


def _existing(store: CheckpointStore, step: int | None) -> int:
    steps = store.list()
    if not steps or (step is not None and step not in steps):
        what = "There is no checkpoint" if step is None else f"There is no checkpoint of step {step}"
        there = f"There are those of steps {', '.join(map(str, steps))}." if steps else ""
        raise CheckpointError(f"{what} in {store.directory}.", why=there, remedy=f"autoemb-pipeline checkpoint ls --state-dir {store.root}")
    return steps[-1] if step is None else step


def _described(manifest: Manifest) -> str:
    payload = manifest.payload
    position = payload["position"]
    lines = [
        f"run {payload['run_id']}, step {manifest.step}, {payload['trainer'].get('examples', '?')} interactions",
        f"topic id {payload['topic_id']}",
        "next offsets: " + ", ".join(f"{p}: {o}" for p, o in position["next_offsets"].items()),
        f"event time reached: {_event_time(position['frontier'])}",
        "environment: " + ", ".join(f"{k} {v}" for k, v in payload["environment"].items()),
        "configuration:",
        *(f"  {name} = {json.dumps(value)}" for name, value in sorted(payload["configuration"].items())),
        f"files: {len(manifest.files)}",
        *(f"  {record.size:>13,}  {record.sha256[:12]}  {name}" for name, record in sorted(manifest.files.items())),
    ]
    return "\n".join(lines)


def _event_time(frontier: list[Any] | None) -> str:
    return "none yet" if frontier is None else f"{datetime.fromtimestamp(frontier[0] / 1000, tz=UTC):%Y-%m-%d %H:%M:%S} UTC"


@command.command("verify")
@state_dir
@one_step
def verify(state_dir: Path, step: int | None) -> int:
    """Read every byte of the checkpoints (or one) and compare with their manifests. Exit code 6 when any is damaged."""
    store = CheckpointStore(state_dir)
    newest = _existing(store, step)
    damaged: list[str] = []
    for number in store.list() if step is None else (newest,):
        problems = store.verify(number)
        if problems and not store.path(number).exists():
            continue  # the trainer beside us has pruned it
        click.echo(f"step {number:,}: {'sound' if not problems else 'damaged'}")
        damaged += [f"{store.path(number)}/{problem}" for problem in problems]
    if damaged:
        raise CheckpointError(
            f"{len(damaged)} files are damaged.",
            why="\n       ".join(damaged),
            remedy="start train: it sets damaged checkpoints aside and goes on from the newest sound one",
        )
    return 0


@command.command("export")
@state_dir
@one_step
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="A new directory.")
def export(state_dir: Path, step: int | None, output: Path) -> int:
    """Write embeddings of users and items with ids, chosen weights and popularity as Parquet and safetensors, and the dense layers."""
    from autoemb_pipeline.checkpoint.export import export_checkpoint  # noqa: PLC0415 - polars takes .2 s

    store = CheckpointStore(state_dir)
    if step is not None:
        _existing(store, step)
    with open_newest(store, tables_of) if step is None else open_step(store, step, tables_of) as opened:
        done = export_checkpoint(opened, checkpoint_trainer(opened.loaded).learner, output)
        click.echo(f"step {opened.loaded.step}: {done.users:,} users, {done.items:,} items, {done.width} numbers each, to {output}")
    return 0
