"""Where a run goes on: its identity, its newest valid checkpoint, and what its topics already hold beyond it.

Resume (docs/architecture.md, invariant 8): M is the last step of this run in the metrics topic. Steps c+1..M are recomputed silently, with
the mini-batch boundaries recorded there; from M+1 on everything is emitted.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from autoemb_pipeline.checkpoint.contents import LoadedCheckpoint
from autoemb_pipeline.checkpoint.identity import RunIdentity, environment, environment_changes, restore_threads, topics_of
from autoemb_pipeline.checkpoint.outputs import Emission, OutputTopics, read_emission
from autoemb_pipeline.checkpoint.position import position_from_json
from autoemb_pipeline.checkpoint.store import CheckpointStore, NewestValid
from autoemb_pipeline.errors import CheckpointError
from autoemb_pipeline.learners.config import LearnerConfig
from autoemb_pipeline.offsets import TOPIC_STRIDE
from autoemb_pipeline.records import AHEAD, RunPosition
from autoemb_pipeline.sink.recover import RecordedRun, read_dead_letters, read_run

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
        paused_at: the last step of the offline stage's first epoch, where steps beyond it are recorded; else None.
        last_step: M.
        recorded_examples: step -> interactions of the run up to it, of the steps recorded.
        known_letters: dead letters the topic holds since the checkpoint.
        refused: partition -> offsets of the records since the checkpoint that were refused by the clock: not to be decided anew.
    """

    identity: RunIdentity
    step: int = 0
    position: RunPosition = field(default_factory=RunPosition)
    outputs_at: tuple[int, int]
    checkpoint: LoadedCheckpoint | None = None
    recorded: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    paused_at: int | None = None
    last_step: int = 0
    recorded_examples: Mapping[int, int] = field(default_factory=dict)
    known_letters: frozenset[str] = frozenset()
    refused: Mapping[int, frozenset[int]] = field(default_factory=dict)


def resume(store: CheckpointStore, identity: RunIdentity, outputs: OutputTopics, *, learner: LearnerConfig, threads: int | None) -> Resumed:
    """Finds where to go on; the state directory is locked, and with transactions the run's producer is open.

    Also sets torch's threads where the learner uses it, as asked for, else as the checkpoint was made with: their number decides the last
    bits of sums.

    Args:
        store: the state directory's checkpoints.
        identity: from `open_identity`.
        outputs: where the run's metrics and dead letters are.
        learner: the run's.
        threads: torch's; None: as at the checkpoint, else torch's default.

    Raises:
        CheckpointError: the run has begun and has no checkpoint that can be used, or the newest is another run's.
        OffsetError: the metrics topic no longer reaches back to what the run wrote last.
    """
    restore_threads(learner, {}, threads)
    newest = store.recover()
    _report(newest)
    if newest.step is None:
        if newest.refused or identity.begun:
            raise _nothing_to_go_on_from(store, identity, newest)
        return Resumed(identity=identity, outputs_at=(identity.metrics_start, identity.dead_letters_start))
    checkpoint = store.load(newest.step)
    resumed = _where(store.root, identity, outputs, checkpoint)
    restore_threads(learner, checkpoint.payload["environment"], threads)
    _compare_environment(checkpoint.payload["environment"], learner)
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
    start = (payload["outputs_at"][0], payload["outputs_at"][1])
    if emission is not None:
        start = outputs.nearest(start) if emission.since is None else emission.since
    recorded = read_run(outputs.kafka, outputs.metrics, identity.run_id, start[0], registry=outputs.registry)
    letters = read_dead_letters(outputs.kafka, outputs.dead_letters, start[1])
    if emission is not None and emission.since is None and recorded.last_step <= step:
        start, letters = outputs.ends(), {}
        Emission(run_id=identity.run_id, step=step, since=start).write(state_dir)
    return Resumed(
        identity=identity,
        step=step,
        position=position_from_json(payload["position"], checkpoint.tensors),
        outputs_at=start,
        checkpoint=checkpoint,
        recorded={number: offsets for number, offsets in recorded.after(step).items() if number not in recorded.rereads},
        paused_at=recorded.paused_at,
        last_step=max(step, recorded.last_step),
        known_letters=frozenset(letters),
        refused=_refused(recorded, step, letters, topics_of(identity.configuration)),
        recorded_examples=recorded.examples,
    )


def _refused(recorded: RecordedRun, step: int, letters: Mapping[str, str], topics: Sequence[str]) -> Mapping[int, frozenset[int]]:
    """What the steps after the checkpoint's refused by the clock, and what stands in the dead-letter topic without its step beyond them.

    Of what the recorded steps read, they alone know: another run may write to the same dead-letter topic.
    """
    refused: dict[int, set[int]] = {}
    for number, offsets_of in recorded.refused.items():
        if number > step:
            for partition, offsets in offsets_of.items():
                refused.setdefault(partition, set()).update(offsets)
    ends: dict[int, int] = {}
    for number, boundary in recorded.next_offsets.items():
        if number not in recorded.rereads:
            ends |= {p: max(offset, ends.get(p, 0)) for p, offset in boundary.items()}
    numbers = {topic: index * TOPIC_STRIDE for index, topic in enumerate(topics)}
    for topic, place, offset in _places(key for key, reason in letters.items() if reason == AHEAD):
        partition = numbers.get(topic, -TOPIC_STRIDE) + place
        if partition >= 0 and offset >= ends.get(partition, 0):
            refused.setdefault(partition, set()).add(offset)
    return {partition: frozenset(offsets) for partition, offsets in refused.items()}


def _places(keys: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    """(topic, partition, offset) of the keys that are a dead letter's id."""
    for key in keys:
        match = re.fullmatch(r"(.+):(\d+):(\d+)", key)
        if match is not None:
            yield match[1], int(match[2]), int(match[3])


def _report(newest: NewestValid) -> None:
    for refused in newest.refused:
        _log.warning("damaged checkpoint refused", path=str(refused.path), problems=list(refused.problems))


def _nothing_to_go_on_from(store: CheckpointStore, identity: RunIdentity, newest: NewestValid) -> CheckpointError:
    """Raised at every start until somebody decides: to begin again from here would skip what the topic no longer holds, and say nothing."""
    remedy = "restore the state directory from a backup, or begin anew with --new-run"
    if newest.refused:
        why = "; ".join(f"{r.path.name}: {r.problems[0]}" for r in newest.refused)
        return CheckpointError("Every checkpoint of this run is damaged", why=why, remedy=remedy)
    return CheckpointError(
        f"Run {identity.run_id} has begun, and {store.directory} holds no checkpoint of it that can be used",
        why="a run has one from its first second on: they were removed, or set aside as damaged by an earlier start",
        remedy=remedy,
    )


def _compare_environment(saved: Mapping[str, Any], learner: LearnerConfig) -> None:
    changes = environment_changes(saved, environment(learner))
    if changes:
        _log.warning("not bit for bit the same machine as at the checkpoint", changes=changes)
