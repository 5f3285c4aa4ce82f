"""Writing checkpoints beside training: a short synchronous capture, the rest in a background thread."""

import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from autoemb_pipeline.checkpoint.contents import ROWS, Snapshot
from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.durable import write_synced
from autoemb_pipeline.errors import AutoembError, CheckpointError


class CapturableRows(Protocol):
    """What the writer needs of a row store (`autoemb_pipeline.state.rocks.RocksRowStore`)."""

    def capture(self) -> Any:
        """Copies of the rows changed since the last capture."""
        ...

    def persist(self, capture: Any, directory: Path) -> None:
        """Writes a captured moment's rows into a new directory; runs in the background."""
        ...

    def abandon(self, capture: Any, cause: BaseException) -> None:
        """Says that `persist` will not come."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointStats:
    """What a finished checkpoint took.

    Attributes:
        step: its step.
        fresh_bytes: written, hashed and synced; the rest was linked.
        capture_seconds: how long training stood still.
        persist_seconds: how long the background thread worked.
    """

    step: int
    fresh_bytes: int
    capture_seconds: float
    persist_seconds: float


class CheckpointWriter:
    """Writes one checkpoint at a time.

    Args:
        store: where to; the caller holds its `state_lock`.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._result: CheckpointStats | None = None
        self.last: CheckpointStats | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint was begun whose end neither `poll` nor `wait` has told yet."""
        return self._thread is not None

    def begin(self, step: int, payload: Any, tensors: Mapping[str, NDArray[Any]], store: CapturableRows) -> None:
        """Captures everything as it is now and returns; the writing goes on in the background.

        Args:
            step: last step trained; a checkpoint of the same step is replaced.
            payload: JSON value for the manifest; keys are strings.
            tensors: copied.
            store: the rows.

        Raises:
            RuntimeError: one is under way.
            TypeError: the payload cannot be stored.
            CheckpointError: the row store failed earlier.
        """
        if self._thread is not None:
            raise RuntimeError("a checkpoint is under way; call poll() or wait() first")
        started = time.perf_counter()
        snapshot = Snapshot.of(step=step, payload=payload, tensors=tensors)
        capture = store.capture()
        capture_seconds = time.perf_counter() - started
        self._error = self._result = None
        self._thread = threading.Thread(target=self._run, args=(snapshot, store, capture, capture_seconds), name=f"checkpoint-{step}")
        self._thread.start()

    def poll(self) -> int | None:
        """The step of a checkpoint that has been completed since the last call, else None; never waits.

        Raises:
            CheckpointError: it could not be written; the previous one holds.
        """
        if self._thread is None or self._thread.is_alive():
            return None
        return self.wait()

    def wait(self) -> int | None:
        """As poll, but waits for the checkpoint under way."""
        if self._thread is None:
            return None
        self._thread.join()
        self._thread = None
        if self._error is not None:
            raise _as_checkpoint_error(self._error, self._store) from self._error
        self.last = self._result
        return None if self.last is None else self.last.step

    def close(self) -> None:
        """Waits for the thread and forgets its outcome: for the way out on an error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, snapshot: Snapshot, rows: CapturableRows, capture: Any, capture_seconds: float) -> None:
        started = time.perf_counter()
        prepared: Path | None = None
        try:
            try:
                prepared = self._store.temporary(snapshot.step)
            except BaseException as error:
                rows.abandon(capture, error)
                raise
            rows.persist(capture, prepared / ROWS)
            for name, data in snapshot.encode().items():
                write_synced(prepared / name, data)
            fresh = self._store.publish(prepared, step=snapshot.step, payload=snapshot.payload)
            self._result = CheckpointStats(
                step=snapshot.step,
                fresh_bytes=fresh,
                capture_seconds=capture_seconds,
                persist_seconds=time.perf_counter() - started,
            )
        except BaseException as error:  # noqa: BLE001 - handed to the training thread by poll and wait
            self._error = error
            if prepared is not None:
                shutil.rmtree(prepared, ignore_errors=True)


def _as_checkpoint_error(error: BaseException, store: CheckpointStore) -> CheckpointError:
    steps = store.list()
    holds = f"The checkpoint of step {steps[-1]} holds." if steps else "There is no earlier one."
    why = error.why if isinstance(error, AutoembError) and error.why else str(error)
    return CheckpointError(
        f"A checkpoint could not be written to {store.directory}. {holds}",
        why=why,
        remedy="Free space on its disk (see `df`), then start again: training goes on from there.",
    )
