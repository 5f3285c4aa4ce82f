"""The newest checkpoint for readers beside a trainer: `predict` and `checkpoint export`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from autoemb_pipeline.checkpoint.contents import LoadedCheckpoint
from autoemb_pipeline.checkpoint.store import CheckpointStore, Refused
from autoemb_pipeline.errors import CheckpointError, StateError
from autoemb_pipeline.rows import AnySpec
from autoemb_pipeline.state.readonly import ReadOnlyRows

_ATTEMPTS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenCheckpoint:
    """A checkpoint and its rows, both of one step.

    Attributes:
        loaded: payload and tensors.
        rows: read-only.
        refused: newer checkpoints that are damaged.
    """

    loaded: LoadedCheckpoint
    rows: ReadOnlyRows
    refused: tuple[Refused, ...]


def _as_stored(_: LoadedCheckpoint) -> None:
    return None


@contextmanager
def open_step(
    store: CheckpointStore, step: int, specs_for: Callable[[LoadedCheckpoint], Sequence[AnySpec] | None] = _as_stored
) -> Iterator[OpenCheckpoint]:
    """The checkpoint of one step, as `open_newest`.

    Raises:
        CheckpointError: it is not there or damaged; the message names its damaged files.
    """
    problems = store.verify(step)
    if problems:
        raise CheckpointError(
            f"Checkpoint {store.path(step)} cannot be used.", why="; ".join(problems), remedy="autoemb-pipeline checkpoint ls"
        )
    loaded = store.load(step)
    opened = OpenCheckpoint(loaded=loaded, rows=ReadOnlyRows(loaded.rows, specs_for(loaded)), refused=())
    try:
        yield opened
    finally:
        opened.rows.close()


@contextmanager
def open_newest(
    store: CheckpointStore, specs_for: Callable[[LoadedCheckpoint], Sequence[AnySpec] | None] = _as_stored
) -> Iterator[OpenCheckpoint]:
    """The newest valid checkpoint, open until the block ends, even if the trainer prunes it meanwhile.

    Args:
        store: whose checkpoints.
        specs_for: the row store's tables, from what was loaded; by default as stored.

    Raises:
        CheckpointError: there is none, all are damaged, or its tables are others than asked for.
    """
    opened = _open(store, specs_for)
    try:
        yield opened
    finally:
        opened.rows.close()


def _open(store: CheckpointStore, specs_for: Callable[[LoadedCheckpoint], Sequence[AnySpec] | None]) -> OpenCheckpoint:
    for attempt in range(1, _ATTEMPTS + 1):
        newest = store.newest_valid()
        if newest.step is None:
            raise _none_valid(store, newest.refused)
        try:
            loaded = store.load(newest.step)
            return OpenCheckpoint(loaded=loaded, rows=ReadOnlyRows(loaded.rows, specs_for(loaded)), refused=newest.refused)
        except StateError:  # pruned between two of our steps: there is a newer one
            if store.path(newest.step).exists() or attempt == _ATTEMPTS:
                raise
    raise AssertionError


def _none_valid(store: CheckpointStore, refused: Sequence[Refused]) -> CheckpointError:
    if not refused:
        return CheckpointError(f"There is no checkpoint in {store.directory}.", remedy="autoemb-pipeline train --state-dir DIR")
    return CheckpointError(
        f"Every checkpoint in {store.directory} is damaged.",
        why="; ".join(f"{r.path.name}: {r.problems[0]}" for r in refused),
        remedy="autoemb-pipeline checkpoint verify",
    )
