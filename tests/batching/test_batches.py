"""Mini-batches from a source in memory: any partitioning, interleaving, dirt, interruption or clock."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.batching import MAX_LOOSE_LETTERS, Batcher, batches, read
from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.errors import ConfigurationError, OffsetError
from autoemb_pipeline.records import Interaction, OfflineStage, RunPosition
from autoemb_pipeline.remembered import Chain, Remembered
from autoemb_pipeline.source import MemoryLog, MemorySource, SourceConfig
from tests.batching.oracle import mini_batches
from tests.source.oracle.items import ConsumedRecord, Remainder, released_of
from tests.strategies import partition_logs

Values = Sequence[Sequence[Interaction | bytes | None]]
ENDING = SourceConfig(topic="t", run_id="r", until_end=True)
LIVE = SourceConfig(topic="t", run_id="r", idle_timeout=10.0)
PATIENT = SourceConfig(topic="t", run_id="r", idle_timeout=math.inf)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def log_of(values: Values) -> MemoryLog:
    log = MemoryLog(len(values))
    for partition, records in enumerate(values):
        for value in records:
            log.append(partition, value)
    return log


def chunks(sizes: Sequence[int]) -> Callable[[], int]:
    """Endless fetch sizes: the drawn ones again and again, and at last something, so that every stream ends."""
    state = {"at": 0}

    def next_size() -> int:
        state["at"] += 1
        return sizes[state["at"] % len(sizes)] if sizes and state["at"] % 7 else 1

    return next_size


def run(
    log: MemoryLog,
    size: int,
    *,
    position: RunPosition | None = None,
    step: int = 0,
    fetches: Sequence[int] = (),
    recorded: Mapping[int, Mapping[int, int]] | None = None,
    config: SourceConfig = ENDING,
    limit: int | None = None,
    offline: OfflineStage | None = None,
    examples: int = 0,
) -> tuple[list[MiniBatch], list[RunPosition]]:
    """All mini-batches to the end (or `limit` of them), and the position after each."""
    start = position or RunPosition()
    source = MemorySource(log, start, config=config, chunk=chunks(fetches) if fetches else lambda: 500)
    batcher = Batcher(batch_size=size, position=start, step=step, recorded=recorded, offline=offline, examples=examples)
    done, positions = [], []
    polls = itertools.count()

    if limit == 0:
        return done, positions
    for batch in read(source, batcher, patience=0):
        assert next(polls) < 5_000, f"no end in sight after {len(done)} mini-batches"
        if batch is not None:
            done.append(batch)
            positions.append(batcher.position())
        if limit is not None and len(done) >= limit:
            break
    return done, positions


fetch_sizes = st.lists(st.integers(0, 9), max_size=5)
batch_sizes = st.integers(1, 9)


@settings(deadline=None)
@given(partition_logs(dirty=False), fetch_sizes, batch_sizes)
def test_any_partitioning_and_interleaving_gives_the_datasets_own_batches(drawn, fetches, size):
    stream, values = drawn
    done, _ = run(log_of(values), size, fetches=fetches)
    assert [batch.records for batch in done] == [stream[i : i + size] for i in range(0, len(stream), size)]
    assert [batch.step for batch in done] == list(range(1, len(done) + 1))
    assert sum(batch.late + batch.duplicates + len(batch.dead_letters) for batch in done) == 0


@settings(deadline=None)
@given(partition_logs(dirty=False), fetch_sizes, batch_sizes)
def test_a_live_stream_with_dense_sequences_needs_no_clock(drawn, fetches, size):
    stream, values = drawn
    if not stream or any(not log for log in values):
        return  # without a first head of each partition nothing is known of the order
    whole = len(stream) // size
    # What was released last tells which sequence is next; the first release needs every partition's head.
    done, _ = run(log_of(values), size, fetches=fetches, config=PATIENT, limit=whole)
    assert [batch.records for batch in done] == [stream[i : i + size] for i in range(0, whole * size, size)]


@settings(deadline=None)
@given(partition_logs(dirty=True), fetch_sizes, batch_sizes)
def test_dirt_changes_nothing_else_and_every_offset_is_accounted_for(drawn, fetches, size):
    stream, values = drawn
    log = log_of(values)
    done, positions = run(log, size, fetches=fetches)
    trained = [batch.records for batch in done if batch.records]
    assert trained == [stream[i : i + size] for i in range(0, len(stream), size)]

    dead = {(letter.partition, letter.offset) for batch in done for letter in batch.dead_letters}
    rubbish = {(p, o) for p, records in enumerate(values) for o, value in enumerate(records) if not isinstance(value, Interaction)}
    assert dead == rubbish
    assert sum(len(batch.dead_letters) for batch in done) == len(rubbish)
    interactions = sum(isinstance(value, Interaction) for records in values for value in records)
    assert sum(batch.duplicates for batch in done) == interactions - len(stream)
    if done:
        assert positions[-1].next_offsets == {p: log.end(p) for p in range(log.partitions)}


@settings(deadline=None)
@given(partition_logs(dirty=True), fetch_sizes, fetch_sizes, batch_sizes)
def test_fetches_never_show_in_a_batch(drawn, fetches, other_fetches, size):
    _, values = drawn
    assert run(log_of(values), size, fetches=fetches) == run(log_of(values), size, fetches=other_fetches)


@settings(deadline=None)
@given(partition_logs(dirty=False), st.lists(st.sampled_from(["set", "other", None]), min_size=1), fetch_sizes, fetch_sizes, batch_sizes)
def test_nor_do_they_with_several_datasets_and_unsequenced_records(drawn, names, fetches, other_fetches, size):
    stream, values = drawn
    mixed = [[value._replace(dataset=names[value.sequence % len(names)]) for value in log] for log in values]
    once, again = (run(log_of(mixed), size, fetches=f) for f in (fetches, other_fetches))
    assert once == again
    assert sum(len(batch.records) for batch in once[0]) == len(stream)


@settings(deadline=None)
@given(partition_logs(dirty=True), fetch_sizes, fetch_sizes, batch_sizes, st.data())
def test_resume_at_any_boundary_is_as_if_never_stopped(drawn, fetches, other_fetches, size, data):
    _, values = drawn
    whole, positions = run(log_of(values), size, fetches=fetches)
    at = data.draw(st.integers(0, len(whole)))
    position = positions[at - 1] if at else RunPosition()
    rest, rest_positions = run(log_of(values), size, position=position, step=at, fetches=other_fetches)
    assert rest == whole[at:]
    assert rest_positions == positions[at:]


@st.composite
def disturbed(draw):
    """(log values by arrival, decisions): records arriving in any order across partitions, between polls and jumps of the clock."""
    _, values = draw(partition_logs(dirty=True, max_size=40))
    queues = [list(records) for records in values]
    script: list[tuple[str, int]] = []
    while any(queues):
        p = draw(st.sampled_from([p for p, queue in enumerate(queues) if queue]))
        count = draw(st.integers(1, len(queues[p])))
        script.append(("arrive", p * 1000 + count))
        del queues[p][:count]
        script += draw(st.lists(st.sampled_from([("poll", 0), ("wait", 4), ("wait", 11)]), max_size=4))
    return values, script


def live_run(
    values: Values, script: Sequence[tuple[str, int]], size: int, partitions: int | None = None
) -> tuple[MemoryLog, list[MiniBatch], list[RunPosition]]:
    """`partitions` there are at the start, by default all; the others are added with their first records."""
    clock = Clock()
    log = MemoryLog(len(values) if partitions is None else partitions)
    source = MemorySource(log, config=LIVE, clock=clock)
    batcher = Batcher(batch_size=size, position=RunPosition(), batch_timeout=7.0, clock=clock)
    batcher.start_from(source.start_offsets)
    done, positions = [], []
    for kind, amount in [*script, *[("poll", 0), ("wait", 11)] * 100]:
        if kind == "arrive":
            partition, count = divmod(amount, 1000)
            while log.partitions <= partition:
                log.add_partition()
            for value in values[partition][log.end(partition) : log.end(partition) + count]:
                log.append(partition, value)
        clock.now += amount if kind == "wait" else 0.0
        for _ in range(3):
            batcher.start_from(source.add_partitions())
            batcher.add(source.poll_many(batcher.room, 0))
            batch = batcher.close(exhausted=source.exhausted)
            if batch is not None:
                done.append(batch)
                positions.append(batcher.position())
        if sum(positions[-1].next_offsets.values() if positions else ()) == sum(map(len, values)):
            break
    return log, done, positions


@settings(max_examples=200, deadline=None)
@given(disturbed(), batch_sizes, fetch_sizes, st.data())
def test_recorded_boundaries_override_the_clock(drawn, size, fetches, data):
    values, script = drawn
    log, lived, positions = live_run(values, script, size, data.draw(st.integers(1, len(values))))
    recorded = {batch.step: batch.next_offsets for batch in lived}
    assert sum(len(batch.records) + batch.duplicates + len(batch.dead_letters) for batch in lived) == sum(map(len, values))
    at = data.draw(st.integers(0, len(lived)))
    position = positions[at - 1] if at else RunPosition()
    for config in (ENDING, PATIENT):
        again, again_positions = run(
            log, size, position=position, step=at, recorded=recorded, fetches=fetches, config=config, limit=len(lived) - at
        )
        assert again == lived[at:]
        assert again_positions == positions[at:]


@settings(max_examples=200, deadline=None)
@given(disturbed(), batch_sizes)
def test_order_inside_a_batch_is_the_merge_of_its_slices(drawn, size):
    values, script = drawn
    _, lived, _ = live_run(values, script, size)
    before = dict.fromkeys(range(len(values)), 0)
    frontier = None
    for batch in lived:
        slices = []
        for partition, start in before.items():
            usable = []
            seen = max((v.sequence for v in values[partition][:start] if isinstance(v, Interaction)), default=-1)
            for value in values[partition][start : batch.next_offsets[partition]]:
                if isinstance(value, Interaction) and value.sequence > seen:
                    usable.append(value)
                    seen = value.sequence
            slices.append(usable)
        expected, late = [], 0
        while any(slices):
            head = min((s for s in slices if s), key=lambda s: (s[0].timestamp, s[0].sequence))
            expected.append(head.pop(0))
            key = (expected[-1].timestamp, expected[-1].dataset, expected[-1].sequence)
            late += frontier is not None and key < frontier
            frontier = key if frontier is None else max(frontier, key)
        assert batch.records == expected
        assert batch.late == late
        before = batch.next_offsets


def record(timestamp: int, sequence: int | None, partition: int = 0, offset: int = 0, dataset: str | None = "set") -> ConsumedRecord:
    return ConsumedRecord(Interaction("u", "i", 1.0, timestamp, dataset, sequence), partition, offset)


def test_late_records_are_those_below_the_frontier_of_all_before():
    batcher = Batcher(batch_size=3, position=RunPosition(frontier=(50, "set", 5)))
    batcher.add(
        released_of([record(40, 4, partition=0, offset=0), record(60, 6, partition=0, offset=1), record(50, 5, partition=0, offset=2)])
    )
    batch = batcher.close()
    assert batch is not None
    assert [i.timestamp for i in batch.records] == [40, 60, 50]
    assert batch.late == 2  # 40 lies below the frontier taken over, 50 below the 60 before it
    assert batcher.position().frontier == (60, "set", 6)


def test_equal_keys_are_not_late():
    batcher = Batcher(batch_size=2, position=RunPosition())
    batcher.add(released_of([record(40, None, dataset=None), record(40, None, offset=1, dataset=None)]))
    batch = batcher.close()
    assert batch is not None
    assert batch.late == 0


def test_the_clock_closes_a_partial_batch_after_its_first_item():
    clock = Clock()
    batcher = Batcher(batch_size=10, position=RunPosition(), batch_timeout=5.0, clock=clock)
    clock.now = 100.0
    assert batcher.close() is None  # nothing in it yet: there is nothing to wait for
    batcher.add(released_of([record(1, 0)]))
    clock.now = 104.9
    assert batcher.close() is None
    clock.now = 105.0
    batch = batcher.close()
    assert batch is not None
    assert len(batch.records) == 1
    clock.now = 200.0
    assert batcher.close() is None


def test_what_is_being_filled_is_no_part_of_the_position():
    batcher = Batcher(batch_size=2, position=RunPosition(next_offsets={0: 0}))
    batcher.add(released_of([record(1, 0), record(2, 1, offset=1)]))
    batcher.close()
    after_two = batcher.position()
    batcher.add(released_of([record(3, 2, offset=2)]))
    deliveries = {0: (Remembered("set", (Chain((0, 1), (0, 1), (1, 2), (1, 2)),)),)}
    assert batcher.position() == after_two == RunPosition(next_offsets={0: 2}, deliveries=deliveries, frontier=(2, "set", 1))


def test_a_topic_of_rubbish_is_handed_on_in_parts():
    count = 2 * MAX_LOOSE_LETTERS + 10
    log = log_of([[b"rubbish"] * count])
    done, positions = run(log, 500)
    assert [len(batch.dead_letters) for batch in done] == [MAX_LOOSE_LETTERS, MAX_LOOSE_LETTERS, 10]
    assert [letter.offset for batch in done for letter in batch.dead_letters] == list(range(count))
    assert positions[-1].next_offsets == {0: count}


def test_a_boundary_beyond_the_streams_end_is_an_error():
    log = log_of([[record(n, n).interaction for n in range(5)]])
    recorded = {1: {0: 3}, 2: {0: 8}}
    with pytest.raises(OffsetError, match="ends at offset 5, before 8"):
        run(log, 3, recorded=recorded, config=SourceConfig(topic="t", run_id="r", until_end=True, truncation_grace=0.0))


def test_a_boundary_inside_what_cannot_be_divided_is_an_error():
    values = [b"rubbish", record(1, 0).interaction, record(2, 1).interaction]
    recorded = {1: {0: 1}}
    done, _ = run(log_of([values]), 5, recorded=recorded, limit=1)
    assert [len(batch.dead_letters) for batch in done] == [1]  # announced, the run of unusable records is cut there
    source = MemorySource(log_of([values]), config=ENDING)
    with pytest.raises(OffsetError, match="no record that ends at"):
        source.poll_many(10, 0, {0: 1})


@pytest.mark.parametrize("count", [5, 6])
def test_unusable_records_at_a_partitions_end_come_last(count):
    later = [record(n, n).interaction for n in range(1, count)]
    done, positions = run(log_of([[record(0, 0).interaction, b"rubbish"], [*later, None]]), 2)
    assert [i.sequence for batch in done for i in batch.records] == list(range(count))
    assert [len(batch.dead_letters) for batch in done] == [0] * (len(done) - 1) + [2]
    assert positions[-1].next_offsets == {0: 2, 1: count}


def test_remainders_join_the_batch_being_filled():
    batcher = Batcher(batch_size=2, position=RunPosition())
    batcher.add(released_of([Remainder(1, 4, duplicates=3), record(1, 0)]))
    assert batcher.close() is None
    batcher.add(released_of([record(2, 1, offset=1)]))
    batch = batcher.close()
    assert batch is not None
    assert (batch.duplicates, batch.next_offsets) == (3, {1: 4, 0: 2})


def test_added_partitions_are_read_from_their_start():
    log = log_of([[record(n, n).interaction for n in range(4)]])
    source = MemorySource(log, config=LIVE)
    batcher = Batcher(batch_size=2, position=RunPosition())
    stream = batches(source, batcher, patience=0)
    assert next(stream).next_offsets == {0: 2}
    new = log.add_partition()
    for n in range(4, 8):
        log.append(new, record(n, n).interaction)
    records = [i.sequence for _ in range(3) for i in next(stream).records]
    assert source.add_partitions() == {}
    assert records == [2, 3, 4, 5, 6, 7]
    assert batcher.position().next_offsets == {0: 4, 1: 4}


def test_a_stream_that_falls_silent_is_told_and_its_partial_batch_waits():
    log = log_of([[record(n, n).interaction for n in range(5)]])
    source = MemorySource(log, config=LIVE)
    batcher = Batcher(batch_size=2, position=RunPosition())
    told = list(itertools.islice(read(source, batcher, patience=0), 6))
    assert [len(batch.records) for batch in told if batch is not None] == [2, 2]
    assert told[-1] is None
    assert batcher.waiting.interactions == 1
    assert batcher.position().next_offsets == {0: 4}


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 5, "batch_timeout": 0.0}])
def test_wrong_sizes_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        Batcher(position=RunPosition(), **wrong)


@settings(deadline=None)
@given(partition_logs(dirty=False), fetch_sizes, batch_sizes, st.data())
def test_no_mini_batch_belongs_to_both_stages(drawn, fetches, size, data):
    stream, values = drawn
    times = sorted({r.timestamp for r in stream}) or [0]
    count = data.draw(st.none() | st.integers(0, len(stream) + 2))
    until = data.draw(st.none() | st.sampled_from(times))
    offline = OfflineStage(count=count, until_ms=until)
    if count is None and until is None:
        return
    expected = [batch.records for batch in mini_batches(lambda: stream, size, offline)]
    done, positions = run(log_of(values), size, fetches=fetches, offline=offline)
    assert [batch.records for batch in done] == expected
    if len(done) > 1:  # resumed at any boundary, and with recorded boundaries
        cut = data.draw(st.integers(0, len(done) - 1))
        at = {"position": positions[cut], "step": cut + 1, "examples": sum(len(b.records) for b in done[: cut + 1])}
        resumed, _ = run(log_of(values), size, offline=offline, **at)
        assert [batch.records for batch in resumed] == expected[cut + 1 :]
        recorded = {b.step: b.next_offsets for b in done[cut + 1 :]}
        resumed, _ = run(log_of(values), size, offline=offline, recorded=recorded, **at)
        assert [batch.records for batch in resumed] == expected[cut + 1 :]
