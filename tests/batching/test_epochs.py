"""Passes over the offline stage from a source in memory: any partitioning, dirt and interruption."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.batching import Batcher
from autoemb_pipeline.checkpoint.position import position_from_json, position_to_json
from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.epochs import Epochs
from autoemb_pipeline.records import Interaction, OfflineStage, RunPosition
from autoemb_pipeline.source import MemoryLog, MemorySource, SourceConfig
from tests.batching.oracle import mini_batches
from tests.batching.test_batches import ENDING, Values, batch_sizes, chunks, fetch_sizes, log_of
from tests.strategies import partition_logs

Recorded = dict[int, MiniBatch]


def run(
    log: MemoryLog,
    size: int,
    offline: OfflineStage,
    epochs: int,
    *,
    done: Sequence[MiniBatch] = (),
    position: RunPosition | None = None,
    recorded: Recorded | None = None,
    paused_at: int | None = None,
    fetches: Sequence[int] = (),
    limit: int | None = None,
    config: SourceConfig = ENDING,
    after: Callable[[int], None] = lambda _: None,
) -> tuple[list[MiniBatch], list[RunPosition]]:
    """All mini-batches that follow `done`, as the main path makes them, and the position after each as a checkpoint gives it back.

    `after` is called with each step made.
    """
    start, recorded = position or RunPosition(), recorded or {}
    chunk = chunks(fetches) if fetches else lambda: 500
    first = Batcher(
        batch_size=size,
        position=start,
        step=len(done),
        recorded={step: b.next_offsets for step, b in recorded.items() if b.epoch == 1},
        offline=offline if start.offline_end is None else None,
        examples=sum(len(b.records) for b in done if b.epoch == 1),
        pauses=epochs > 1 and start.offline_end is None,
        paused_at=paused_at,
    )
    whole = Epochs(first, start, epochs=epochs, batch_size=size)
    polls = itertools.count()
    made: list[MiniBatch] = []
    positions: list[RunPosition] = []

    @contextmanager
    def read_again(at: RunPosition) -> Iterator[MemorySource]:
        yield MemorySource(log, at, config=ENDING, chunk=chunk)

    if limit == 0:
        return made, positions
    for batch in whole.read(MemorySource(log, start, config=config, chunk=chunk), read_again, patience=0):
        assert next(polls) < 20_000, f"no end in sight after {len(made)} mini-batches"
        if batch is not None:
            made.append(batch)
            assert whole.step == batch.step
            positions.append(position_from_json(position_to_json(whole.position())))
            after(batch.step)
        if limit is not None and len(made) >= limit:
            break
    return made, positions


@st.composite
def stages(draw: st.DrawFn, stream: Sequence[Interaction]) -> OfflineStage:
    """By number, by time, or by both; perhaps empty, perhaps never ending."""
    times = st.sampled_from(sorted({r.timestamp for r in stream}) or [0])
    count = draw(st.none() | st.integers(0, len(stream) + 2))
    return OfflineStage(count=count, until_ms=draw(times if count is None else st.none() | times))


@settings(deadline=None)
@given(partition_logs(dirty=False), fetch_sizes, batch_sizes, st.integers(1, 4), st.data())
def test_the_passes_are_those_of_the_dataset_itself(drawn, fetches, size, epochs, data):
    stream, values = drawn
    offline = data.draw(stages(stream))
    wanted = [(b.step, b.epoch, b.records) for b in mini_batches(lambda: stream, size, offline, epochs)]
    made, _ = run(log_of(values), size, offline, epochs, fetches=fetches)
    assert [(b.step, b.epoch, b.records) for b in made] == wanted

    once = [r for b in made if b.epoch == 1 for r in b.records]
    assert once == stream
    over = next((i for i, r in enumerate(stream) if offline.is_over(i, r.timestamp)), None)
    if over is None and offline.until_ms is None and offline.count == len(stream):
        over = len(stream)
    for epoch in range(2, epochs + 1):
        assert [r for b in made if b.epoch == epoch for r in b.records] == ([] if over is None else stream[:over])


@settings(deadline=None)
@given(partition_logs(dirty=True), fetch_sizes, batch_sizes, st.integers(2, 3), st.data())
def test_dirt_is_counted_in_the_first_pass_alone(drawn, fetches, size, epochs, data):
    stream, values = drawn
    made, _ = run(log_of(values), size, data.draw(stages(stream)), epochs, fetches=fetches)
    letters = [(letter.partition, letter.offset) for b in made for letter in b.dead_letters]
    rubbish = [(p, o) for p, records in enumerate(values) for o, value in enumerate(records) if not isinstance(value, Interaction)]
    assert sorted(letters) == rubbish
    interactions = sum(isinstance(value, Interaction) for records in values for value in records)
    assert sum(b.duplicates for b in made) == interactions - len(stream)
    again = [b for b in made if b.epoch > 1]
    assert all(b.late == b.duplicates == len(b.dead_letters) == 0 for b in again)
    passes = [[r for b in again if b.epoch == epoch for r in b.records] for epoch in range(2, epochs + 1)]
    assert all(records == stream[: len(records)] == passes[0] for records in passes)


def paused_at(known: Sequence[MiniBatch], offline: OfflineStage) -> int | None:
    """The last step before any known one that is of the online stage or reads again."""
    examples = 0
    for batch in known:
        if batch.epoch > 1 or (batch.records and offline.is_over(examples, batch.records[0].timestamp)):
            return batch.step - 1
        examples += len(batch.records)
    return None


@settings(deadline=None, max_examples=150)
@given(partition_logs(dirty=True), fetch_sizes, fetch_sizes, batch_sizes, st.integers(2, 3), st.data())
def test_resumed_at_any_step_it_is_as_if_never_stopped(drawn, fetches, other_fetches, size, epochs, data):
    stream, values = drawn
    offline = data.draw(stages(stream))
    whole, positions = run(log_of(values), size, offline, epochs, fetches=fetches)
    at = data.draw(st.integers(0, len(whole)))
    known = data.draw(st.integers(at, len(whole)))  # the metrics topic holds the steps up to here
    resumed = run(
        log_of(values),
        size,
        offline,
        epochs,
        done=whole[:at],
        position=positions[at - 1] if at else None,
        recorded={b.step: b for b in whole[at:known]},
        paused_at=paused_at(whole[:known], offline),
        fetches=other_fetches,
    )
    assert resumed == (whole[at:], positions[at:])


@settings(deadline=None)
@given(partition_logs(dirty=True), batch_sizes, st.integers(2, 3), st.data())
def test_told_to_stop_it_begins_no_further_pass(drawn, size, epochs, data):
    stream, values = drawn
    offline = data.draw(stages(stream))
    whole, positions = run(log_of(values), size, offline, epochs)
    limit = data.draw(st.integers(0, len(whole)))
    assert run(log_of(values), size, offline, epochs, limit=limit) == (whole[:limit], positions[:limit])


def test_what_came_late_to_a_live_stream_does_not_move_the_stages_end() -> None:
    """The first life saw partition 1 silent and began the second pass; the second life is told so by the recorded steps."""
    early, late = (Interaction("u", "i", 4.0, t, "set", t) for t in (1, 3))
    online = Interaction("v", "i", 4.0, 10, "other", 0)
    values: Values = [[early, online], []]
    offline = OfflineStage(until_ms=5)
    made, _ = run(log_of(values), 2, offline, 2, limit=2)
    assert [(b.epoch, b.records) for b in made] == [(1, [early]), (2, [early])]
    values = [[early, online], [late]]
    resumed, _ = run(log_of(values), 2, offline, 2, recorded={b.step: b for b in made}, paused_at=1)
    assert [(b.epoch, b.records) for b in resumed] == [(1, [early]), (2, [early]), (1, [late, online])]


def at_times(*seconds: int) -> list[Interaction]:
    return [Interaction("u", f"i{second}", 1.0, second * 1000) for second in seconds]


@pytest.mark.parametrize("at", range(8))
def test_a_partition_added_in_the_offline_stage_is_read_again_with_it_and_one_added_later_is_not(at: int) -> None:
    log = log_of([at_times(0, 10, 20, 30, 40, 50, 60, 70)])
    added = {1: at_times(15, 35), 4: at_times(45, 46)}  # after which step; the fourth lies in the second pass

    def after(step: int) -> None:
        if step in added:
            partition = log.add_partition()
            for interaction in added[step]:
                log.append(partition, interaction)

    live, offline = SourceConfig(topic="t", run_id="r", idle_timeout=0.0), OfflineStage(count=4)
    whole, positions = run(log, 2, offline, 2, limit=8, config=live, after=after)
    times = [[r.timestamp // 1000 for r in b.records] for b in whole]
    assert times == [[0, 10], [15, 20], [0, 10], [15, 20], [30, 35], [40, 45], [46, 50], [60, 70]]
    assert [sorted(b.next_offsets) for b in whole] == [[0], [0, 1], [0, 1], [0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    assert positions[-1].first_offsets == {0: 0, 1: 0, 2: 0}
    assert positions[-1].offline_end == {0: 3, 1: 1}
    resumed = run(
        log,
        2,
        offline,
        2,
        done=whole[:at],
        position=positions[at - 1] if at else None,
        recorded={b.step: b for b in whole[at:]},
        paused_at=2,
        limit=8 - at,
        config=live,
    )
    assert resumed == (whole[at:], positions[at:])
