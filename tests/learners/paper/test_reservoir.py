"""Replayed validation: uniform over the whole past, with popularity as now and the rest as stored."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.errors import CheckpointError
from autoemb_pipeline.learners.paper.config import holdout_mask
from autoemb_pipeline.learners.paper.reservoir import Reservoir
from autoemb_pipeline.learners.paper.validation import Holdout
from autoemb_pipeline.records import Labels
from tests.learners.paper.batches import batch_of

BATCH = 20


def numbered(start, size=BATCH):
    """A mini-batch whose interactions carry the numbers start, start + 1, …"""
    inputs, labels = batch_of(start, size=size)
    names = [str(start + k) for k in range(size)]
    return replace(inputs, user_ids=names, item_ids=["item"] * size), labels


def fill(reservoir, events):
    for start in range(0, events, BATCH):
        inputs, labels = numbered(start)
        reservoir.add(inputs, labels, np.arange(BATCH))


def chi_square(observed, expected):
    return float(((observed - expected) ** 2 / expected).sum())


def test_every_interaction_is_held_with_the_same_probability():
    events, capacity, trials = 200, 20, 400
    held = np.zeros(events)
    for seed in range(trials):
        reservoir = Reservoir(capacity, seed)
        fill(reservoir, events)
        held[[int(user) for user, _ in reservoir.held]] += 1
    parts = held.reshape(10, -1).sum(axis=1)
    assert chi_square(parts, np.full(10, trials * capacity / 10)) < 27.9  # 9 degrees of freedom, p = .001


def test_samples_are_uniform_over_slots():
    reservoir = Reservoir(20, 1)
    fill(reservoir, 20)
    drawn = np.zeros(20)
    for _ in range(1000):
        inputs, _ = reservoir.sample(4)
        assert len(set(inputs.user_ids)) == 4
        drawn[[int(u) for u in inputs.user_ids]] += 1
    assert chi_square(drawn, np.full(20, 200.0)) < 43.8  # 19 degrees of freedom, p = .001


@settings(max_examples=30)
@given(st.integers(1, 50), st.lists(st.integers(1, 15), max_size=6))
def test_it_holds_all_until_full_and_never_more(capacity, sizes):
    reservoir, start = Reservoir(capacity, 0), 0
    for size in sizes:
        inputs, labels = numbered(start, size)
        reservoir.add(inputs, labels, np.arange(size))
        start += size
        assert len(reservoir) == min(start, capacity)
        assert reservoir.seen == start
        assert len(set(reservoir.held)) == len(reservoir)


def test_a_drawn_interaction_is_as_it_was_but_for_popularity():
    reservoir = Reservoir(100, 0)
    inputs, labels = batch_of(1, users=3, items=3)
    reservoir.add(inputs, labels, np.arange(8))
    later, later_labels = batch_of(2, users=3, items=3)
    later = replace(later, users=replace(later.users, count=np.arange(8) + 1000.0), items=replace(later.items, count=np.arange(8) + 2000.0))
    reservoir.add(later, later_labels, np.arange(8))
    sample, sample_labels = reservoir.sample(100)
    now = {("u", i): c + 1 for i, c in zip(later.user_ids, later.users.count, strict=True)}
    now |= {("i", i): c + 1 for i, c in zip(later.item_ids, later.items.count, strict=True)}
    stored = [(inputs, labels, k) for k in range(8)] + [(later, later_labels, k) for k in range(8)]
    for row in range(16):
        matches = [(s, one, k) for s, one, k in stored if np.array_equal(s.features[k], sample.features[row])]
        assert len(matches) == 1
        source, wanted, k = matches[0]
        assert (sample.user_ids[row], sample.item_ids[row]) == (source.user_ids[k], source.item_ids[k])
        assert sample_labels.binary[row] == wanted.binary[k]
        assert sample_labels.classes[row] == wanted.classes[k]
        np.testing.assert_array_equal(sample.users.previous_weights[row], source.users.previous_weights[k])
        assert sample.items.previous_loss[row] / sample.global_loss == source.items.previous_loss[k] / source.global_loss
        assert sample.users.fading_loss[row] / sample.global_loss == source.users.fading_loss[k] / source.global_loss
        if ("u", sample.user_ids[row]) in now:
            assert sample.users.count[row] == now["u", sample.user_ids[row]]
        if ("i", sample.item_ids[row]) in now:
            assert sample.items.count[row] == now["i", sample.item_ids[row]]


def test_counts_are_kept_for_held_ids_only():
    reservoir = Reservoir(5, 0)
    fill(reservoir, 400)
    assert len(reservoir._users._count) == 5
    assert set(reservoir._users._count) == {user for user, _ in reservoir.held}


def test_rows_left_out_are_never_held():
    reservoir = Reservoir(100, 0)
    inputs, labels = numbered(0)
    reservoir.add(inputs, labels, np.arange(0, BATCH, 2))
    assert {int(user) % 2 for user, _ in reservoir.held} == {0}


@pytest.mark.parametrize("events", [0, 20, 200])
def test_a_restored_reservoir_goes_on_alike(events):
    one, other = Reservoir(30, 3), Reservoir(30, 99)
    fill(one, events)
    other.load_state_dict(one.state_dict())
    for start in (1000, 1020):
        for reservoir in (one, other):
            inputs, labels = numbered(start)
            reservoir.add(inputs, labels, np.arange(BATCH))
    assert one.held == other.held
    (a, la), (b, lb) = one.sample(10), other.sample(10)
    assert a.user_ids == b.user_ids
    np.testing.assert_array_equal(a.users.count, b.users.count)
    np.testing.assert_array_equal(la.binary, lb.binary)


def test_a_larger_checkpoint_is_refused():
    large = Reservoir(30, 0)
    fill(large, 40)
    with pytest.raises(CheckpointError, match="reservoir"):
        Reservoir(10, 0).load_state_dict(large.state_dict())


def test_an_empty_reservoir_has_no_sample():
    assert Reservoir(5, 0).sample(3) is None


def test_holdout_masks_are_functions_of_seed_and_step():
    first, again = (holdout_mask(1000, fraction=0.1, seed=1, step=7) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert 60 < first.sum() < 140
    assert not np.array_equal(first, holdout_mask(1000, fraction=0.1, seed=1, step=8))
    assert not np.array_equal(first, holdout_mask(1000, fraction=0.1, seed=2, step=7))


def test_holdout_gives_the_held_out_interactions():
    held_out = np.arange(8) % 2 == 1
    inputs, labels = batch_of(0, held_out=held_out)
    sample, wanted = Holdout().next(inputs, labels)
    assert sample.user_ids == inputs.user_ids[1::2]
    np.testing.assert_array_equal(wanted.binary, labels.binary[1::2])
    assert Holdout().next(replace(inputs, held_out=np.zeros(8, dtype=bool)), Labels(binary=labels.binary, classes=labels.classes)) is None
