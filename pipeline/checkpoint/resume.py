"""Where a run goes on: its identity, its newest valid checkpoint, and what its topics already hold beyond it.

Resume (design, invariant 8): M is the last step of this run in the metrics topic. Steps c+1..M are recomputed silently, with the mini-batch
boundaries recorded there; from M+1 on everything is emitted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch

from pipeline.checkpoint.contents import LoadedCheckpoint
from pipeline.checkpoint.identity import RunIdentity, environment, environment_changes
from pipeline.checkpoint.outputs import Emission, OutputTopics, read_emission
from pipeline.checkpoint.store import CheckpointStore, NewestValid
from pipeline.errors import CheckpointError
from pipeline.records import RereadPosition, RunPosition
from pipeline.sink.recover import read_dead_letter_keys, read_run

_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """All that a run needs to go on, or to begin.

    Attributes:
        identity: whose run.
        step: c, the checkpoint's step; 0 at the beginning.
        position: where the stream goes on.
        outputs_at: (metrics, dead letters) positions to read back from at the next resume.
        checkpoint: what was loaded; None at the beginning.
        recorded: step -> boundaries of the steps c+1..M that read for the first time.
        paused_at: the last step of the first pass over the offline stage, where steps beyond it are recorded; else None.
        last_step: M.
        known_letters: dead letters the topic holds since the checkpoint.
    """

    identity: RunIdentity
    step: int = 0
    position: RunPosition = field(default_factory=RunPosition)
    outputs_at: tuple[int, int]
    checkpoint: LoadedCheckpoint | None = None
    recorded: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    paused_at: int | None = None
    last_step: int = 0
    known_letters: frozenset[str] = frozenset()


def resume(store: CheckpointStore, identity: RunIdentity, outputs: OutputTopics, *, device: str, threads: int | None) -> Resumed:
    """Finds where to go on; the state directory is locked, and with transactions the run's producer is open.

    Also sets torch's threads, as asked for, else as the checkpoint was made with: their number decides the last bits of sums.

    Args:
        store: the state directory's checkpoints.
        identity: from `open_identity`.
        outputs: where the run's metrics and dead letters are.
        device: for comparing the environment.
        threads: torch's; None: as at the checkpoint, else torch's default.

    Raises:
        CheckpointError: the run has begun and has no checkpoint that can be used, or the newest is another run's.
        OffsetError: the metrics topic no longer reaches back to what the run wrote last.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    found = store.recover()
    _report(found)
    if found.step is None:
        if found.refused or identity.begun:
            raise _nothing_to_go_on_from(store, identity, found)
        return Resumed(identity=identity, outputs_at=(identity.metrics_start, identity.dead_letters_start))
    checkpoint = store.load(found.step)
    resumed = _where(store.root, identity, outputs, checkpoint)
    if threads is None:
        torch.set_num_threads(int(checkpoint.payload["environment"]["threads"]))
    _compare_environment(checkpoint.payload["environment"], device)
    _log.info("resuming", run_id=identity.run_id, checkpoint=resumed.step, recompute_to=resumed.last_step)
    return resumed


def _where(state_dir: Path, identity: RunIdentity, outputs: OutputTopics, checkpoint: LoadedCheckpoint) -> Resumed:
    """Reads back what lies beyond the checkpoint, and notes durably that from here on more may come."""
    payload, step = checkpoint.payload, checkpoint.step
    if payload["run_id"] != identity.run_id:
        raise CheckpointError(
            f"{checkpoint.directory} is a checkpoint of run {payload['run_id']}, and the state directory holds {identity.run_id}",
            why="files of two state directories were mixed",
            remedy="restore the state directory from a backup, or begin anew with --new-run",
        )
    emission = read_emission(state_dir, identity.run_id, step)
    at = (payload["outputs_at"][0], payload["outputs_at"][1])
    if emission is not None:
        at = outputs.nearest(at) if emission.since is None else emission.since
    recorded = read_run(outputs.kafka, outputs.metrics, identity.run_id, at[0], registry=outputs.registry)
    letters = read_dead_letter_keys(outputs.kafka, outputs.dead_letters, at[1])
    if emission is not None and emission.since is None and recorded.last_step <= step:
        at, letters = outputs.ends(), frozenset()
        Emission(run_id=identity.run_id, step=step, since=at).write(state_dir)
    return Resumed(
        identity=identity,
        step=step,
        position=position_from_json(payload["position"]),
        outputs_at=at,
        checkpoint=checkpoint,
        recorded={number: offsets for number, offsets in recorded.after(step).items() if number not in recorded.rereads},
        paused_at=recorded.paused_at,
        last_step=max(step, recorded.last_step),
        known_letters=letters,
    )


def position_to_json(position: RunPosition) -> dict[str, Any]:
    """A position as a checkpoint's manifest holds it."""
    reread = position.reread
    return {
        "next_offsets": _offsets_to_json(position.next_offsets),
        "highest_sequences": _sequences_to_json(position.highest_sequences),
        "frontier": None if position.frontier is None else list(position.frontier),
        "first_offsets": _offsets_to_json(position.first_offsets),
        "offline_end": None if position.offline_end is None else _offsets_to_json(position.offline_end),
        "reread": None
        if reread is None
        else {
            "epoch": reread.epoch,
            "next_offsets": _offsets_to_json(reread.next_offsets),
            "highest_sequences": _sequences_to_json(reread.highest_sequences),
        },
    }


def position_from_json(value: Mapping[str, Any]) -> RunPosition:
    """The inverse of `position_to_json`; checkpoints of runs from before the offline stage could be read again lack its part."""
    frontier: Sequence[Any] | None = value["frontier"]
    end, reread = value.get("offline_end"), value.get("reread")
    return RunPosition(
        next_offsets=_offsets_from_json(value["next_offsets"]),
        highest_sequences=_sequences_from_json(value["highest_sequences"]),
        frontier=None if frontier is None else (frontier[0], frontier[1], frontier[2]),
        first_offsets=_offsets_from_json(value.get("first_offsets", {})),
        offline_end=None if end is None else _offsets_from_json(end),
        reread=None
        if reread is None
        else RereadPosition(
            epoch=reread["epoch"],
            next_offsets=_offsets_from_json(reread["next_offsets"]),
            highest_sequences=_sequences_from_json(reread["highest_sequences"]),
        ),
    )


def _offsets_to_json(offsets: Mapping[int, int]) -> dict[str, int]:
    return {str(partition): offset for partition, offset in sorted(offsets.items())}


def _offsets_from_json(value: Mapping[str, int]) -> dict[int, int]:
    return {int(partition): offset for partition, offset in value.items()}


def _sequences_to_json(sequences: Mapping[tuple[str, int], int]) -> list[list[Any]]:
    return [[dataset, partition, sequence] for (dataset, partition), sequence in sorted(sequences.items())]


def _sequences_from_json(value: Sequence[Sequence[Any]]) -> dict[tuple[str, int], int]:
    return {(dataset, partition): sequence for dataset, partition, sequence in value}


def _report(found: NewestValid) -> None:
    for refused in found.refused:
        _log.warning("damaged checkpoint refused", path=str(refused.path), problems=list(refused.problems))


def _nothing_to_go_on_from(store: CheckpointStore, identity: RunIdentity, found: NewestValid) -> CheckpointError:
    """Raised at every start until somebody decides: to begin again from here would skip what the topic no longer holds, and say nothing."""
    remedy = "restore the state directory from a backup, or begin anew with --new-run"
    if found.refused:
        why = "; ".join(f"{r.path.name}: {r.problems[0]}" for r in found.refused)
        return CheckpointError("Every checkpoint of this run is damaged", why=why, remedy=remedy)
    return CheckpointError(
        f"Run {identity.run_id} has begun, and {store.directory} holds no checkpoint of it that can be used",
        why="a run has one from its first second on: they were removed, or set aside as damaged by an earlier start",
        remedy=remedy,
    )


def _compare_environment(saved: Mapping[str, Any], device: str) -> None:
    changes = environment_changes(saved, environment(device))
    if changes:
        _log.warning("not bit for bit the same machine as at the checkpoint", changes=changes)
