"""Where a run goes on: its identity, its newest valid checkpoint, and what its topics already hold beyond it.

Resume (design, invariant 8): M is the last step of this run in the metrics topic. Steps c+1..M are recomputed silently, with the mini-batch
boundaries recorded there; from M+1 on everything is emitted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
import torch

from pipeline.checkpoint.contents import LoadedCheckpoint
from pipeline.checkpoint.identity import RunIdentity, environment, environment_changes
from pipeline.checkpoint.store import CheckpointStore, NewestValid
from pipeline.errors import CheckpointError
from pipeline.records import RunPosition
from pipeline.sink.recover import metrics_end, read_dead_letter_keys, read_run
from schemas.registry import RegistryCodec

_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputTopics:
    """Where a run's metrics and dead letters go, and how to read them back."""

    kafka: Mapping[str, str]
    metrics: str
    dead_letters: str
    registry: RegistryCodec | None = None

    def ends(self) -> tuple[int, int]:
        """(metrics, dead letters): where the topics go on now."""
        return metrics_end(self.kafka, self.metrics), metrics_end(self.kafka, self.dead_letters)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """All that a run needs to go on, or to begin.

    Attributes:
        identity: whose run.
        step: c, the checkpoint's step; 0 at the beginning.
        position: where the stream goes on.
        outputs_at: (metrics, dead letters) positions to read back from at the next resume.
        checkpoint: what was loaded; None at the beginning.
        recorded: step -> boundaries of the steps c+1..M.
        last_step: M.
        known_letters: dead letters the topic holds since the checkpoint.
    """

    identity: RunIdentity
    step: int = 0
    position: RunPosition = field(default_factory=RunPosition)
    outputs_at: tuple[int, int]
    checkpoint: LoadedCheckpoint | None = None
    recorded: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    last_step: int = 0
    known_letters: frozenset[str] = frozenset()


def resume(store: CheckpointStore, identity: RunIdentity, outputs: OutputTopics, *, new: bool, device: str, threads: int | None) -> Resumed:
    """Finds where to go on; the state directory is locked, and with transactions the run's producer is open.

    Also sets torch's threads, as asked for, else as the checkpoint was made with: their number decides the last bits of sums.

    Args:
        store: the state directory's checkpoints.
        identity, new: from `open_identity`.
        outputs: where the run's metrics and dead letters are.
        device: for comparing the environment.
        threads: torch's; None: as at the checkpoint, else torch's default.

    Raises:
        CheckpointError: all checkpoints are damaged.
        OffsetError: the metrics topic no longer reaches back to the checkpoint.
    """
    start = (identity.metrics_start, identity.dead_letters_start)
    if threads is not None:
        torch.set_num_threads(threads)
    if new:
        return Resumed(identity=identity, outputs_at=start)
    found = store.recover()
    _report(found)
    checkpoint = None if found.step is None else store.load(found.step)
    payload = {} if checkpoint is None else checkpoint.payload
    at = start if checkpoint is None else (payload["outputs_at"][0], payload["outputs_at"][1])
    step = 0 if checkpoint is None else checkpoint.step
    recorded = read_run(outputs.kafka, outputs.metrics, identity.run_id, at[0], registry=outputs.registry)
    resumed = Resumed(
        identity=identity,
        step=step,
        position=RunPosition() if checkpoint is None else position_from_json(payload["position"]),
        outputs_at=at,
        checkpoint=checkpoint,
        recorded=recorded.after(step),
        last_step=max(step, recorded.last_step),
        known_letters=read_dead_letter_keys(outputs.kafka, outputs.dead_letters, at[1]),
    )
    if checkpoint is not None:
        if threads is None:
            torch.set_num_threads(int(payload["environment"]["threads"]))
        _compare_environment(payload["environment"], device)
    _log.info("resuming", run_id=identity.run_id, checkpoint=step, recompute_to=resumed.last_step)
    return resumed


def position_to_json(position: RunPosition) -> dict[str, Any]:
    """A position as a checkpoint's manifest holds it."""
    return {
        "next_offsets": {str(partition): offset for partition, offset in sorted(position.next_offsets.items())},
        "highest_sequences": [[dataset, p, sequence] for (dataset, p), sequence in sorted(position.highest_sequences.items())],
        "frontier": None if position.frontier is None else list(position.frontier),
    }


def position_from_json(value: Mapping[str, Any]) -> RunPosition:
    """The inverse of `position_to_json`."""
    frontier: Sequence[Any] | None = value["frontier"]
    return RunPosition(
        next_offsets={int(partition): offset for partition, offset in value["next_offsets"].items()},
        highest_sequences={(dataset, partition): sequence for dataset, partition, sequence in value["highest_sequences"]},
        frontier=None if frontier is None else (frontier[0], frontier[1], frontier[2]),
    )


def _report(found: NewestValid) -> None:
    for refused in found.refused:
        _log.warning("damaged checkpoint refused", path=str(refused.path), problems=list(refused.problems))
    if found.step is None and found.refused:
        raise CheckpointError(
            "Every checkpoint of this run is damaged",
            why="; ".join(f"{r.path.name}: {r.problems[0]}" for r in found.refused),
            remedy="restore the state directory from a backup, or begin anew with --new-run",
        )


def _compare_environment(saved: Mapping[str, Any], device: str) -> None:
    changes = environment_changes(saved, environment(device))
    if changes:
        _log.warning("not bit for bit the same machine as at the checkpoint", changes=changes)
