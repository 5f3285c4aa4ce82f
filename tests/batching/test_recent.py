"""Re-deliveries by the events' own ids: the window, and the mini-batches that it makes."""

from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline.batching import Batcher, batches
from autoemb_pipeline.columns import Block, MiniBatch, Released
from autoemb_pipeline.epochs import Epochs
from autoemb_pipeline.recent import RecentEvents
from autoemb_pipeline.records import Interaction, OfflineStage, RunPosition
from autoemb_pipeline.source import MemorySource, SourceConfig


@given(st.integers(0, 5), st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=8), st.data())
def test_the_window_holds_the_newest(limit: int, mini_batches: list[list[int]], data: st.DataObject) -> None:
    window, plain = RecentEvents(limit=limit), deque[int](maxlen=limit)
    for events in mini_batches:
        assert window.known(np.array(events, np.int64)).tolist() == [event in plain for event in events]
        new = [event for event in dict.fromkeys(events) if event and event not in plain]
        window.add(np.array(new, np.int64))
        plain.extend(new)
        assert np.frombuffer(window.snapshot(), "<i8").tolist() == list(plain)
        if data.draw(st.booleans()):
            window = RecentEvents(window.snapshot(), limit=limit)


class EventLog:
    """Partitions of interactions whose events have ids; an id of 0 is none."""

    def __init__(self, partitions: list[list[tuple[int, int]]]) -> None:
        self._blocks = [self._block(records) for records in partitions]
        self.partitions = len(partitions)

    def end(self, partition: int) -> int:
        return len(self._blocks[partition])

    def read(self, partition: int, offset: int, limit: int) -> Block:
        return self._blocks[partition][offset : offset + limit]

    @staticmethod
    def _block(records: list[tuple[int, int]]) -> Block:
        block = Block.of([Interaction(f"u{event}", "i", 1.0, time) for time, event in records])
        return replace(block, event=np.array([event for _, event in records], np.int64))


def source(log: EventLog, position: RunPosition, chunk: int = 500) -> MemorySource:
    return MemorySource(log, position, config=SourceConfig(topic="m", run_id="m", until_end=True), chunk=lambda: chunk)


def seen(made: list[MiniBatch]) -> list[tuple[Any, ...]]:
    return [
        (b.step, b.epoch, [r.user_id for r in b.records], b.block.time.tolist(), dict(b.next_offsets), b.duplicates, b.late) for b in made
    ]


def test_all_that_waits_is_counted_whatever_becomes_of_it() -> None:
    block = EventLog([[(1, 1), (2, 1), (3, 2), (4, 0), (5, 0)]]).read(0, 0, 5)
    batcher = Batcher(batch_size=10, position=RunPosition(), events_kept=5)
    batcher.start_from({0: 0})
    batcher.add(Released(block))
    assert (batcher.waiting.records, batcher.waiting.interactions) == (5, 4)


records = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), max_size=14)


@given(st.lists(records, min_size=1, max_size=3), st.integers(1, 4), st.integers(0, 5), st.integers(1, 3), st.data())
def test_a_resumed_run_makes_the_same_mini_batches(
    partitions: list[list[tuple[int, int]]], size: int, window: int, chunk: int, data: st.DataObject
) -> None:
    log = EventLog(partitions)
    batcher = Batcher(batch_size=size, position=RunPosition(), events_kept=window)
    positions, made = [batcher.position()], []
    for batch in batches(source(log, RunPosition()), batcher):
        made.append(batch)
        positions.append(batcher.position())
    total = sum(map(len, partitions))
    assert sum(len(batch) + batch.duplicates for batch in made) == total
    assert all(len(batch) == size for batch in made[:-1])
    kept = deque[str](maxlen=window)
    for batch in made:
        named = [r.user_id for r in batch.records if r.user_id != "u0"]
        assert len(set(named)) == len(named)
        assert not set(named) & set(kept)
        kept.extend(named)
    start = data.draw(st.integers(0, len(made)))
    if start == 0:
        return
    recorded = {batch.step: batch.next_offsets for batch in made[start : data.draw(st.integers(start, len(made)))]}
    again = Batcher(batch_size=size, position=positions[start], step=start, recorded=recorded, events_kept=window)
    assert seen(list(batches(source(log, positions[start], chunk), again))) == seen(made[start:])


@given(records, st.integers(1, 4))
def test_an_epoch_that_reads_again_leaves_out_what_the_first_one_did(stream: list[tuple[int, int]], size: int) -> None:
    log, offline = EventLog([stream]), OfflineStage(count=5)
    first = Batcher(batch_size=size, position=RunPosition(), offline=offline, pauses=True, events_kept=4)
    epochs = Epochs(first, RunPosition(), epochs=2, batch_size=size, events_kept=4)
    made = [b for b in epochs.read(source(log, RunPosition()), lambda position: source(log, position)) if b is not None]
    read = {epoch: [r.user_id for b in made if b.epoch == epoch for r in b.records] for epoch in (1, 2)}
    assert read[2] in ([], read[1][:5])
    assert len(read[2]) in (0, min(5, len(read[1])))
