import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline.learners.stream.micro_batches import micro_batches

EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=40)


def parts_of(events: list[tuple[int, int, int]], mode: str, size: int) -> list[np.ndarray]:
    users, items, times = zip(*events, strict=True)
    return micro_batches([f"u{u}" for u in users], [f"i{i}" for i in items], times, mode=mode, size=size)


@given(events=EVENTS, mode=st.sampled_from(["batch", "event", "strict"]), size=st.integers(1, 12))
def test_every_interaction_stands_in_one_part(events, mode, size):
    parts = parts_of(events, mode, size)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(events)))


@given(events=EVENTS)
def test_waves_keep_the_order_of_interactions_that_share_an_id(events):
    parts = parts_of(events, "event", 1)
    wave = {int(k): n for n, part in enumerate(parts) for k in part}
    for later, (user, item, _) in enumerate(events):
        for earlier in range(later):
            if events[earlier][0] == user or events[earlier][1] == item:
                assert wave[earlier] < wave[later]


@given(events=EVENTS, size=st.integers(1, 12))
def test_strict_parts_only_let_through_earlier_timestamps(events, size):
    parts = parts_of(events, "strict", size)
    for n, part in enumerate(parts[1:], start=1):
        known = np.concatenate(parts[:n])
        assert max(events[k][2] for k in known) < min(events[k][2] for k in part)


@given(events=EVENTS, size=st.integers(2, 12))
def test_event_parts_are_runs_of_the_size_asked_for(events, size):
    parts = parts_of(events, "event", size)
    assert np.concatenate(parts).tolist() == list(range(len(events)))
    assert all(len(part) == size for part in parts[:-1])


def test_batch_mode_is_one_part():
    assert [p.tolist() for p in parts_of([(0, 0, 1), (0, 1, 2)], "batch", 1)] == [[0, 1]]


@pytest.mark.parametrize(("mode", "expected"), [("event", [[0, 2], [1]]), ("strict", [[0, 1], [2]])])
def test_examples(mode, expected):
    assert [p.tolist() for p in parts_of([(0, 0, 1), (0, 1, 1), (1, 2, 5)], mode, 1)] == expected
