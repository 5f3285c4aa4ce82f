"""Resuming, on topics in memory: the same `resume_points` and `unsent` that `replay` uses on Kafka."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.errors import TopicError
from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.datasets.synthetic import SyntheticConfig, generate
from autoemb_pipeline.producers.partitioner import Partitioner
from autoemb_pipeline.producers.resume import resume_points, unsent
from autoemb_pipeline.producers.topic_reader import Ends, Stored
from autoemb_pipeline.records import Interaction

LENGTH = 200


class MemoryTopic:
    """A topic as lists of records, with whatever offsets they have."""

    def __init__(self, partitions: int) -> None:
        self.partitions: list[list[Stored]] = [[] for _ in range(partitions)]
        self.deleted = False

    def append(self, partition: int, interaction: Interaction, fingerprint: str, *, skip: int = 0) -> None:
        log = self.partitions[partition]
        log.append(Stored(partition, (log[-1].offset + 1 if log else 0) + skip, interaction, fingerprint))

    def high_watermarks(self, partitions: int) -> list[int]:
        return [self.partitions[p][-1].offset + 1 if self.partitions[p] else 0 for p in range(partitions)]

    def ends(self, partition: int) -> Ends | None:
        log = self.partitions[partition]
        return Ends(log[0], log[-16:], deleted=self.deleted) if log else None

    def records(self, partition: int, offset: int) -> Iterator[Stored]:
        return (r for r in self.partitions[partition] if r.offset >= offset)

    def sequences(self) -> list[list[int]]:
        return [[r.interaction.sequence for r in log] for log in self.partitions]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> SortedDataset:
    config = SyntheticConfig.parse(f"synthetic:interactions={LENGTH},users=30,items=9")
    return generate(config, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("autoemb_pipeline.producers.resume._QUIET_SECONDS", 0)


def home_rows(dataset: SortedDataset, partitions: int, selection: range) -> list[list[Interaction]]:
    partitioner = Partitioner(partitions)
    rows: list[list[Interaction]] = [[] for _ in range(partitions)]
    for interaction in dataset.interactions(selection):
        rows[partitioner(interaction.user_id)].append(interaction)
    return rows


def written(dataset: SortedDataset, partitions: int, selection: range, prefixes: list[int], *, skip: int = 0) -> MemoryTopic:
    """A topic after a crash: of each partition's rows the first prefixes[p] (modulo their number plus one)."""
    topic = MemoryTopic(partitions)
    for partition, rows in enumerate(home_rows(dataset, partitions, selection)):
        for interaction in rows[: prefixes[partition % len(prefixes)] % (len(rows) + 1)]:
            topic.append(partition, interaction, dataset.fingerprint, skip=skip)
    return topic


def lacking(*arguments: Any) -> Iterator[tuple[int, Interaction]]:
    """`unsent`, one by one."""
    for partitions, block in unsent(*arguments):
        yield from zip(partitions.tolist(), block.interactions(), strict=True)


def go_on(topic: MemoryTopic, dataset: SortedDataset, selection: range, *, at_most: int | None = None) -> None:
    partitions = len(topic.partitions)
    points = resume_points(topic, dataset, selection, partitions)
    for n, (partition, interaction) in enumerate(lacking(dataset, selection, points, partitions)):
        if n == at_most:
            return
        topic.append(partition, interaction, dataset.fingerprint)


@settings(deadline=None, max_examples=60)
@given(
    partitions=st.integers(1, 8),
    prefixes=st.lists(st.integers(0, LENGTH), min_size=1, max_size=8),
    start=st.integers(0, LENGTH - 1),
    stops=st.lists(st.integers(0, LENGTH), max_size=4),
)
def test_from_any_prefix_per_partition_each_sequence_arrives_once_and_in_order(dataset, partitions, prefixes, start, stops):
    selection = range(start, LENGTH)
    topic = written(dataset, partitions, selection, prefixes)
    for at_most in stops:
        go_on(topic, dataset, selection, at_most=at_most)
    go_on(topic, dataset, selection)
    assert topic.sequences() == [[i.sequence for i in rows] for rows in home_rows(dataset, partitions, selection)]
    done = resume_points(topic, dataset, selection, partitions)
    assert (done.following, done.present) == ({}, len(selection))


@settings(deadline=None, max_examples=60)
@given(partitions=st.integers(1, 5), limits=st.lists(st.integers(0, LENGTH), min_size=1, max_size=5))
def test_growing_and_shrinking_limits_only_ever_add_what_is_missing(dataset, partitions, limits):
    topic = MemoryTopic(partitions)
    for n, limit in enumerate(limits):
        go_on(topic, dataset, range(limit))
        assert sorted(s for log in topic.sequences() for s in log) == list(range(max(limits[: n + 1])))


@settings(deadline=None, max_examples=60)
@given(partitions=st.integers(1, 4), prefixes=st.lists(st.integers(0, LENGTH), min_size=1, max_size=4), skip=st.integers(1, 3))
def test_transaction_markers_between_records_do_not_look_like_gaps(dataset, partitions, prefixes, skip):
    topic = written(dataset, partitions, range(LENGTH), prefixes, skip=skip)
    go_on(topic, dataset, range(LENGTH))
    assert sorted(s for log in topic.sequences() for s in log) == list(range(LENGTH))


@settings(deadline=None, max_examples=60)
@given(data=st.data(), partitions=st.integers(1, 4))
def test_a_lost_or_doubled_record_is_always_found(dataset, data, partitions):
    topic = written(dataset, partitions, range(LENGTH), [LENGTH])
    log = max(topic.partitions, key=len)
    victim = data.draw(st.integers(0, len(log) - 2))
    if data.draw(st.booleans()):
        del log[victim]
        log[victim:] = [r._replace(offset=r.offset - 1) for r in log[victim:]]
    else:
        log[victim + 1 :] = [
            log[victim]._replace(offset=log[victim].offset + 1),
            *(r._replace(offset=r.offset + 1) for r in log[victim + 1 :]),
        ]
    with pytest.raises(TopicError) as raised:
        resume_points(topic, dataset, range(LENGTH), partitions)
    assert raised.value.why
    assert "--topic" in raised.value.remedy


def damaged(topic: MemoryTopic, index: int, **changes) -> MemoryTopic:
    log = topic.partitions[0]
    stored = log[index]
    interaction = stored.interaction._replace(**{k: v for k, v in changes.items() if k != "fingerprint"})
    log[index] = stored._replace(interaction=interaction, fingerprint=changes.get("fingerprint", stored.fingerprint))
    return topic


@pytest.mark.parametrize("index", [0, -1])
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"dataset": "another"}, "under the name another"),
        ({"fingerprint": "0" * 32}, "was written from"),
        ({"dataset": "another", "fingerprint": "0" * 32}, "was written from another, not from synthetic"),
        ({"fingerprint": ""}, "was not written by replay"),
        ({"sequence": None}, "was not written by replay"),
        ({"dataset": None}, "was not written by replay"),
        ({"sequence": LENGTH}, "is not the dataset's interaction"),
        ({"rating": 1.25}, "is not the dataset's interaction"),
        ({"item_id": "none"}, "is not the dataset's interaction"),
        ({"timestamp": 1}, "is not the dataset's interaction"),
    ],
)
def test_records_of_other_data_are_refused_first_and_last(dataset, index, changes, match):
    topic = damaged(written(dataset, 1, range(LENGTH), [50]), index, **changes)
    with pytest.raises(TopicError, match=match):
        resume_points(topic, dataset, range(LENGTH), 1)


def test_a_topic_that_got_more_partitions_is_refused(dataset):
    topic = written(dataset, 2, range(LENGTH), [LENGTH])
    topic.partitions += [[], [], []]
    with pytest.raises(TopicError, match="belongs to partition"):
        resume_points(topic, dataset, range(LENGTH), 5)


def test_out_of_order_at_the_tail_is_refused(dataset):
    topic = written(dataset, 1, range(LENGTH), [50])
    log = topic.partitions[0]
    log[-3], log[-2] = log[-2]._replace(offset=log[-3].offset), log[-3]._replace(offset=log[-2].offset)
    with pytest.raises(TopicError, match="follows"):
        resume_points(topic, dataset, range(LENGTH), 1)


def test_a_later_beginning_than_asked_for_is_refused_and_says_why(dataset):
    topic = written(dataset, 2, range(100, LENGTH), [LENGTH])
    with pytest.raises(TopicError, match="begins with sequence") as raised:
        resume_points(topic, dataset, range(LENGTH), 2)
    assert "--from" in raised.value.why
    topic.deleted = True
    with pytest.raises(TopicError) as raised:
        resume_points(topic, dataset, range(LENGTH), 2)
    assert "deleted" in raised.value.why


def test_an_earlier_beginning_is_gone_on_with_only_once_it_has_reached_the_new_one(dataset):
    topic = MemoryTopic(3)
    go_on(topic, dataset, range(100))
    go_on(topic, dataset, range(60, 150))
    assert sorted(s for log in topic.sequences() for s in log) == list(range(150))
    with pytest.raises(TopicError, match="before the first one asked for"):
        go_on(topic, dataset, range(180, LENGTH))


def test_a_moving_end_is_refused(dataset):
    topic = written(dataset, 2, range(LENGTH), [20])
    following = iter(list(lacking(dataset, range(LENGTH), resume_points(topic, dataset, range(LENGTH), 2), 2)))
    look = topic.high_watermarks

    def moving(partitions: int) -> list[int]:
        result = look(partitions)
        topic.append(*next(following), dataset.fingerprint)
        return result

    topic.high_watermarks = moving
    with pytest.raises(TopicError, match="something else is writing"):
        resume_points(topic, dataset, range(LENGTH), 2)


def test_an_empty_topic_needs_no_look_at_the_data(dataset):
    with tempfile.TemporaryDirectory() as folder:
        nothing_there = SortedDataset(name="x", fingerprint="y", folder=Path(folder), parts=dataset.parts)
        points = resume_points(MemoryTopic(3), nothing_there, range(5, 50), 3)
    assert points.following == {0: 5, 1: 5, 2: 5}
    assert (points.last, points.present) == ({}, 0)
