"""What counts as a re-delivery: every record trained before, and no other that its time can tell from those."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline import deliveries
from autoemb_pipeline.checkpoint.position import position_from_json, position_to_json
from autoemb_pipeline.deliveries import MAX_ANCHORS, MAX_CHAINS, MAX_DATASETS, PartitionDeliveries
from autoemb_pipeline.records import RereadPosition, RunPosition
from autoemb_pipeline.schemas.codec import MAX_SEQUENCE, MAX_TIMESTAMP

Record = tuple[int, int]  # sequence, time


@contextmanager
def few_anchors(count: int) -> Iterator[None]:
    """So that short streams, too, need more spans than there may be."""
    with patch.object(deliveries, "MAX_ANCHORS", count), patch.object(deliveries, "_PARTITION_ANCHORS", 8 * count):
        yield


def admit(known: PartitionDeliveries, records: Sequence[Record], dataset: str = "web") -> list[Record]:
    """The records that are new."""
    return [record for record in records if known.admit(dataset, *record)]


@st.composite
def datasets(draw: st.DrawFn, start: int = 1_000_000) -> list[Record]:
    """One partition's records of a dataset: sequences with gaps, times ascending with ties."""
    steps = draw(st.lists(st.tuples(st.sampled_from([1, 1, 2, 9]), st.sampled_from([0, 0, 1, 700, 90_000])), min_size=1, max_size=120))
    sequence, time, records = draw(st.integers(0, 5)) - 1, start, []
    for gap, wait in steps:
        sequence, time = sequence + gap, time + wait
        records.append((sequence, time))
    return records


anchors = st.sampled_from([8, 12, 32, MAX_ANCHORS])


@settings(deadline=None)
@given(datasets(), anchors, st.data())
def test_a_dataset_is_new_once_and_whatever_is_sent_again_is_recognised(records, count, data):
    with few_anchors(count):
        known = PartitionDeliveries()
        for at, record in enumerate(records):
            assert known.admit("web", *record)
            if data.draw(st.integers(0, 9)) == 0:  # a producer's retry
                assert admit(known, records[max(0, at - data.draw(st.integers(0, 5))) : at + 1]) == []
        before = known.snapshot()
        assert admit(known, records) == []
        assert admit(known, data.draw(st.permutations(records))) == []
        assert known.snapshot() == before


@settings(deadline=None)
@given(datasets(), st.integers(0, 119), st.sampled_from([MAX_SEQUENCE, 10**12, 500]), st.sampled_from([0, 5, 3_600_000, -50_000]))
def test_one_wrong_sequence_costs_nothing(records, at, sequence, off):
    at = min(at, len(records) - 1)
    wrong = (max(sequence, records[-1][0] + 1), records[at][1] + off)
    stream = [*records[: at + 1], wrong, *records[at + 1 :]]
    known = PartitionDeliveries()
    assert admit(known, stream) == stream
    assert admit(known, stream) == []


@pytest.mark.parametrize("off", [0, 700, 3_600_000])
@pytest.mark.parametrize("wrong", [MAX_SEQUENCE, 10**15, 2**40])
def test_wrong_sequences_in_a_long_stream_cost_nothing(wrong, off):
    stream = [(sequence, 1_500_000_000_000 + 700 * sequence) for sequence in range(30_000)]
    for at in (2, 1_100, 25_000):
        stream.insert(at, (min(wrong + at, MAX_SEQUENCE), stream[at][1] + off))
    known = PartitionDeliveries()
    assert admit(known, stream) == stream
    assert admit(known, stream) == []


@settings(deadline=None)
@given(datasets(), datasets(start=10**10), st.data())
def test_a_producer_that_begins_again_is_trained_whole(first, second, data):
    known = PartitionDeliveries()
    assert admit(known, first) == first
    for at, record in enumerate(second):
        assert known.admit("web", *record)
        if data.draw(st.integers(0, 9)) == 0:
            assert admit(known, second[max(0, at - 5) : at + 1]) == []
    assert admit(known, [*second, *first]) == []


def test_a_long_stream_that_begins_again_and_again():
    known = PartitionDeliveries()
    lives = [[(s, 10**12 + 10**9 * life + 700 * s) for s in range(0, 9_000, 3)] for life in range(MAX_CHAINS)]
    for life in lives:
        assert admit(known, life) == life
    for life in lives:
        assert admit(known, life) == []
    assert sum(len(chain.first) for of in known.snapshot() for chain in of.chains) <= MAX_ANCHORS // 2


wild = st.lists(st.tuples(st.integers(0, 40) | st.just(MAX_SEQUENCE), st.integers(0, 40) | st.just(MAX_TIMESTAMP)), max_size=80)


@settings(deadline=None)
@given(wild, anchors)
def test_records_of_any_kind_never_break_the_bounds(records, count):
    chains = MAX_CHAINS if count == MAX_ANCHORS else 2
    with few_anchors(count), patch.object(deliveries, "MAX_CHAINS", chains):
        known = PartitionDeliveries()
        for record in records:
            fresh = known.admit("web", *record)
            assert not known.admit("web", *record)
            (of,) = known.snapshot()
            assert sum(len(chain.first) for chain in of.chains) <= count // 2
            assert len(of.chains) <= chains
            for chain in of.chains:
                assert all(a <= b for a, b in zip(chain.first, chain.last, strict=True))
                assert all(a < b for a, b in zip(chain.last, chain.first[1:], strict=False))
            if not fresh:
                spans = [span for chain in of.chains for span in zip(*chain, strict=True)]
                assert any(first <= record[0] <= last and low <= record[1] <= high for first, last, low, high in spans)


named = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d"]), st.integers(0, 30), st.integers(0, 30)), max_size=80)


@settings(deadline=None)
@given(named, anchors, st.integers(0, 80))
def test_it_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(records, count, at):
    with few_anchors(count), patch.object(deliveries, "MAX_DATASETS", 3):
        whole = PartitionDeliveries()
        for record in records[:at]:
            whole.admit(*record)
        again = {"deliveries": {7: whole.snapshot()}}
        position = RunPosition(**again, reread=RereadPosition(epoch=2, next_offsets={7: 1}, **again))
        loaded = position_from_json(json.loads(json.dumps(position_to_json(position))))
        assert loaded == position
        resumed = PartitionDeliveries(loaded.deliveries[7])
        assert [resumed.admit(*record) for record in records[at:]] == [whole.admit(*record) for record in records[at:]]
        assert resumed.snapshot() == whole.snapshot()


@settings(deadline=None)
@given(named, anchors)
def test_many_at_once_are_the_same_as_one_by_one(records, count):
    with few_anchors(count):
        one, many = PartitionDeliveries(), PartitionDeliveries()
        new = [record for record in records if one.admit(*record)]
        start = 0
        for end in [i for i in range(1, len(new) + 1) if i == len(new) or new[i][0] != new[i - 1][0]]:
            many.admit_all(new[start][0], np.array([r[1] for r in new[start:end]]), np.array([r[2] for r in new[start:end]]))
            start = end
        assert many.snapshot() == one.snapshot()


@pytest.mark.parametrize("size", [1, 7, 500, 3_000])
def test_mini_batches_are_the_same_as_one_by_one(size):
    stream = [(sequence, 10**12 + 700 * sequence) for sequence in range(5_000)]
    one, many = PartitionDeliveries(), PartitionDeliveries()
    assert admit(one, stream) == stream
    for at in range(0, len(stream), size):
        part = stream[at : at + size]
        many.admit_all("web", *np.array(part).T.copy())
    assert many.snapshot() == one.snapshot()


def test_of_too_many_datasets_the_one_trained_longest_ago_is_forgotten_and_the_manifest_stays_small():
    known = PartitionDeliveries()
    stream = [(sequence, 10**12 + 700 * sequence) for sequence in range(2_000)]
    for number in range(MAX_DATASETS):
        assert admit(known, stream, f"set-{number}") == stream
    assert admit(known, [stream[-1]], "set-0") == []  # no use of it: nothing was trained
    assert known.admit("set-0", 2_000, 10**12 + 700 * 2_000)
    assert known.forgotten == 0
    assert admit(known, stream, "another") == stream
    assert known.forgotten == 1
    assert [of.dataset for of in known.snapshot()] == [*(f"set-{number}" for number in range(2, MAX_DATASETS)), "set-0", "another"]
    assert admit(known, stream, "set-0") == []
    assert admit(known, stream, "set-1") == stream
    assert len(json.dumps(position_to_json(RunPosition(deliveries={0: known.snapshot()})))) < 600_000
